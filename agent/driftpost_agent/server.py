"""The local inference server: Open Inference Protocol v2, a status page, and metrics for Prometheus.

It listens on loopback unless told otherwise, one thread a connection, HTTP/1.1 with keep-alive. Everything a
client can make large or slow is bounded: connections, the request's size, and the time it may take to arrive.
"""

from __future__ import annotations

import io
import json
import logging
import socket
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any, Protocol, cast
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from driftpost_agent.errors import RequestRefused
from driftpost_agent.inference_protocol import (
    HEADER_LENGTH,
    decode_request,
    encode_response,
)
from driftpost_agent.label_checks import Label
from driftpost_agent.label_requests import decode_labels
from driftpost_agent.verdict import GuardedResult

log = logging.getLogger(__name__)

# Seconds an idle or stalled connection is kept: long enough for a camera that sends one frame a minute.
IDLE_TIMEOUT_S = 75.0
# Seconds in which a request must have arrived whole once it has begun: 32 MiB at 4 Mbit/s, and a little more.
ARRIVAL_S = 75.0
# Seconds between two looks at the stop flag, and between two proofs that the accept loop is alive.
POLL_S = 0.5
# A request larger than this is refused before it is read: 32 MiB is a 2048 x 1365 RGB image in float32.
DEFAULT_MAX_REQUEST_BYTES = 32 << 20
# One thread and about 100 kB for each; a device's clients are its own camera processes.
DEFAULT_MAX_CONNECTIONS = 32
# Bytes of a body that a GET carries for nothing which are read, to keep the connection; more closes it.
MAX_PASSED_OVER_BYTES = 64 << 10

_EXTENSIONS = ("binary_tensor_data",)


class Service(Protocol):
    """What the server needs from the daemon; all of it may be called from many threads."""

    def model_metadata(self) -> dict[str, Any]:
        """The model's metadata as the protocol words it: name, versions, platform, inputs, outputs."""

    def infer(self, inputs: Mapping[str, NDArray[Any]], inference_id: str) -> GuardedResult:
        """One guarded call.

        Raises:
            RequestRefused: it can't be served; carries the HTTP status.
        """

    def label(self, pairs: Sequence[tuple[str, Label | list[Label]]]) -> dict[str, int]:
        """Compare labels with remembered answers: how many inferences were known, and how many were not.

        Raises:
            RequestRefused: a label is no class.
        """

    def ready(self) -> bool:
        """Whether inferences are being served now."""

    def status(self) -> dict[str, Any]:
        """Everything `driftpost agent status` shows, as plain types."""

    def metrics(self) -> str:
        """The same in Prometheus' text format."""


