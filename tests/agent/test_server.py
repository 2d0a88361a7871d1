"""The inference server over real sockets, with a real guard behind it, and hostile clients in front."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import zlib
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest

from agent.bundles import tabular_rows
from driftpost_agent.errors import RequestRefused
from driftpost_agent.guard import Guard
from driftpost_agent.server import InferenceServer
from driftpost_agent.serving import Serving
from driftpost_agent.verdict import GuardedResult
from driftpost_models.bundle import Bundle

LIMIT = 100_000


class Service:
    """The daemon's part: one guarded model."""

    def __init__(self, bundle: Bundle) -> None:
        self.serving = Serving(bundle, Guard(bundle, threaded=False))
        self.is_ready = True
        self.hold: threading.Event | None = None

    def model_metadata(self) -> dict[str, Any]:
        return self.serving.metadata

    def infer(self, inputs: Mapping[str, Any], inference_id: str) -> GuardedResult:
        if self.hold is not None:
            self.hold.wait(10)
        return self.serving.infer(inputs, inference_id)

    def ready(self) -> bool:
        return self.is_ready

    def status(self) -> dict[str, Any]:
        return {"health": {"state": "ok"}, "number": np.float32(1.5)}

    def metrics(self) -> str:
        return "driftpost_up 1\n"


@pytest.fixture
def service(mlp_bundle: Bundle) -> Iterator[Service]:
    service = Service(mlp_bundle)
    yield service
    service.serving.guard.close()


@pytest.fixture
def server(service: Service) -> Iterator[InferenceServer]:
    running = InferenceServer(("127.0.0.1", 0), service, max_request_bytes=LIMIT, max_connections=4)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), name="server-under-test")
    thread.start()
    yield running
    running.shutdown()
    running.close_connections()
    thread.join(5)


@pytest.fixture
def client(server: InferenceServer) -> Iterator[HTTPConnection]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    yield connection
    connection.close()


def ask(
    client: HTTPConnection, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    client.request(method, path, body, dict(headers or {}))
    answer = client.getresponse()
    content = answer.read()
    is_json = answer.headers.get_content_type() == "application/json"
    return answer.status, json.loads(content) if is_json else content


def request_body(rows: int = 1) -> bytes:
    data = tabular_rows(rows)
    tensor = {"name": "x", "shape": list(data.shape), "datatype": "FP32", "data": data.ravel().tolist()}
    return json.dumps({"id": "r-1", "inputs": [tensor]}).encode()


INFER = "/v2/models/mlp/infer"
BOMB = gzip.compress(b" " * (LIMIT * 50))


def test_metadata_and_health_follow_the_protocol(client: HTTPConnection, service: Service) -> None:
    assert ask(client, "GET", "/v2")[1]["extensions"] == ["binary_tensor_data"]
    assert ask(client, "GET", "/v2/health/live") == (200, {"live": True})
    assert ask(client, "GET", "/v2/health/ready") == (200, {"ready": True})
    assert ask(client, "GET", "/v2/models/mlp/versions/1/ready") == (200, {"name": "mlp", "ready": True})
    metadata = ask(client, "GET", "/v2/models/mlp")[1]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 30]}]
    assert metadata["platform"] == "onnx_onnxv1"
    service.is_ready = False
    assert ask(client, "GET", "/v2/health/ready")[0] == 503


def test_an_inference_answers_with_outputs_and_verdict(client: HTTPConnection) -> None:
    status, answer = ask(client, "POST", INFER, request_body())
    assert status == 200
    assert answer["id"] == "r-1"
    assert answer["model_version"] == "1"
    assert answer["parameters"]["verdict"] == "ok"
    assert answer["parameters"]["inference_id"] == "r-1"
    assert answer["outputs"][0]["shape"] == [1, 10]
    assert sum(answer["outputs"][0]["data"]) == pytest.approx(1.0, abs=1e-5)


def test_one_connection_carries_many_requests_errors_among_them(client: HTTPConnection) -> None:
    for _ in range(3):
        assert ask(client, "POST", INFER, request_body(3))[0] == 200
        assert ask(client, "POST", INFER, b"{}")[0] == 400
        assert ask(client, "GET", "/nothing")[0] == 404


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_requests_are_taken(client: HTTPConnection, encoding: str) -> None:
    body = gzip.compress(request_body()) if encoding == "gzip" else zlib.compress(request_body())
    assert ask(client, "POST", INFER, body, {"Content-Encoding": encoding})[0] == 200


def test_status_and_metrics_are_served(client: HTTPConnection) -> None:
    assert ask(client, "GET", "/status") == (200, {"health": {"state": "ok"}, "number": 1.5})
    assert ask(client, "GET", "/metrics") == (200, b"driftpost_up 1\n")


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "says"),
    [
        ("GET", "/v2/models/other", None, {}, 404, "guards 'mlp'"),
        ("GET", "/v2/models/mlpx", None, {}, 404, "guards 'mlp'"),
        ("GET", "/v2/models/mlp/versions/7", None, {}, 404, "no version '7'"),
        ("GET", "/v2/models/mlp/nonsense", None, {}, 404, "nothing at"),
        ("GET", INFER, None, {}, 405, "POST"),
        ("GET", "/../../etc/passwd", None, {}, 404, "nothing at"),
        ("POST", "/status", b"{}", {}, 404, "nothing can be posted"),
        ("POST", INFER, b"not json", {}, 400, "not valid JSON"),
        ("POST", INFER, b"x" * (LIMIT + 1), {}, 413, "larger than"),
        (
            "POST",
            INFER,
            gzip.compress(b" " * (LIMIT * 50)),
            {"Content-Encoding": "gzip"},
            413,
            "decompresses",
        ),
        ("POST", INFER, gzip.compress(b"{}" * 99)[:-9], {"Content-Encoding": "gzip"}, 400, "cut off"),
        ("POST", INFER, b"not gzip", {"Content-Encoding": "gzip"}, 400, "can't be decompressed"),
        ("POST", INFER, b"{}", {"Content-Encoding": "br"}, 415, "gzip and deflate"),
        ("POST", INFER, b"{}", {"Content-Length": "-5"}, 411, "Content-Length"),
        ("POST", INFER, b"{}", {"Content-Length": "1" * 40}, 413, "larger than"),
        ("POST", INFER, b"", {"Transfer-Encoding": "chunked"}, 411, "chunked"),
        ("DELETE", INFER, None, {}, 501, "Unsupported method"),
    ],
)
def test_what_can_not_be_served_is_an_error_in_the_protocols_form(  # noqa: PLR0917 - pytest passes by name
    client: HTTPConnection,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
    says: str,
) -> None:
    got, answer = ask(client, method, path, body, headers)
    assert got == status
    assert list(answer) == ["error"]
    assert says in answer["error"]


