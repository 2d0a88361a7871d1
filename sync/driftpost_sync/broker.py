"""A small MQTT broker inside Python, for demos and trials on one machine.

It stands on amqtt, which speaks MQTT 3.1.1 only, keeps nothing over a restart, and grants shared
subscriptions without ever delivering to them. driftpost's own acknowledgements make up for the first two; a
real fleet runs Mosquitto or a cluster (`deploy/`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import importlib.util
import ipaddress
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from driftpost_sync.connection import read_password
from driftpost_sync.errors import BrokerUnavailable

if TYPE_CHECKING:
    from amqtt.broker import Broker

log = logging.getLogger(__name__)

_INSTALL = "the embedded broker needs the package amqtt: pip install 'driftpost[broker]'"
# Binding takes milliseconds; a name that does not resolve may take a resolver's timeout.
_START_S = 15.0
_STOP_S = 5.0
# Turns of the event loop in which an accepted socket has become a client; asyncio needs three.
_SETTLE_TURNS = 10
_LISTENER = "default"
# A client that connects has this long to say so, s.
_CONNECT_S = 10.0
_MQTT_3_1_1 = 4
# CONNACK of MQTT 5 with reason 0x84, unsupported protocol version.
_REFUSAL = b"\x20\x03\x00\x84\x00"
WARNING = (
    "This broker is for demos and trials on one machine: it keeps nothing over a restart and does not scale. "
    "Run Mosquitto or a cluster for a fleet."
)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class EmbeddedBroker:
    """The broker in a thread of its own.

    Args:
        host: address to listen on. Without credentials only a loopback address is accepted.
        port: to listen on; 0 picks a free one.
        username, password: what every client must present, if given.

    Raises:
        BrokerUnavailable: amqtt is missing, or the address would be open to anyone.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        if importlib.util.find_spec("amqtt") is None:
            raise BrokerUnavailable(_INSTALL)
        if (username is None) != (password is None):
            raise BrokerUnavailable("a user name and a password go together; give both")
        if username is None and not _is_loopback(host):
            raise BrokerUnavailable(
                f"{host} can be reached from other machines, and without credentials anyone could connect; "
                "give --username and --password-file, or listen on 127.0.0.1"
            )
        self.host = host
        self.port = port
        self._credentials = None if username is None or password is None else (username, password)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="driftpost-broker", daemon=True)

    def start(self) -> None:
        """Start, and return once it accepts connections.

        Raises:
            BrokerUnavailable: the address can not be used.
        """
        self._thread.start()
        self._started.wait(_START_S)
        if self._error is not None or not self._started.is_set():
            self._thread.join(_STOP_S)
            why = self._error or "no answer"
            raise BrokerUnavailable(
                f"cannot listen on {self.host}:{self.port}, choose another --port: {why}"
            ) from self._error

    def stop(self) -> bool:
        """Close every connection and end; whether the thread ended in time."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            self._error = error.__cause__ or error
            log.debug("the broker ended", exc_info=True)
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._loop.set_exception_handler(_quietly)
        broker = _make_broker(self._credentials)
        await broker.start()
        clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(_client(broker, reader, writer))
            clients[task] = writer
            task.add_done_callback(clients.pop)

        # The sockets are ours and not the library's, which leaves some of them open behind it.
        server = await asyncio.start_server(accept, self.host, self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        try:
            await self._stop.wait()
        finally:
            # Accept no more, but let what is accepted become a client: asyncio leaks a socket whose server is
            # closed in the middle of that.
            for listening in server.sockets:
                self._loop.remove_reader(listening.fileno())
            for _ in range(_SETTLE_TURNS):
                await asyncio.sleep(0)
            server.close()
            await broker.shutdown()
            for writer in list(clients.values()):
                writer.close()
            if clients:
                await asyncio.wait(list(clients), timeout=1)


async def _client(broker: Broker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    from amqtt.adapters import StreamWriterAdapter  # noqa: PLC0415 - part of the extra

    from driftpost_sync.broker_amqtt import Rewound  # noqa: PLC0415 - needs the extra

    try:
        head, level = await asyncio.wait_for(_protocol_level(reader), _CONNECT_S)
        if level > _MQTT_3_1_1:
            # amqtt would wait for bytes that never come; the client should know at once and fall back.
            writer.write(_REFUSAL)
            await writer.drain()
            return
        await broker.external_connected(Rewound(head, reader), StreamWriterAdapter(writer), _LISTENER)
    except Exception:
        log.debug("a client's connection failed", exc_info=True)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _protocol_level(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """The first bytes of a CONNECT up to its protocol level, and that level."""
    head = await reader.readexactly(2)
    while head[-1] & 0x80 and len(head) < 5:  # the remaining length, 1 to 4 bytes
        head += await reader.readexactly(1)
    head += await reader.readexactly(7)  # length 4, "MQTT", level
    return head, head[-1]


def _make_broker(credentials: tuple[str, str] | None) -> Broker:
    from amqtt.broker import Broker  # noqa: PLC0415 - part of the extra

    # To the library a client that goes away is an error; here it is everyday life, and the client says so.
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    plugins: dict[str, dict[str, str]] = {}
    if credentials is None:
        plugins["amqtt.plugins.authentication.AnonymousAuthPlugin"] = {}
    else:
        plugins["driftpost_sync.broker_amqtt.OnePassword"] = dict(
            zip(("username", "password"), credentials, strict=True)
        )
    return Broker({"listeners": {_LISTENER: {"type": "external"}}, "plugins": plugins})


def _quietly(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What the library leaves behind when clients vanish is no error of ours."""
    log.debug("in the broker: %s", context.get("message"), exc_info=context.get("exception") is not None)


def same(given: str | None, expected: str) -> bool:
    """Compare a credential in constant time."""
    return given is not None and hmac.compare_digest(given.encode(), expected.encode())


def serve(embedded: EmbeddedBroker, said: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT."""
    ended = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        embedded.start()
        said(f"MQTT 3.1.1 broker listening on {embedded.host}:{embedded.port}")
        said(WARNING)
        ended.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        embedded.stop()


@click.group()
def broker() -> None:
    """Run a small MQTT broker for demos and trials."""


@broker.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=1883, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 picks a free one."
)
@click.option("--username", help="Name that every client must log in with.")
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File whose first line is the password.",
)
def run(host: str, port: int, username: str | None, password_file: Path | None) -> None:
    """Run the embedded broker until it is stopped."""
    password = None if password_file is None else read_password(password_file)
    serve(EmbeddedBroker(host, port, username=username, password=password), click.echo)
