"""Requests by command, folder, topic and as calls of known systems; reports that come back signed."""

from __future__ import annotations

import base64
import http.server
import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import pytest
import tomli
from sqlalchemy import Engine, select
from standardwebhooks import Webhook
from starlette.testclient import TestClient

from aggregator.test_retrain import NOW, ask, open_incident
from driftpost_aggregator.delivery.command import deliver as deliver_command
from driftpost_aggregator.delivery.due import deliver_due
from driftpost_aggregator.delivery.payloads import payload
from driftpost_aggregator.delivery.targets import Target, targets
from driftpost_aggregator.errors import ConfigurationError
from driftpost_aggregator.settings import TABLE
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading
from driftpost_aggregator.times import wall_ms
from driftpost_aggregator.web.app import build
from driftpost_aggregator.web.options import WebOptions

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
TOKEN = "a-token-of-some-system"


def delivered(engine: Engine, target: Target, post=None) -> object:
    """Make one request and one attempt; the delivery's row."""
    open_incident(engine)
    ask(engine, targets=(target.name,))
    deliver_due(engine, [target], now_ms=NOW, jitter=random.Random(1), post=post)
    with reading(engine) as connection:
        return connection.execute(select(tables.deliveries)).one()


def body(engine: Engine) -> bytes:
    with reading(engine) as connection:
        return bytes(connection.execute(select(tables.retrain_requests.c.body)).scalar_one())


def test_a_folder_gets_the_event_as_a_file_of_its_own(engine: Engine, tmp_path: Path) -> None:
    target = Target("drop", kind="file", folder=tmp_path)
    assert delivered(engine, target).state == "delivered"
    assert [path.name for path in tmp_path.glob("*.json")] == ["rr-1.json"]
    assert (tmp_path / "rr-1.json").read_bytes() == body(engine)
    assert not list(tmp_path.glob(".*.part"))


def test_a_folder_that_is_gone_is_told_and_tried_again(engine: Engine, tmp_path: Path) -> None:
    row = delivered(engine, Target("drop", kind="file", folder=tmp_path / "gone"))
    assert row.state == "pending"
    assert "can not be written" in row.last_error


def command(tmp_path: Path, script: str) -> Target:
    return Target("run", kind="command", command=(sys.executable, "-c", script, str(tmp_path)), timeout_s=5)


def test_a_command_gets_the_event_on_its_standard_input_and_no_environment_of_ours(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTPOST_SECRET_OF_OURS", "x")
    script = (
        "import os, pathlib, sys; pathlib.Path(sys.argv[1], 'in').write_bytes(sys.stdin.buffer.read());"
        "pathlib.Path(sys.argv[1], 'env').write_text('\\n'.join(f'{k}={v}' for k, v in os.environ.items()))"
    )
    assert delivered(engine, command(tmp_path, script)).state == "delivered"
    assert (tmp_path / "in").read_bytes() == body(engine)
    environment = (tmp_path / "env").read_text()
    assert "DRIFTPOST_REQUEST=rr-1" in environment
    assert "SECRET" not in environment


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; sys.exit('no space')", "exit status 1: no space"),
        ("import os; os.kill(os.getpid(), 9)", "exit status -9"),
    ],
)
def test_a_command_that_fails_is_told_and_tried_again(
    engine: Engine, tmp_path: Path, script: str, words: str
) -> None:
    row = delivered(engine, command(tmp_path, script))
    assert row.state == "pending"
    assert words in row.last_error


def test_a_command_that_hangs_is_killed(engine: Engine, tmp_path: Path) -> None:
    slow = Target(
        "run", kind="command", command=(sys.executable, "-c", "import time; time.sleep(60)"), timeout_s=0.5
    )
    row = delivered(engine, slow)
    assert "was killed" in row.last_error


