"""One MQTT connection, driven by the thread that owns it; what happens on it comes back as events.

paho-mqtt speaks the protocol; its own thread, reconnects and resends are not used. A link that decides by
itself what to send again must not have a second memory of unsent messages underneath.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt.client import (
    MQTT_CLEAN_START_FIRST_ONLY,
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from driftpost_sync.clock import EARLIEST_WALL_MS, Clock
from driftpost_sync.errors import LinkError
from driftpost_sync.messages import MAX_READ_BYTES
from driftpost_sync.mqtt_settings import MqttSettings, Protocol

# A password is a line; anything larger is the wrong file.
_MAX_PASSWORD_BYTES = 64 * 1024
# Packets read in one round, so that neither what is to be sent nor the keep-alive waits for a flood.
_PACKETS = 32
# Largest packet that a version 5 broker may send us: a message with its topic and properties.
_MAX_PACKET_BYTES = MAX_READ_BYTES + 4096
# Reason codes of MQTT 5; paho translates those of 3.1.1.
_REFUSED_VERSION = 0x84
MALFORMED_PACKET = 0x81


@dataclass(frozen=True)
class Will:
    """What the broker publishes (QoS 1, retained) when the connection dies."""

    topic: str
    payload: bytes
    delay_s: int


@dataclass(frozen=True)
class Connected:
    """The broker accepted. Its limits: messages in flight, and bytes a packet may have (None: no limit)."""

    protocol: Protocol
    receive_maximum: int
    maximum_packet: int | None


@dataclass(frozen=True)
class Received:
    """A message arrived; `mid` is for `Connection.acknowledge`."""

    topic: str
    payload: bytes
    retain: bool
    mid: int
    qos: int


@dataclass(frozen=True)
class Published:
    """The broker answered a publish: 0 is success, others are MQTT 5 reason codes."""

    mid: int
    code: int


@dataclass(frozen=True)
class Subscribed:
    """The broker answered a subscription: `refused` lists the filters it did not grant."""

    refused: tuple[str, ...]


@dataclass(frozen=True)
class Lost:
    """The connection is gone, or was never accepted.

    Attributes:
        code: MQTT 5 reason code, 0 if there is none.
        text: for a person.
        answered: whether the broker had answered the connect at all.
        refused_version: whether it refused the protocol version.
    """

    code: int
    text: str
    answered: bool
    refused_version: bool = False


Event = Connected | Received | Published | Subscribed | Lost


class Connection:
    """A single connection attempt and its life. Not thread-safe, but for `wake` of the `Waker` it polls.

    Args:
        settings: where and how.
        version: "5" or "3.1.1".
        client_id: MQTT client identifier.
        will: published if the connection dies.
        session_expiry_s: how long the broker keeps the session (version 5 only; 3.1.1 starts clean).
        receive_maximum: messages the broker may have unacknowledged towards us (version 5 only).
        manual_ack: whether received messages are acknowledged with `acknowledge` rather than at once.
    """

    def __init__(
        self,
        settings: MqttSettings,
        version: Protocol,
        client_id: str,
        will: Will,
        *,
        session_expiry_s: int,
        receive_maximum: int,
        manual_ack: bool = False,
    ) -> None:
        self._settings = settings
        self._version = version
        self._events: list[Event] = []
        self._filters: dict[int, tuple[str, ...]] = {}
        self._answered = False
        self._lost = False
        five = version == "5"
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if five else True,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=manual_ack,
        )
        self._client.max_inflight_messages_set(0)  # bounded by the caller, who knows what is in flight
        self._client.connect_timeout = settings.connect_timeout_s
        will_properties: Properties | None = None
        self._connect_properties: Properties | None = None
        if five:
            will_properties = _properties(PacketTypes.WILLMESSAGE)
            will_properties.WillDelayInterval = will.delay_s
            self._connect_properties = _properties(PacketTypes.CONNECT)
            self._connect_properties.SessionExpiryInterval = session_expiry_s
            self._connect_properties.ReceiveMaximum = receive_maximum
            self._connect_properties.MaximumPacketSize = _MAX_PACKET_BYTES
        self._client.will_set(will.topic, will.payload, qos=1, retain=True, properties=will_properties)
        if settings.username is not None:
            self._client.username_pw_set(settings.username, read_password(settings.password_file))
        self._tls = tls_context(settings) if settings.uses_tls else None
        if self._tls is not None:
            self._client.tls_set_context(self._tls)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        if not manual_ack:
            self._client.on_log = self._on_log

    def open(self) -> None:
        """Connect the socket and send CONNECT; the broker's answer comes as an event.

        Raises:
            OSError: no connection (refused, unreachable, TLS); `explain` makes a sentence of it.
        """
        try:
            self._client.connect(
                self._settings.host,
                self._settings.port,
                self._settings.keepalive_s,
                clean_start=False if self._version == "5" else MQTT_CLEAN_START_FIRST_ONLY,
                properties=self._connect_properties,
            )
        except OSError:
            if self._tls is not None:
                self._tls.close_last()
            raise

    def poll(self, timeout_s: float, waker: Waker, *, reading: bool = True) -> list[Event]:
        """Wait for traffic, at most `timeout_s` or until woken, and return what happened.

        Without `reading` whatever the broker has to say stays in the socket, and soon with the broker. After
        two keep-alive intervals the connection is given up, as its answer to our ping is not read either.
        """
        sock = self._client.socket()
        if sock is None:
            self._lose(0, "connection closed")
            return self._take()
        if reading and isinstance(sock, ssl.SSLSocket) and sock.pending():
            timeout_s = 0.0
        # poll(2) and not select(2), which can not watch descriptors above 1023.
        poller = select.poll()
        wanted = select.POLLOUT if self._client.want_write() else 0
        poller.register(sock, wanted | (select.POLLIN if reading else 0))
        poller.register(waker.descriptor, select.POLLIN)
        ready = dict(poller.poll(max(timeout_s, 0.0) * 1000))
        if waker.descriptor in ready:
            waker.clear()
        readable = ready.get(sock.fileno(), 0)
        if readable & ~select.POLLOUT or (reading and isinstance(sock, ssl.SSLSocket) and sock.pending()):
            self._client.loop_read()
            # paho reads a packet a call; what waits behind it needs no round of its own.
            for _ in range(_PACKETS - 1):
                sock = self._client.socket()
                if sock is None or not reading or not _readable(sock.fileno()):
                    break
                self._client.loop_read()
        if readable & select.POLLOUT and self._client.socket() is not None:
            self._client.loop_write()
        if self._client.socket() is not None:
            self._client.loop_misc()
        return self._take()

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> int:
        """Send, by default with QoS 1; the number returned comes back in `Published`."""
        return self._client.publish(topic, payload, qos=qos, retain=retain).mid

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe with QoS 1; the answer comes as `Subscribed`."""
        code, mid = self._client.subscribe([(name, 1) for name in filters])
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS and mid is not None:
            self._filters[mid] = tuple(filters)

    def acknowledge(self, mid: int, qos: int) -> None:
        """Tell the broker that a received message is dealt with (`manual_ack` only)."""
        self._client.ack(mid, qos)

    def close(self, *, flush_s: float = 0.0) -> None:
        """Say goodbye and close; waits at most `flush_s` for bytes that are still to be written.

        The broker discards the will of a client that says goodbye, so presence is published before.
        """
        self._client.on_disconnect = None
        with contextlib.suppress(OSError, ValueError):
            self._say_goodbye(flush_s)
        # paho has no public way to close the socket of a client whose loop is not running any more.
        sock = self._client.socket()
        if sock is not None:
            sock.close()

    def _say_goodbye(self, flush_s: float) -> None:
        sock = self._client.socket()
        if sock is None:
            return
        self._client.disconnect()
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        while self._client.want_write() and poller.poll(flush_s * 1000):
            self._client.loop_write()
        if flush_s:
            # The broker closes when it has read the goodbye; closing first could reset what it still reads.
            poller.modify(sock, select.POLLIN)
            while poller.poll(flush_s * 1000) and sock.recv(4096):
                pass

    # Callbacks, called by paho from within `poll`

    def _on_log(self, _client: Client, _userdata: object, _level: int, text: str) -> None:
        # paho gives no other sign of it. Mosquitto refuses a message that is too large with a code that the
        # standard does not allow there, which paho takes for a malformed packet.
        if text.startswith("Received malformed packet"):
            self._lose(MALFORMED_PACKET, "the broker sent a malformed packet")

    def _on_connect(
        self,
        _client: Client,
        _userdata: object,
        _flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._answered = True
        if reason.is_failure:
            code = int(reason.value)
            self._lose(code, f"the broker refused: {reason}", refused_version=code == _REFUSED_VERSION)
            return
        self._events.append(
            Connected(
                self._version,
                int(getattr(properties, "ReceiveMaximum", 65_535)),
                getattr(properties, "MaximumPacketSize", None),
            )
        )

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._lose(int(reason.value), f"the broker ended the connection: {reason}")
        else:
            self._lose(
                0, "the connection was lost" if self._answered else "the broker hung up without an answer"
            )

    def _lose(self, code: int, text: str, *, refused_version: bool = False) -> None:
        if not self._lost:
            self._lost = True
            self._events.append(Lost(code, text, self._answered, refused_version))

    def _on_publish(
        self,
        _client: Client,
        _userdata: object,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._events.append(Published(mid, int(reason.value)))

    def _on_subscribe(
        self,
        _client: Client,
        _userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        filters = self._filters.pop(mid, ())
        self._events.append(
            Subscribed(
                tuple(name for name, reason in zip(filters, reasons, strict=False) if reason.is_failure)
            )
        )

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""  # is no topic of ours; whoever parses it says so
        self._events.append(Received(topic, bytes(message.payload), message.retain, message.mid, message.qos))


def _readable(descriptor: int) -> bool:
    """Whether something can be read at once."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


def _properties(packet_type: int) -> Properties:
    return Properties(packet_type)  # type: ignore[no-untyped-call] # paho leaves this constructor untyped


class Waker:
    """Wakes a polling thread from another one."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    @property
    def descriptor(self) -> int:
        """To be watched for reading."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the poll that is running, or the next one, return at once; from any thread."""
        # Full: it is going to wake anyway. Closed: there is nobody left to wake.
        with contextlib.suppress(BlockingIOError, OSError):
            self._writer.send(b"\0")

    def wait(self, timeout_s: float) -> None:
        """Sleep for `timeout_s` or until woken."""
        poller = select.poll()
        poller.register(self.descriptor, select.POLLIN)
        if poller.poll(max(timeout_s, 0.0) * 1000):
            self.clear()

    def clear(self) -> None:
        """Forget the wakes so far."""
        with contextlib.suppress(BlockingIOError):
            while len(self._reader.recv(4096)) == 4096:
                pass

    def close(self) -> None:
        """Give the descriptors back."""
        self._reader.close()
        self._writer.close()


def explain(error: Exception, settings: MqttSettings, clock: Clock) -> str:
    """One sentence for a person about why there is no connection."""
    where = f"{settings.host}:{settings.port}"
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"{where}: certificate refused: {error.verify_message}"
        wall = clock.wall_ms()
        if wall is None or wall < EARLIEST_WALL_MS:
            text += " (this device's clock is not known to be good; set it first)"
        return text
    if isinstance(error, ssl.SSLError):
        return f"{where}: TLS failed: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return f"{settings.host}: name not found ({error.strerror})"
    if isinstance(error, TimeoutError):
        return f"{where}: no answer within {settings.connect_timeout_s:g} s"
    if isinstance(error, OSError):
        return f"{where}: {error.strerror or error}"
    return f"{where}: {error}"


def check_files(settings: MqttSettings) -> None:
    """Read everything a connect will need, so that a wrong path is known at start.

    Raises:
        LinkError: a file is missing or no use; names the setting.
    """
    read_password(settings.password_file)
    if settings.uses_tls:
        tls_context(settings)


def read_password(path: Path | None) -> str | None:
    """First line of a password file, None for None.

    Raises:
        LinkError: it can not be read.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            line = file.readline(_MAX_PASSWORD_BYTES + 1)
        if len(line) > _MAX_PASSWORD_BYTES:
            raise LinkError(
                f"mqtt.password_file {path} has a line beyond any password; is it the right file?"
            )
        return line.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise LinkError(f"mqtt.password_file {path} is not UTF-8 text") from error
    except OSError as error:
        raise LinkError(f"mqtt.password_file {path} can not be read: {error.strerror}") from error


class TlsContext(ssl.SSLContext):
    """Remembers the socket it wrapped last: paho forgets it, open, when the handshake fails."""

    _last: ssl.SSLSocket | None = None

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        """As in the base class."""
        self._last = super().wrap_socket(*args, **options)
        return self._last

    def close_last(self) -> None:
        """Close the socket wrapped last."""
        if self._last is not None:
            self._last.close()


def tls_context(settings: MqttSettings) -> TlsContext:
    """What a connection is encrypted with, as the settings say.

    Raises:
        LinkError: a file is missing or no use; names the setting.
    """
    context = TlsContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate and its name
    try:
        if settings.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=str(settings.ca))
    except (OSError, ssl.SSLError) as error:
        raise LinkError(f"mqtt.ca {settings.ca} is no readable PEM file of certificates: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert is not None and settings.key is not None:
        try:
            context.load_cert_chain(str(settings.cert), str(settings.key))
        except (OSError, ssl.SSLError) as error:
            raise LinkError(
                f"mqtt.cert {settings.cert} and mqtt.key {settings.key} are no readable pair: {error}"
            ) from error
    return context