class InferenceServer(ThreadingHTTPServer):
    """Serves one `Service`; `serve_forever` runs in a thread that the daemon names and owns."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int],
        service: Service,
        *,
        max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        progress: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.service = service
        self.max_request_bytes = max_request_bytes
        self._progress = progress
        self._monotonic = monotonic
        self._slots = threading.BoundedSemaphore(max_connections)
        self._in_flight: dict[int, float] = {}
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, Handler)

    @property
    def port(self) -> int:
        """The port it listens on, also when 0 was asked for."""
        return int(self.server_address[1])

    def oldest_request_s(self) -> float:
        """How long the longest running inference has been under way, in seconds; 0 when there is none."""
        with self._lock:
            return max((self._monotonic() - start for start in self._in_flight.values()), default=0.0)

    def service_actions(self) -> None:
        """Called by the accept loop at least every POLL_S: the proof that it still turns."""
        self._progress()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a named thread for a connection, or turn it away when all places are taken."""
        if not self._slots.acquire(blocking=False):
            self._turn_away(request)
            return
        with self._lock:
            self._open.add(request)
        thread = threading.Thread(
            target=self._serve_connection,
            args=(request, client_address),
            name="server-connection",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:
            # The system has no thread left now; without giving its place back it would be missed for good.
            self._leave(request)
            raise

    def _serve_connection(self, request: Any, client_address: Any) -> None:
        try:
            self.process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def _leave(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        self._slots.release()

    def _turn_away(self, request: Any) -> None:
        body = b'{"error":"too many connections; reuse one, or raise server.max_connections"}'
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            f"Retry-After: 1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            request.settimeout(1.0)
            request.sendall(head.encode() + body)
        except OSError:
            pass
        finally:
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not an event; anything else is logged with its traceback."""
        log.exception("connection failed", extra={"client": str(client_address)})

    def close_connections(self) -> None:
        """Stop listening and end idle connections, so that a clean stop does not wait for their timeout."""
        self.server_close()
        with self._lock:
            open_now = list(self._open)
        for connection in open_now:
            try:
                connection.shutdown(socket.SHUT_RD)
            except OSError:
                continue

    def timed_inference(self, inputs: Mapping[str, NDArray[Any]], inference_id: str) -> GuardedResult:
        """Run one inference, keeping account of how long it has been under way."""
        key = threading.get_ident()
        with self._lock:
            self._in_flight[key] = self._monotonic()
        try:
            return self.service.infer(inputs, inference_id)
        finally:
            with self._lock:
                del self._in_flight[key]


class _Arrivals(socket.SocketIO):
    """Reads a connection on which a request that has begun must be whole in time.

    A timeout of the socket alone starts anew with every byte: a client could hold its place for ever.
    """

    def __init__(self, connection: socket.socket, idle_s: float) -> None:
        super().__init__(connection, "r")
        self._connection = connection
        self._idle_s = idle_s
        self._deadline: float | None = None

    def expect_request(self) -> None:
        """What comes next begins another request, whenever it comes."""
        self._deadline = None

    def readinto(self, buffer: Any) -> int | None:
        """As the base class.

        Raises:
            TimeoutError: nothing came, or the request took too long to arrive.
        """
        wait = self._idle_s
        if self._deadline is not None:
            wait = min(wait, max(self._deadline - time.monotonic(), 1e-3))
        self._connection.settimeout(wait)
        size = super().readinto(buffer)
        self._connection.settimeout(self._idle_s)
        if self._deadline is None:
            self._deadline = time.monotonic() + ARRIVAL_S
        return size


class Handler(BaseHTTPRequestHandler):
    """One connection of the inference server."""

    protocol_version = "HTTP/1.1"
    server_version = f"driftpost/{version('driftpost')}"
    sys_version = ""
    timeout = IDLE_TIMEOUT_S
    # Small answers must not wait for the client's delayed acknowledgement.
    disable_nagle_algorithm = True
    # Head and body leave in one segment.
    wbufsize = 1 << 16

    @property
    def _server(self) -> InferenceServer:
        return cast(InferenceServer, self.server)

    def setup(self) -> None:
        """As the base class, with a bound on how long a request may take to arrive."""
        super().setup()
        self.rfile.close()
        self._arrivals = _Arrivals(self.connection, self.timeout)
        self.rfile = io.BufferedReader(self._arrivals)

    def do_GET(self) -> None:
        """Metadata, health, status and metrics."""
        self._pass_over_body()
        self._answer(self._get)

    def do_POST(self) -> None:
        """Inference."""
        self._answer(self._post)

    def handle_one_request(self) -> None:
        """As the base class, but a client that goes away ends the connection quietly."""
        self._arrivals.expect_request()
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def handle_expect_100(self) -> bool:
        """As the base class, but the word is sent at once: a client waits for it with a large body."""
        carry_on = super().handle_expect_100()
        self.wfile.flush()
        return carry_on

    def _answer(self, respond: Callable[[str], None]) -> None:
        try:
            respond(_path(self.path))
        except RequestRefused as error:
            if error.status in {400, 404} and self.command == "POST" and not self._body_read:
                # What was not read would be taken for the next request.
                self.close_connection = True
            self._send_json({"error": error.problem}, error.status)
        except sqlite3.Error as error:
            self._send_json({"error": f"the store can't be read now: {error}"}, 503)

    _body_read = False

    def _get(self, path: str) -> None:
        service = self._server.service
        if path == "/v2":
            self._send_json(
                {"name": "driftpost", "version": version("driftpost"), "extensions": list(_EXTENSIONS)}
            )
        elif path == "/v2/health/live":
            self._send_json({"live": True})
        elif path == "/v2/health/ready":
            ready = service.ready()
            self._send_json({"ready": ready}, 200 if ready else 503)
        elif path == "/status":
            self._send_json(service.status())
        elif path == "/metrics":
            self._send(
                service.metrics().encode(), {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
            )
        elif path.startswith("/v2/models/"):
            action = self._model_path(path)
            if action == "":
                self._send_json(service.model_metadata())
            elif action == "ready":
                ready = service.ready()
                self._send_json(
                    {"name": service.model_metadata()["name"], "ready": ready}, 200 if ready else 503
                )
            elif action == "infer":
                raise RequestRefused("inference is a POST", 405)
            else:
                raise RequestRefused(f"there is nothing at {path}", 404)
        else:
            raise RequestRefused(f"there is nothing at {path or '/'}; try /v2 or /status", 404)

    def _post(self, path: str) -> None:
        self._body_read = False
        body = self._body()
        self._body_read = True
        if path == "/labels":
            self._send_json(self._server.service.label(decode_labels(body)))
            return
        if not path.startswith("/v2/models/") or self._model_path(path) != "infer":
            raise RequestRefused(
                f"nothing can be posted to {path}; inference: /v2/models/NAME/infer, labels: /labels", 404
            )
        request = decode_request(body, self.headers.get(HEADER_LENGTH))
        result = self._server.timed_inference(request.inputs, request.id)
        metadata = self._server.service.model_metadata()
        headers, answer = encode_response(request, result, metadata["name"], metadata["versions"][0])
        self._send(answer, headers)

    def _model_path(self, path: str) -> str:
        """What follows the model's name and version in the path; refuses any other model or version."""
        metadata = self._server.service.model_metadata()
        given, name = path.removeprefix("/v2/models/"), metadata["name"]
        # A model's name may hold slashes of its own.
        if given != name and not given.startswith(f"{name}/"):
            raise RequestRefused(f"there is no model at {path}; this agent guards {name!r}", 404)
        rest = given[len(name) + 1 :]
        if rest.startswith("versions/"):
            asked, _, rest = rest.removeprefix("versions/").partition("/")
            if asked not in metadata["versions"]:
                raise RequestRefused(
                    f"model {name!r} has no version {asked!r}; active is {metadata['versions'][0]!r}", 404
                )
        return rest

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") is not None:
            self.close_connection = True
            raise RequestRefused("send Content-Length; chunked requests are not taken", 411)
        # Two lengths are how one request is smuggled inside another.
        text = ",".join(self.headers.get_all("Content-Length", []))
        if not (text.isascii() and text.isdigit()):
            self.close_connection = True
            raise RequestRefused("the request needs a Content-Length", 411)
        limit = self._server.max_request_bytes
        if len(text) > 18 or int(text) > limit:
            self.close_connection = True
            raise RequestRefused(f"the request is larger than {limit} bytes (server.max_request_mb)", 413)
        body = self.rfile.read(int(text))
        if len(body) != int(text):
            self.close_connection = True
            raise RequestRefused("the connection ended before the whole request arrived")
        return self._decompressed(body, limit)

    def _pass_over_body(self) -> None:
        """Read what a GET carries, or it would be taken for the next request; where that is much, close."""
        text = ",".join(self.headers.get_all("Content-Length", ["0"]))
        bounded = text.isascii() and text.isdigit() and len(text) <= 18 and int(text) <= MAX_PASSED_OVER_BYTES
        if (
            self.headers.get("Transfer-Encoding") is not None
            or not bounded
            or len(self.rfile.read(int(text))) != int(text)
        ):
            self.close_connection = True

    def _decompressed(self, body: bytes, limit: int) -> bytes:
        encoding = self.headers.get("Content-Encoding", "identity").lower()
        if encoding == "identity":
            return body
        if encoding not in {"gzip", "deflate"}:
            raise RequestRefused(f"Content-Encoding {encoding!r} is not taken; gzip and deflate are", 415)
        # 31 expects gzip's wrapper, 15 zlib's, which is what HTTP calls deflate.
        decoder = zlib.decompressobj(31 if encoding == "gzip" else 15)
        try:
            plain = decoder.decompress(body, limit)
        except zlib.error as error:
            raise RequestRefused(f"the {encoding} body can't be decompressed: {error}") from None
        if decoder.unconsumed_tail:
            raise RequestRefused(f"the request decompresses to more than {limit} bytes", 413)
        if not decoder.eof:
            raise RequestRefused(f"the {encoding} body is cut off")
        return plain

    def _send_json(self, document: Mapping[str, Any], status: int = 200) -> None:
        body = json.dumps(document, separators=(",", ":"), default=_plain).encode()
        self._send(body, {"Content-Type": "application/json"}, status)

    def _send(self, body: bytes, headers: Mapping[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The base class's own errors (bad request line, unknown method) in the protocol's form."""
        self.close_connection = True
        try:
            phrase = HTTPStatus(code).phrase
        except ValueError:
            phrase = "error"
        self._send_json({"error": message or phrase}, code)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """Requests are counted, not logged: a journal line per inference would wear out the card."""


def _path(target: str) -> str:
    try:
        return unquote(urlsplit(target).path).rstrip("/")
    except ValueError as error:
        raise RequestRefused(f"the request's address makes no sense: {error}") from None


def _plain(value: object) -> object:
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    raise TypeError(f"{type(value).__name__} in a status document")
