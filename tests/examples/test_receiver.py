import base64
import json
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from standardwebhooks import Webhook

from receiver import EVENT_TYPE, REPORT, Pipeline, Receiver, read_log, report_accepted

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes yes").decode()
NOW_MS = 1_700_000_000_000


def event(event_id="msg_1", **changes):
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "/driftpost/meters",
        "type": EVENT_TYPE,
        "datacontenttype": "application/json",
        "data": {"incident": {"id": "i-1"}},
    } | changes


def delivery(document, webhook_id="msg_1", secret=SECRET, at=None):
    body = json.dumps(document)
    at = at or datetime.now(timezone.utc)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, at, body),
        "content-type": "application/cloudevents+json",
    }, body.encode()


@pytest.fixture
def pipeline(tmp_path):
    return Pipeline(SECRET, tmp_path / "received.jsonl", lambda: NOW_MS)


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, name="test-server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_signed_request_is_accepted_once_and_its_repeat_is_a_duplicate(pipeline, tmp_path):
    headers, body = delivery(event())
    first, second = pipeline.receive(headers, body), pipeline.receive(headers, body)
    assert (first.accepted, first.duplicate) == (True, False)
    assert (second.accepted, second.duplicate) == (True, True)
    assert first.event["data"]["incident"]["id"] == "i-1"
    assert pipeline.accepted.qsize() == 1
    assert read_log(tmp_path / "received.jsonl") == [first, second]


def test_header_names_may_come_in_any_case(pipeline):
    headers, body = delivery(event())
    assert pipeline.receive({name.title(): value for name, value in headers.items()}, body).accepted


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda headers, body: (headers, body + b" "), id="changed body"),
        pytest.param(lambda headers, body: (headers, b"\xff\xfe"), id="no text"),
        pytest.param(lambda headers, body: ({}, body), id="no headers"),
        pytest.param(lambda headers, body: (headers | {"webhook-id": "msg_2"}, body), id="other id"),
        pytest.param(lambda headers, body: (headers | {"webhook-signature": "v1"}, body), id="no signature"),
        pytest.param(lambda headers, body: (headers | {"webhook-signature": "v1,%"}, body), id="no base64"),
    ],
)
def test_what_is_not_signed_is_refused_and_written_down(pipeline, spoil, tmp_path):
    refused = pipeline.receive(*spoil(*delivery(event())))
    assert not refused.accepted
    assert refused.problem.startswith("signature")
    assert read_log(tmp_path / "received.jsonl") == [refused]
    assert pipeline.accepted.empty()


def test_a_signature_by_another_key_is_refused(pipeline):
    other = "whsec_" + base64.b64encode(b"another secret of thirty-two byte").decode()
    assert not pipeline.receive(*delivery(event(), secret=other)).accepted


def test_an_old_delivery_is_refused(pipeline):
    old = datetime.now(timezone.utc) - timedelta(minutes=6)
    assert "too old" in pipeline.receive(*delivery(event(), at=old)).problem


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (event("other"), "id is not the webhook's"),
        (event(type="com.example.other"), "unknown type"),
        ({"hello": "world"}, "not a CloudEvent"),
        ([1, 2], "not a CloudEvent"),
        (event(data=[1]), "data is no object"),
    ],
)
def test_a_signed_body_that_is_no_retrain_request_is_refused(pipeline, document, problem):
    assert problem in pipeline.receive(*delivery(document)).problem


def test_the_endpoint_answers_202_401_and_413(pipeline):
    headers, body = delivery(event())
    with serving(Receiver(0, pipeline)) as url, httpx.Client() as client:
        assert client.post(f"{url}/retrain", headers=headers, content=body).status_code == 202
        assert client.post(f"{url}/retrain", headers=headers, content=b"{}").status_code == 401
        assert client.post(f"{url}/retrain", headers=headers, content=b" " * 70_000).status_code == 413


def test_an_accepted_request_is_reported_until_the_aggregator_takes_it(pipeline, monkeypatch):
    monkeypatch.setattr("receiver.REPORT_PAUSE_S", 0.01)
    reports: list[tuple[str, dict[str, str]]] = []
    done = threading.Event()

    class Aggregator(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reports.append((self.path, body))
            self.send_response(503 if len(reports) == 1 else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            if len(reports) == 2:
                done.set()

        def log_message(self, *args):
            pass

    stop = threading.Event()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Aggregator)) as url:
        thread = threading.Thread(target=report_accepted, args=(pipeline, stop), name="test-report")
        thread.start()
        pipeline.receive(*delivery(event(data={})))
        links = {"report": f"{url}/api/v1/requests/msg_2/status"}
        pipeline.receive(*delivery(event("msg_2", data={"links": links}), "msg_2"))
        assert done.wait(10)
        stop.set()
        thread.join()
    assert len(reports) == 2
    assert reports[0] == ("/api/v1/requests/msg_2/status", REPORT)


def test_a_log_that_is_not_there_yet_is_empty(tmp_path):
    assert read_log(tmp_path / "none.jsonl") == []
