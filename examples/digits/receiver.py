"""Plays the cloud pipeline: receives retrain requests, checks them with independent libraries, and answers.

A delivery counts only if its Standard Webhooks signature holds (package `standardwebhooks`), its body is a
CloudEvent 1.0 (package `cloudevents`) of the type it knows, and the event's id is the webhook's. Every
delivery is written to a log as one JSON line, good or bad, so that the demo's summary can be computed from
what arrived. A new request is reported back as accepted, to the address that the request itself names.

    python receiver.py --port 8700 --secret-file webhook.secret --log received.jsonl
"""

from __future__ import annotations

import argparse
import json
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.exceptions import BaseCloudEventException
from standardwebhooks import Webhook, WebhookVerificationError

EVENT_TYPE = "io.driftpost.retrain.requested.v1"
MAX_BODY_BYTES = 64 * 1024  # Standard Webhooks asks for less than 20 kB
REPORT = {"state": "accepted", "detail": "queued by the pipeline"}
REPORT_TRIES = 5
REPORT_PAUSE_S = 1.0


@dataclass(frozen=True)
class Delivery:
    """One delivery as it was judged.

    Attributes:
        received_ms: Unix time in milliseconds.
        webhook_id: What the header said.
        accepted: Whether it counts.
        duplicate: A good delivery of an event that had come before.
        problem: Why it does not count; empty if it does.
        event: The CloudEvent's attributes and data, if the signature held.
    """

    received_ms: int
    webhook_id: str
    accepted: bool
    duplicate: bool = False
    problem: str = ""
    event: Mapping[str, Any] = field(default_factory=dict)


class Pipeline:
    """Judges deliveries and remembers what it has accepted.

    Args:
        secret: The webhook's `whsec_` secret.
        log: Where each delivery is written, one JSON line each.
        wall_ms: Unix time in milliseconds.
    """

    def __init__(self, secret: str, log: Path, wall_ms: Callable[[], int]) -> None:
        self._webhook = Webhook(secret)
        self._log = log
        self._wall_ms = wall_ms
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self.accepted: queue.Queue[Delivery] = queue.Queue()

    def receive(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        """Judge one delivery and write it down; what is new and good goes to the `accepted` queue."""
        delivery = self._judge({name.lower(): value for name, value in headers.items()}, body)
        with self._lock, self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(asdict(delivery)) + "\n")
        if delivery.accepted and not delivery.duplicate:
            self.accepted.put(delivery)
        return delivery

    def _judge(self, headers: dict[str, str], body: bytes) -> Delivery:
        now, webhook_id = self._wall_ms(), headers.get("webhook-id", "")
        try:
            self._webhook.verify(body, headers, json_parse=False)
        except (WebhookVerificationError, ValueError) as error:
            # The library raises ValueError for a signature that is no base64 and a body that is no text.
            return Delivery(now, webhook_id, accepted=False, problem=f"signature: {error}")
        try:
            event = from_http_event(HTTPMessage(headers, body))
            document = {**_texts(event.get_attributes()), "data": event.get_data()}
        except (BaseCloudEventException, ValueError, AttributeError) as error:
            # AttributeError is what the library raises for JSON that is no object.
            return Delivery(now, webhook_id, accepted=False, problem=f"not a CloudEvent: {error}")
        if not isinstance(document["data"], dict):
            return Delivery(now, webhook_id, accepted=False, problem="the event's data is no object")
        if event.get_type() != EVENT_TYPE:
            return Delivery(now, webhook_id, accepted=False, problem=f"unknown type {event.get_type()}")
        if event.get_id() != webhook_id:
            return Delivery(now, webhook_id, accepted=False, problem="the event's id is not the webhook's")
        with self._lock:
            duplicate = webhook_id in self._seen
            self._seen.add(webhook_id)
        return Delivery(now, webhook_id, accepted=True, duplicate=duplicate, event=document)


def _texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in attributes.items() if value is not None}


def read_log(path: Path) -> list[Delivery]:
    """The deliveries written so far; none if the file is not there yet."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Delivery(**json.loads(line)) for line in lines]


class Receiver(ThreadingHTTPServer):
    """The pipeline's HTTP endpoint, `POST /retrain`."""

    daemon_threads = True

    def __init__(self, port: int, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        super().__init__(("127.0.0.1", port), Handler)


class Handler(BaseHTTPRequestHandler):
    """One delivery."""

    timeout = 10.0

    def do_POST(self) -> None:
        """Judge a delivery: 202 when it counts (again), 401 when it is not what it says it is."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self._answer(413, {"error": f"at most {MAX_BODY_BYTES} bytes, with Content-Length"})
            return
        server = self.server
        assert isinstance(server, Receiver)
        delivery = server.pipeline.receive(dict(self.headers), self.rfile.read(int(length)))
        if delivery.accepted:
            self._answer(202, {"status": "accepted", "duplicate": delivery.duplicate})
        else:
            self._answer(401, {"error": delivery.problem})

    def _answer(self, status: int, document: Mapping[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """One line for each request, to the process's log."""
        print(format % args, flush=True)


def report_accepted(pipeline: Pipeline, exit_event: threading.Event) -> None:
    """Report each accepted request to the address in its `links`, until the exit event is set."""
    with httpx.Client(timeout=5.0) as client:
        while not exit_event.is_set():
            try:
                delivery = pipeline.accepted.get(timeout=0.2)
            except queue.Empty:
                continue
            address = delivery.event["data"].get("links", {}).get("report")
            if address is None:
                print(f"{delivery.webhook_id} does not say where to report to", flush=True)
                continue
            for _ in range(REPORT_TRIES):
                try:
                    answer = client.post(address, json=REPORT)
                except httpx.HTTPError as error:
                    print(f"report to {address}: {error}", flush=True)
                else:
                    print(f"report to {address}: {answer.status_code} {answer.text[:200]}", flush=True)
                    if answer.is_success:
                        break
                if exit_event.wait(REPORT_PAUSE_S):
                    break


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="Plays the cloud pipeline of the digits demo")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()

    exit_event = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: exit_event.set())
    pipeline = Pipeline(options.secret_file.read_text().strip(), options.log, lambda: int(time.time() * 1000))
    with Receiver(options.port, pipeline) as server:
        threads = [
            threading.Thread(target=server.serve_forever, name="receiver-http", daemon=True),
            threading.Thread(
                target=report_accepted,
                args=(pipeline, exit_event),
                name="receiver-report",
                daemon=True,
            ),
        ]
        for thread in threads:
            thread.start()
        print(f"receiver ready on port {options.port}", flush=True)
        exit_event.wait()
        server.shutdown()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