def test_what_a_hanging_command_started_is_killed_with_it(tmp_path: Path) -> None:
    pipe = tmp_path / "alive"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        # The child holds the pipe open for as long as it lives.
        script = f"sleep 60 > {pipe} & echo x > {pipe}; wait"
        answer = deliver_command(
            Target("run", kind="command", command=("/bin/sh", "-c", script), timeout_s=0.5), "rr-1", b"{}"
        )
        assert "was killed" in answer.error
        deadline = time.monotonic() + 10
        while True:
            try:
                read = os.read(reader, 100)
            except BlockingIOError:
                read = None
            if read == b"":
                break
            assert time.monotonic() < deadline, "its child lives on"
            time.sleep(0.01)
    finally:
        os.close(reader)


@pytest.mark.parametrize("script", ["exec 0<&-; exit 0", "sleep 5 >&2 & exit 0"])
def test_a_command_that_reads_nothing_or_leaves_something_running_has_succeeded(script: str) -> None:
    target = Target("run", kind="command", command=("/bin/sh", "-c", script), timeout_s=3.0)
    assert deliver_command(target, "rr-1", b"{}" * 9_000).status == 200


def test_of_a_command_that_says_much_the_end_is_kept(engine: Engine, tmp_path: Path) -> None:
    script = "import sys; sys.stderr.write('x' * 3_000_000 + ' no space'); sys.exit(1)"
    row = delivered(engine, command(tmp_path, script))
    assert row.last_error.endswith("no space")
    assert len(row.last_error) < 250


def test_a_program_that_is_not_there_is_told(engine: Engine) -> None:
    row = delivered(engine, Target("run", kind="command", command=("/nowhere/at-all",)))
    assert "can not be started" in row.last_error


@pytest.mark.parametrize(("error", "state"), [("", "delivered"), ("the broker refuses it", "pending")])
def test_a_topic_is_served_through_the_fleet_s_broker(engine: Engine, error: str, state: str) -> None:
    posted: list[tuple[str, bytes, float]] = []

    def post(topic: str, payload: bytes, timeout_s: float) -> str:
        posted.append((topic, payload, timeout_s))
        return error

    target = Target("bus", kind="mqtt", topic="driftpost/v1/meters/_aggregator/retrain")
    row = delivered(engine, target, post)
    assert (row.state, row.last_error) == (state, error)
    assert posted[0][:2] == (target.topic, body(engine))


def test_a_process_without_a_broker_says_so(engine: Engine) -> None:
    row = delivered(engine, Target("bus", kind="mqtt", topic="t"))
    assert "no connection to a broker" in row.last_error


@dataclass
class System:
    status: int = 204
    port: int = 0
    calls: list[tuple[str, dict[str, str], dict[str, object]]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def system() -> Iterator[System]:
    system = System()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            plain = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            system.calls.append((self.path, headers, plain))
            said = f"bad token {self.headers['authorization']}".encode() if system.status == 401 else b""
            self.send_response(system.status)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    system.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="system")
    thread.start()
    yield system
    server.shutdown()
    thread.join()
    server.server_close()


def calling(tmp_path: Path, system: System, kind: str, path: str, **more: object) -> Target:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    values = {
        "name": kind,
        "format": kind,
        "url": system.url(path),
        "token_file": token,
        "allow_private": True,
    }
    return Target(**(values | more))  # type: ignore[arg-type]  # fields of their types


def test_github_gets_a_repository_dispatch(engine: Engine, tmp_path: Path, system: System) -> None:
    target = calling(tmp_path, system, "github", "/repos/o/r/dispatches", event_type="retrain-meters")
    assert delivered(engine, target).state == "delivered"
    ((path, headers, plain),) = system.calls
    assert path == "/repos/o/r/dispatches"
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["accept"] == "application/vnd.github+json"
    assert set(plain) == {"event_type", "client_payload"}
    assert plain["event_type"] == "retrain-meters"
    assert len(plain["client_payload"]) <= 10
    assert plain["client_payload"]["event"] == json.loads(body(engine))
    assert plain["client_payload"]["action"] == "retrain"