def test_a_wrong_shape_or_dtype_is_the_clients_mistake(client: HTTPConnection) -> None:
    wrong = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    status, answer = ask(client, "POST", INFER, json.dumps(wrong).encode())
    assert (status, answer) == (400, {"error": "input 'x' has shape [1, 2]; it takes float32[?,30]"})
    wrong["inputs"][0]["datatype"] = "FP64"
    assert "float64" in ask(client, "POST", INFER, json.dumps(wrong).encode())[1]["error"]


def raw(server: InferenceServer, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
        return received


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /status HTTP/1.1\r\n" + b"X-A: b\r\n" * 300 + b"\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nContent-Length: 500\r\n\r\nshort",
        b"GET /%zz%00%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    ],
)
def test_broken_http_never_harms_the_next_client(
    server: InferenceServer, client: HTTPConnection, data: bytes
) -> None:
    answer = raw(server, data)
    assert not answer or answer.startswith((b"HTTP/1.", b"{"))
    assert b" 200 OK" not in answer
    assert ask(client, "POST", INFER, request_body())[0] == 200


def test_an_unread_body_is_never_taken_for_the_next_request(server: InferenceServer) -> None:
    smuggled = b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"
    first = b"POST /v2/models/mlp/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = raw(server, first + smuggled)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"411" in answer


@pytest.mark.parametrize(
    ("head", "answers"),
    [
        (b"Content-Length: 33", 2),
        (b"Content-Length: 99999999", 1),
        (b"Content-Length: 33\r\nContent-Length: 33", 1),
        (b"Content-Length: -1", 1),
        (b"Transfer-Encoding: chunked", 1),
    ],
)
def test_the_body_of_a_get_is_never_taken_for_the_next_request(
    server: InferenceServer, head: bytes, answers: int
) -> None:
    inner = b"GET /v2 HTTP/1.1\r\nHost: inner\r\n\r\n"[:33].ljust(33)
    request = b"GET /status HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + inner
    answer = raw(server, request + b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == answers
    assert b'"extensions"' not in answer
    assert answer.count(b'{"live":true}') == answers - 1


def test_an_address_that_makes_no_sense_is_refused(server: InferenceServer) -> None:
    assert raw(server, b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_a_client_that_asks_before_it_sends_a_large_body_is_told_to_go_on(server: InferenceServer) -> None:
    body = request_body()
    head = f"POST {INFER} HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_client_that_sends_byte_by_byte_does_not_keep_its_place(
    server: InferenceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driftpost_agent.server.ARRIVAL_S", 0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.05) as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nContent-Length: 10000\r\n\r\n".encode())
        for _ in range(100):
            try:
                assert connection.recv(4096) == b""
                return
            except TimeoutError:
                connection.sendall(b" ")
            except ConnectionError:
                return
    pytest.fail("the connection is still open")


def test_a_connection_that_finds_no_thread_leaves_its_place_free(
    server: InferenceServer, client: HTTPConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread_left)
        for _ in range(6):
            with (
                contextlib.suppress(ConnectionError),
                socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection,
            ):
                assert connection.recv(1) == b""
    assert ask(client, "GET", "/v2")[0] == 200


def test_connections_beyond_the_limit_are_turned_away_and_room_comes_back(server: InferenceServer) -> None:
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=10)))
            for _ in range(4)
        ]
        for connection in held:
            assert ask(connection, "GET", "/v2/health/live")[0] == 200
        extra = stack.enter_context(contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=10)))
        status, answer = ask(extra, "GET", "/v2/health/live")
        assert status == 503
        assert "too many connections" in answer["error"]
        held[0].close()
        for _ in range(500):
            with contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as again:
                if ask(again, "GET", "/v2/health/live")[0] == 200:
                    return
    pytest.fail("the place of the closed connection never became free")


def test_a_call_under_way_is_known_with_its_age(server: InferenceServer, service: Service) -> None:
    service.hold = threading.Event()
    assert server.oldest_request_s() == 0.0
    statuses: list[int] = []

    def call() -> None:
        with contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
            statuses.append(ask(connection, "POST", INFER, request_body())[0])

    caller = threading.Thread(target=call, name="slow-caller")
    caller.start()
    while server.oldest_request_s() == 0.0:
        pass
    service.hold.set()
    caller.join(10)
    assert statuses == [200]
    assert server.oldest_request_s() == 0.0


def test_while_the_model_is_replaced_calls_under_way_end_and_new_ones_are_put_off(
    service: Service, mlp_bundle: Bundle
) -> None:
    serving = service.serving
    assert serving.drain(1.0)
    with pytest.raises(RequestRefused) as refused:
        serving.infer({"x": tabular_rows(1)}, "")
    assert refused.value.status == 503
