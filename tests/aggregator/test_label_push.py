"""Labels from a person's file to their devices: read, queued once, forwarded, answered, expired."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, func, select
from starlette.testclient import TestClient

from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.errors import LabelsUnreadable, PushFailed
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.labels import cli, reading
from driftpost_aggregator.labels.client import Client
from driftpost_aggregator.labels.forwarding import FIRST_WAIT_MS, KEEP_MS, forward_due
from driftpost_aggregator.labels.queue import TOO_LARGE, UNKNOWN_DEVICE, push_labels
from driftpost_aggregator.labels.reading import CSV, JSON, LINES, Given, Refused, read_labels
from driftpost_aggregator.store import database as db
from driftpost_aggregator.store import tables
from driftpost_aggregator.web.app import build
from driftpost_aggregator.web.options import WebOptions
from driftpost_sync.messages import AnswerBody, GivenLabels, Request
from paper_fleet import FLEET, NOW, PaperDevice

HOUR = 3_600_000
WEEK_S = 604_800.0


@pytest.fixture
def ingest(engine: Engine) -> Ingest:
    return Ingest(engine, fleet=FLEET, bucket_s=60, quarantine_rows=100, now_ms=lambda: NOW)


@pytest.fixture
def fleet(ingest: Ingest) -> list[PaperDevice]:
    devices = [PaperDevice(name) for name in ("m1", "m2")]
    for device in devices:
        ingest.take([Incoming(device.identity.state, device.presence(), NOW)])
    return devices


def csv(*rows: str) -> bytes:
    return "\n".join(["device,inference,label", *rows]).encode()


def push(engine: Engine, body: bytes, *, now_ms: int = NOW, name: str = "lp-1", expire_s: float = WEEK_S):
    return push_labels(
        engine, read_labels(body, CSV), push=name, actor="anna", now_ms=now_ms, expire_s=expire_s
    )


class Link:
    def __init__(self, room: int = 1_000) -> None:
        self.sent: list[tuple[str, Request]] = []
        self.room = room

    def answer(self, device: str, request: Request) -> bool:
        if len(self.sent) >= self.room:
            return False
        self.sent.append((device, request))
        return True


def batches(engine: Engine) -> list:
    with db.reading(engine) as connection:
        return list(
            connection.execute(select(tables.label_batches).order_by(tables.label_batches.c.device)).all()
        )


def answer(ingest: Ingest, device: PaperDevice, body: AnswerBody, now_ms: int = NOW) -> None:
    items = [device.item("answer", body.to_bytes())]
    ingest.take([Incoming(device.identity.up, device.message(items, now_ms), now_ms)])


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"labels": [{"device": "m1", "inference": "a", "label": 3}]}', JSON),
        (b'{"device": "m1", "inference": "a", "label": 3}\n\n', LINES),
        (b"Device, Inference, Label\nm1,a,3\n", CSV),
        (b"\xef\xbb\xbfdevice,inference,label\r\nm1,a,3\r\n", CSV),
    ],
)
def test_the_same_label_is_read_from_every_format(body: bytes, kind: str) -> None:
    (one,) = read_labels(body, kind)
    assert isinstance(one, Given)
    assert (one.device, one.label.inference, one.label.labels) == ("m1", "a", (3,))


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2026-11-23T12:00:00Z", 1_795_435_200_000),
        ("2026-11-23T13:00:00.250+01:00", 1_795_435_200_250),
        ("2026-11-23 12:00:00", 1_795_435_200_000),
        ("1795435200", 1_795_435_200_000),
        ("1795435200123", 1_795_435_200_123),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, at_ms: int) -> None:
    (one,) = read_labels(f"device,time,label\nm1,{text},cat\n".encode(), CSV)
    assert isinstance(one, Given)
    assert one.label.inference == at_ms
    assert one.label.labels == ("cat",)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"device": "m1", "label": 1}, "names not one of inference and time"),
        ({"device": "m1", "inference": "a", "time": 1, "label": 1}, "names not one of inference and time"),
        ({"inference": "a", "label": 1}, "names no device"),
        ({"device": "../x", "inference": "a", "label": 1}, "names no device"),
        ({"device": "m1", "inference": "", "label": 1}, "inference is no text"),
        ({"device": "m1", "inference": "a\x00", "label": 1}, "inference is no text"),
        ({"device": "m1", "inference": "a"}, "label is no class"),
        ({"device": "m1", "inference": "a", "label": True}, "label is no class"),
        ({"device": "m1", "inference": "a", "label": -1}, "label is no class"),
        ({"device": "m1", "inference": "a", "label": []}, "has not 1 to"),
        ({"device": "m1", "inference": "a", "label": 1, "x": 1}, "has a field that is none"),
        ({"device": "m1", "time": "yesterday", "label": 1}, "time is neither"),
        ({"device": "m1", "time": float("inf"), "label": 1}, "time is neither"),
        ({"device": "m1", "time": -5, "label": 1}, "time is neither"),
        ({"device": "m1", "time": 10**400, "label": 1}, "time is neither"),
        ({"device": "m1", "time": "1926-11-23T12:00:00Z", "label": 1}, "time is neither"),
        ("m1", "is no object"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused_and_the_others_are_taken(entry: object, reason: str) -> None:
    good = {"device": "m1", "inference": "b", "label": [1, 2]}
    bad, kept = read_labels(json.dumps({"labels": [entry, good]}).encode(), JSON)
    assert isinstance(bad, Refused)
    assert reason in bad.reason
    assert isinstance(kept, Given)
    assert kept.label.labels == (1, 2)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"\xff\xfe", CSV, "not UTF-8"),
        (b"[]", JSON, '{"labels"'),
        (b"{", JSON, "well-formed"),
        (b"[" * 100_000, JSON, "well-formed"),
        (b"device,what,label\n", CSV, "unknown column 'what'"),
        (b"device,inference\n", CSV, "no single column 'label'"),
        (b"", CSV, "no single column 'label'"),
        (b'device,inference,label\nm1,"a,3\n', CSV, "not CSV"),
        (b"x", "application/xml", "send one of"),
    ],
)
def test_what_is_no_list_of_labels_at_all_is_refused_as_a_whole(body: bytes, kind: str, words: str) -> None:
    with pytest.raises(LabelsUnreadable, match=words):
        read_labels(body, kind)


def test_a_push_that_is_too_long_is_refused_before_anything_is_queued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(LabelsUnreadable, match="more than 3 labels"):
        read_labels(csv(*["m1,a,1"] * 4), CSV, most=3)
    assert reading.MAX_LABELS == 20_000


def test_labels_wait_for_their_devices_and_unknown_devices_are_counted(
    engine: Engine, fleet: list[PaperDevice]
) -> None:
    pushed = push(engine, csv("m1,a,1", "m1,b,2", "m2,c,1", "nobody,d,1", "m1,e"))
    assert (pushed.labels, pushed.queued, pushed.already) == (5, 3, 0)
    assert pushed.refused == {UNKNOWN_DEVICE: 1, "has not 3 fields": 1}
    assert pushed.lines == [(5, UNKNOWN_DEVICE), (6, "has not 3 fields")]
    assert [(row.device, row.state, row.labels) for row in batches(engine)] == [
        ("m1", "waiting", 2),
        ("m2", "waiting", 1),
    ]
    with db.reading(engine) as connection:
        told = connection.execute(
            select(tables.audit.c.actor, tables.audit.c.text).where(tables.audit.c.action == "labels pushed")
        ).one()
    assert told.actor == "anna"
    assert "3 of 5 labels queued for 2 devices" in told.text


def test_the_same_push_twice_queues_nothing_twice(engine: Engine, fleet: list[PaperDevice]) -> None:
    body = csv("m1,a,1", "m2,c,1")
    push(engine, body)
    again = push(engine, body, name="lp-2")
    assert (again.queued, again.already) == (0, 2)
    assert len(batches(engine)) == 2


def test_many_labels_go_in_parts_that_fit_a_message(engine: Engine, fleet: list[PaperDevice]) -> None:
    rows = [f"m1,{'i' * 180}{number:05d},{number % 10}" for number in range(1_300)]
    assert push(engine, csv(*rows)).queued == 1_300
    link = Link()
    forward_due(engine, link.answer, NOW)
    given = [one for _, request in link.sent for one in GivenLabels.from_bytes(request.arguments).given]
    assert sorted(str(one.inference)[-5:] for one in given) == [f"{number:05d}" for number in range(1_300)]
    assert all(len(request.to_bytes()) <= 48 * 1024 for _, request in link.sent)
    assert len(link.sent) > 3


def test_a_part_is_sent_again_until_it_is_answered_and_then_no_more(
    engine: Engine, ingest: Ingest, fleet: list[PaperDevice]
) -> None:
    push(engine, csv("m1,a,1", "m1,b,2"))
    link = Link()
    assert forward_due(engine, link.answer, NOW) == 1
    assert forward_due(engine, link.answer, NOW + 1_000) == 0
    assert forward_due(engine, link.answer, NOW + FIRST_WAIT_MS) == 1
    assert link.sent[0] == link.sent[1]
    done = AnswerBody(link.sent[0][1].id, "done", {"counted": 1, "unknown": 1})
    for _ in range(2):
        answer(ingest, fleet[0], done)
    (row,) = batches(engine)
    assert (row.state, row.counted, row.unknown, row.body) == ("done", 1, 1, b"")
    assert forward_due(engine, link.answer, NOW + 10 * HOUR) == 0


def test_an_offline_device_gets_its_labels_when_it_is_back(
    engine: Engine, ingest: Ingest, fleet: list[PaperDevice]
) -> None:
    away = fleet[0]
    ingest.take([Incoming(away.identity.state, away.presence(online=False), NOW)])
    push(engine, csv("m1,a,1"))
    link = Link()
    assert forward_due(engine, link.answer, NOW + HOUR) == 0
    away.incarnation += 1
    ingest.take([Incoming(away.identity.state, away.presence(), NOW + HOUR)])
    assert forward_due(engine, link.answer, NOW + HOUR) == 1


def test_labels_do_not_wait_for_ever_and_a_late_answer_still_tells_the_truth(
    engine: Engine, ingest: Ingest, fleet: list[PaperDevice]
) -> None:
    push(engine, csv("m1,a,1"), expire_s=3600)
    link = Link()
    forward_due(engine, link.answer, NOW)
    assert forward_due(engine, link.answer, NOW + HOUR) == 0
    (row,) = batches(engine)
    assert (row.state, row.detail) == ("expired", "its device was asked and did not answer")
    answer(ingest, fleet[0], AnswerBody(row.batch, "done", {"counted": 1}), NOW + 2 * HOUR)
    assert batches(engine)[0].state == "done"


def test_what_expired_may_be_pushed_again(engine: Engine, fleet: list[PaperDevice]) -> None:
    push(engine, csv("m1,a,1"), expire_s=3600)
    forward_due(engine, Link().answer, NOW + 2 * HOUR)
    again = push(engine, csv("m1,a,1"), now_ms=NOW + 3 * HOUR, name="lp-2")
    assert (again.queued, again.already) == (1, 0)
    assert batches(engine)[0].state == "waiting"


def test_what_a_device_called_expired_is_not_expired_once_it_was_pushed_again(
    engine: Engine, ingest: Ingest, fleet: list[PaperDevice]
) -> None:
    push(engine, csv("m1,a,1"), now_ms=NOW - 9 * HOUR, expire_s=3600)
    name = batches(engine)[0].batch
    answer(ingest, fleet[0], AnswerBody(name, "expired"))
    assert batches(engine)[0].state == "expired"
    push(engine, csv("m1,a,1"), name="lp-2", expire_s=3600)
    answer(ingest, fleet[0], AnswerBody(name, "expired"))
    assert batches(engine)[0].state == "waiting"
    answer(ingest, fleet[0], AnswerBody(name, "done", {"counted": 1}))
    assert batches(engine)[0].state == "done"


def test_labels_that_fit_no_message_are_refused_and_the_others_go(
    engine: Engine, fleet: list[PaperDevice]
) -> None:
    large = {"device": "m1", "inference": "a", "label": ["a class with a name"] * 4_096}
    numbers = {"device": "m1", "inference": "b", "label": [7] * 4_096}
    pushed = push_labels(
        engine,
        read_labels(json.dumps({"labels": [large, numbers]}).encode(), JSON),
        push="lp-1",
        actor="anna",
        now_ms=NOW,
        expire_s=WEEK_S,
    )
    assert pushed.queued == 1
    assert pushed.lines == [(1, TOO_LARGE)]
    link = Link()
    forward_due(engine, link.answer, NOW)
    ((_, request),) = link.sent
    assert len(request.to_bytes()) <= 48 * 1024


@pytest.mark.parametrize(
    "url", ["http://[::1", "ftp://x/", "http:///", "http://x:99999", "http://x:0", "http://" + "\u00e9" * 70]
)
def test_what_is_no_address_of_a_dashboard_is_told(url: str) -> None:
    with pytest.raises(PushFailed, match="is no address"):
        Client(url, None)


def test_an_answer_that_is_no_aggregator_s_is_told() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(404, json=["not", "found"]))
    with (
        Client("http://127.0.0.1", None, transport=transport) as client,
        pytest.raises(PushFailed, match="no aggregator"),
    ):
        client.outcome("lp-1")


def test_a_full_link_leaves_the_rest_for_later(engine: Engine, fleet: list[PaperDevice]) -> None:
    push(engine, csv("m1,a,1", "m2,b,1"))
    assert forward_due(engine, Link(room=1).answer, NOW) == 1
    assert forward_due(engine, Link().answer, NOW + FIRST_WAIT_MS) == 2


def test_answers_that_were_not_asked_for_go_to_quarantine(
    engine: Engine, ingest: Ingest, fleet: list[PaperDevice]
) -> None:
    push(engine, csv("m1,a,1"))
    name = batches(engine)[0].batch
    answer(ingest, fleet[1], AnswerBody(name, "done", {"counted": 1}))
    answer(ingest, fleet[0], AnswerBody("lb-invented", "done"))
    answer(ingest, fleet[0], AnswerBody(name, "done", {"counted": 1 << 40}))
    assert batches(engine)[0].state == "waiting"
    with db.reading(engine) as connection:
        assert connection.execute(select(func.count()).select_from(tables.quarantine)).scalar() == 3


def test_what_was_settled_long_ago_is_forgotten(
    engine: Engine, ingest: Ingest, fleet: list[PaperDevice]
) -> None:
    push(engine, csv("m1,a,1"))
    answer(ingest, fleet[0], AnswerBody(batches(engine)[0].batch, "done", {"counted": 1}))
    forward_due(engine, Link().answer, NOW + KEEP_MS + 1)
    assert batches(engine) == []
    with db.reading(engine) as connection:
        assert connection.execute(select(func.count()).select_from(tables.label_pushes)).scalar() == 0


TOKEN = "a token of sixteen letters and more".replace(" ", "-")


@pytest.fixture
def web(engine: Engine, fleet: list[PaperDevice]) -> TestClient:
    app = build(engine, WebOptions(FLEET, token=TOKEN), now_ms=lambda: NOW)
    return TestClient(app, base_url="http://127.0.0.1:8088")


def test_the_api_takes_labels_with_the_token_only_and_tells_what_became_of_them(web: TestClient) -> None:
    body = csv("m1,a,1", "nobody,b,1")
    kind = {"content-type": "text/csv"}
    assert web.post("/api/v1/labels", content=body, headers=kind).status_code == 401
    auth = {"authorization": f"Bearer {TOKEN}"}
    answer = web.post("/api/v1/labels?actor=ci", content=body, headers=kind | auth)
    assert answer.status_code == 202
    plain = answer.json()
    assert (plain["labels"], plain["queued"], plain["refused"]) == (2, 1, {UNKNOWN_DEVICE: 1})
    one = web.get(f"/api/v1/labels/{plain['push']}", headers=auth).json()
    assert one["actor"] == "ci"
    assert one["parts"]["items"][0]["device"] == "m1"
    listed = web.get("/api/v1/labels?state=waiting&device=m1", headers=auth).json()["items"]
    assert [part["labels"] for part in listed] == [1]
    assert web.get("/api/v1/labels/lp-none", headers=auth).status_code == 404
    page = web.get("/labels", headers=auth)
    assert page.status_code == 200
    assert "no such device is known" in page.text


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"x", "text/plain", 415),
        (b"{", "application/json", 400),
        (b"x" * ((4 << 20) + 1), "text/csv", 413),
        (b'{"labels": []}', "application/json", 202),
    ],
)
def test_the_api_refuses_what_it_can_not_take(web: TestClient, body: bytes, kind: str, status: int) -> None:
    headers = {"content-type": kind, "authorization": f"Bearer {TOKEN}"}
    answer = web.post("/api/v1/labels", content=body, headers=headers)
    assert answer.status_code == status


def test_nobody_pushes_in_the_aggregator_s_name(web: TestClient) -> None:
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": CSV}
    body = csv("m1,a,1")
    for name in ("aggregator", " aggre\u200bgator"):
        answer = web.post("/api/v1/labels", params={"actor": name}, content=body, headers=headers)
        assert (answer.status_code, "own name" in answer.text) == (400, True)


def via(web: TestClient, token: str | None = TOKEN) -> Client:
    def handle(request: httpx.Request) -> httpx.Response:
        answer = web.request(
            request.method,
            request.url.raw_path.decode(),
            content=request.read(),
            headers=dict(request.headers),
        )
        return httpx.Response(answer.status_code, content=answer.content, headers={"content-type": "x"})

    return Client("http://127.0.0.1:8088", token, transport=httpx.MockTransport(handle))


def test_the_command_pushes_a_file_and_tells_lines_of_the_file(
    web: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driftpost_aggregator.labels.client.PART", 2)
    monkeypatch.setattr("driftpost_aggregator.labels.client.Client", lambda url, token: via(web, token))
    path = tmp_path / "labels.csv"
    path.write_bytes(csv("m1,a,1", "m1,b", "m2,c,cat", "nobody,d,1", "m1,e,2"))
    (tmp_path / "token").write_text(TOKEN + "\n")
    run = CliRunner().invoke(cli.labels, ["push", str(path), "--token-file", str(tmp_path / "token")])
    assert run.exit_code == 1
    assert "queued       3" in run.output
    assert "line 3: has not 3 fields" in run.output
    assert f"line 5: {UNKNOWN_DEVICE}" in run.output
    again = CliRunner().invoke(
        cli.labels, ["push", str(path), "--token-file", str(tmp_path / "token"), "--json"]
    )
    plain = json.loads(again.output)
    assert (plain["queued"], plain["already"]) == (0, 3)
    name = run.output.split("(as ")[1].split(",")[0]
    told = CliRunner().invoke(cli.labels, ["status", name, "--token-file", str(tmp_path / "token")])
    assert "m1  1 labels  waiting" in told.output


def test_the_command_explains_refusals(web: TestClient, tmp_path: Path) -> None:
    with via(web, "wrong") as client, pytest.raises(PushFailed, match="says 401"):
        list(
            client.push([one for one in read_labels(csv("m1,a,1"), CSV) if isinstance(one, Given)], actor="")
        )
    with pytest.raises(PushFailed, match="unencrypted"):
        Client("http://driftpost.example.com", TOKEN)
    with pytest.raises(PushFailed, match="no address"):
        Client("driftpost", None)
    path = tmp_path / "labels.jsonl"
    path.write_text('{"device": "m1", "inference": "a", "label": 1}')
    run = CliRunner().invoke(cli.labels, ["push", str(path), "--url", "http://127.0.0.1:1"])
    assert run.exit_code == 1
    assert "can not be reached" in run.output