@pytest.mark.parametrize(("status", "state"), [(200, "delivered"), (409, "delivered"), (404, "pending")])
def test_airflow_gets_a_run_of_the_request_s_id_and_a_second_one_is_no_failure(
    engine: Engine, tmp_path: Path, system: System, status: int, state: str
) -> None:
    system.status = status
    target = calling(tmp_path, system, "airflow", "/api/v2/dags/retrain/dagRuns")
    assert delivered(engine, target).state == state
    ((_, _, plain),) = system.calls
    assert plain["dag_run_id"] == "rr-1"
    assert plain["logical_date"] is None
    assert plain["conf"]["event"]["id"] == "rr-1"


def test_airflow_2_is_not_sent_a_date_that_it_does_not_take(engine: Engine) -> None:
    open_incident(engine)
    ask(engine)
    target = Target("a", "https://airflow.example/api/v1/dags/retrain/dagRuns", format="airflow")
    assert "logical_date" not in json.loads(payload(target, "rr-1", body(engine))[1])


def test_kubeflow_gets_a_run_with_the_event_as_a_parameter(
    engine: Engine, tmp_path: Path, system: System
) -> None:
    system.status = 200
    ids = {"pipeline_id": "p1", "pipeline_version_id": "v1", "experiment_id": "e1"}
    target = calling(tmp_path, system, "kubeflow", "/apis/v2beta1/runs", **ids)
    assert delivered(engine, target).state == "delivered"
    ((_, _, plain),) = system.calls
    assert plain["display_name"] == "rr-1"
    assert plain["pipeline_version_reference"] == {"pipeline_id": "p1", "pipeline_version_id": "v1"}
    assert plain["experiment_id"] == "e1"
    assert json.loads(plain["runtime_config"]["parameters"]["event"])["id"] == "rr-1"


def test_a_token_never_stands_in_the_delivery_log(engine: Engine, tmp_path: Path, system: System) -> None:
    system.status = 401
    row = delivered(engine, calling(tmp_path, system, "github", "/repos/o/r/dispatches"))
    assert "HTTP 401: bad token" in row.last_error
    assert TOKEN not in row.last_error


def test_a_token_file_that_is_gone_is_told_and_nothing_is_sent(
    engine: Engine, tmp_path: Path, system: System
) -> None:
    target = calling(tmp_path, system, "github", "/x", token_file=tmp_path / "gone")
    assert "can not be read" in delivered(engine, target).last_error
    assert system.calls == []


def configured(entry: str) -> tuple[Target, ...]:
    text = '[fleet]\nname = "meters"\n[[retrain.targets]]\nname = "t"\n' + entry
    return targets(TABLE.parse(tomli.loads(text)))


@pytest.mark.parametrize(
    ("entry", "missing"),
    [
        ('url = "https://a"', "secret_file"),
        ('secret_file = "s"', "url"),
        ('kind = "command"', "command"),
        ('kind = "file"', "folder"),
        ('kind = "mqtt"\ntopic = "a/#"', "without wildcards"),
        ('format = "github"\nurl = "https://a"', "token_file"),
        ('format = "kubeflow"\nurl = "https://a"\ntoken_file = "t"', "pipeline_id"),
        ('kind = "pigeon"', "pigeon"),
    ],
)
def test_a_target_that_lacks_what_its_kind_needs_is_refused(entry: str, missing: str) -> None:
    with pytest.raises(Exception, match=missing) as caught:
        configured(entry)
    assert isinstance(caught.value, ConfigurationError) or "SettingsError" in type(caught.value).__name__


def test_a_topic_has_a_default_under_the_fleet_s_own() -> None:
    (target,) = configured('kind = "mqtt"')
    assert target.topic == "driftpost/v1/meters/_aggregator/retrain"


