"""Serving the dashboard in one named thread that ends on the exit event, open live streams and all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import uvicorn
from sqlalchemy import Engine

from driftpost_aggregator.errors import ConfigurationError
from driftpost_aggregator.web.app import build, unix_ms
from driftpost_aggregator.web.options import WebOptions
from driftpost_aggregator.web.site import Site

# Requests under way get this long to finish when the server stops, seconds.
GRACE_S = 3
# Connections at once; beyond it a person waits for another to finish, and the process keeps its memory.
MAX_CONNECTIONS = 1024
_BACKLOG = 128


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, site: Site, exit_event: threading.Event, ready: threading.Event
    ) -> None:
        super().__init__(config)
        self._site = site
        self._exit_event = exit_event
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    async def on_tick(self, counter: int) -> bool:
        if self._exit_event.is_set():
            # Live streams never end by themselves; the server would wait for them in vain.
            self._site.watcher.close()
            return True
        return await super().on_tick(counter)


class WebServer:
    """The dashboard's HTTP server.

    Args:
        engine: The aggregator's database.
        options: How to serve.
        exit_event: Ends it when set.
        now_ms: Unix time, milliseconds.

    Raises:
        ConfigurationError: the address can not be listened on.
    """

    def __init__(
        self,
        engine: Engine,
        options: WebOptions,
        exit_event: threading.Event,
        *,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._exit_event = exit_event
        self._ready = threading.Event()
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        try:
            self._socket = socket.create_server(
                (options.host.strip("[]"), options.port), family=family, backlog=_BACKLOG
            )
        except OSError as error:
            raise ConfigurationError(
                "web.port",
                f"can not listen on {options.host}:{options.port} ({error.strerror or error}); "
                "stop what listens there, or choose another address",
            ) from error
        # asyncio does this only for sockets that name their protocol; connections inherit it from here.
        # Without it every answer in two parts waits 40 ms for a delayed acknowledgement.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        app = build(engine, options, now_ms=now_ms)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=True,
            lifespan="on",
            timeout_graceful_shutdown=GRACE_S,
            limit_concurrency=MAX_CONNECTIONS,
            log_config=None,
        )
        self._server = _Server(config, app.state.site, exit_event, self._ready)
        self._thread = threading.Thread(target=self._run, name="driftpost-web", daemon=True)
        self._options = options

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        host = self._options.host
        if host in ("", "0.0.0.0", "::"):
            host = socket.gethostname()
        return f"http://{f'[{host}]' if ':' in host else host}:{self._socket.getsockname()[1]}/"

    def start(self, timeout_s: float = 10.0) -> None:
        """Serve; returns when it answers.

        Raises:
            TimeoutError: it did not start within `timeout_s`.
        """
        self._thread.start()
        if not self._ready.wait(timeout_s):
            raise TimeoutError(f"the dashboard did not start within {timeout_s:g} s")

    @property
    def alive(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive()

    def stop(self, timeout_s: float = GRACE_S + 5.0) -> None:
        """Set the exit event and wait for the thread.

        Raises:
            TimeoutError: it did not end within `timeout_s`.
        """
        self._exit_event.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self._socket.close()
        if self._thread.is_alive():
            raise TimeoutError(f"the dashboard did not stop within {timeout_s:g} s")

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])