@pytest.fixture
def reporting(engine: Engine, tmp_path: Path) -> Iterator[TestClient]:
    open_incident(engine)
    ask(engine)
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    options = WebOptions("meters", token="a-token-of-the-dashboard", secret_files=(secret, tmp_path / "gone"))
    with TestClient(build(engine, options, now_ms=lambda: NOW), base_url="http://127.0.0.1:8088") as client:
        yield client


def signed(secret: str, raw: bytes, at_ms: int | None = None) -> dict[str, str]:
    moment = datetime.fromtimestamp((wall_ms() if at_ms is None else at_ms) // 1000, timezone.utc)
    return {
        "content-type": "application/json",
        "webhook-id": "report-1",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign("report-1", moment, raw.decode()),
    }


STATUS = "/api/v1/requests/rr-1/status"


def test_a_pipeline_reports_with_its_signature_instead_of_the_token(reporting: TestClient) -> None:
    raw = b'{"state": "accepted"}'
    answer = reporting.post(STATUS, content=raw, headers=signed(SECRET, raw))
    assert answer.status_code == 200
    assert answer.json()["state"] == "accepted"


def test_reports_with_a_wrong_old_or_foreign_signature_are_refused(reporting: TestClient) -> None:
    raw = b'{"state": "done"}'
    for headers in (
        signed(OTHER, raw),
        signed(SECRET, raw, wall_ms() - 600_000),
        signed(SECRET, b'{"state": "failed"}'),
        {"content-type": "application/json", "webhook-signature": "v1,x"},
        {"content-type": "application/json"},
    ):
        assert reporting.post(STATUS, content=raw, headers=headers).status_code == 401
    # The signature opens this one door only.
    assert reporting.get("/api/v1/requests", headers=signed(SECRET, raw)).status_code == 401
    actions = reporting.post("/api/v1/incidents/inc-1/actions", content=raw, headers=signed(SECRET, raw))
    assert actions.status_code == 401


def test_a_pipeline_does_not_report_in_the_aggregator_s_name(reporting: TestClient) -> None:
    raw = b'{"state": "done", "actor": "aggregator"}'
    answer = reporting.post(STATUS, content=raw, headers=signed(SECRET, raw))
    assert (answer.status_code, "own name" in answer.text) == (400, True)


def test_where_reports_must_be_signed_the_token_is_not_enough(engine: Engine, tmp_path: Path) -> None:
    open_incident(engine)
    ask(engine)
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    options = WebOptions("meters", secret_files=(secret,), signed_reports=True)
    raw = b'{"state": "running"}'
    with TestClient(build(engine, options, now_ms=lambda: NOW), base_url="http://127.0.0.1:8088") as client:
        plain = client.post(STATUS, content=raw, headers={"content-type": "application/json"})
        assert plain.status_code == 401
        assert client.post(STATUS, content=raw, headers=signed(SECRET, raw)).status_code == 200


def test_the_page_of_a_request_and_the_list_by_worth(engine: Engine) -> None:
    open_incident(engine, "inc-1")
    open_incident(engine, "inc-2", scope_key="camera=C", affected=40, members=40, title="camera=C drifts")
    ask(engine)
    with TestClient(
        build(engine, WebOptions("meters"), now_ms=lambda: NOW), base_url="http://127.0.0.1:8088"
    ) as client:
        first = client.get("/api/v1/requests?order=priority&limit=1").json()
        assert first["items"][0]["incident"] == "inc-2"
        rest = client.get(f"/api/v1/requests?order=priority&limit=1&cursor={first['next']}").json()
        assert rest["items"][0]["incident"] == "inc-1"
        assert rest["next"] is None
        assert client.get("/api/v1/requests?order=priority&cursor=WyJhIiwiYiJd").status_code == 400
        page = client.get(f"/requests/{first['items'][0]['request']}")
        assert page.status_code == 200
        assert "camera=C drifts" in page.text
        assert client.get("/requests/rr-none").status_code == 404
        assert "worthiest first" in client.get("/requests?order=priority").text
