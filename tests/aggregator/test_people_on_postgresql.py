"""Labels, policies, escalation and alerts on a real PostgreSQL, by several workers at once."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from aggregator.test_retrain import DAY, NOW, ask, open_incident
from driftpost_aggregator import audit
from driftpost_aggregator import incidents as life
from driftpost_aggregator.alerts.channels import Channel
from driftpost_aggregator.alerts.telling import Telling, tell
from driftpost_aggregator.backtest import backtest
from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.escalation import escalate_overdue
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.labels.forwarding import forward_due
from driftpost_aggregator.labels.queue import push_labels
from driftpost_aggregator.labels.reading import CSV, read_labels
from driftpost_aggregator.retrain import request_retraining
from driftpost_aggregator.settings import RetrainPolicy
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import migrate, open_engine, reading, writing
from driftpost_sync.messages import AnswerBody, Request
from paper_fleet import FLEET, PaperDevice
from postgresql import running_postgresql

WORKERS = 4


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_postgresql() as url:
        yield url


@pytest.fixture
def engine(server: str) -> Iterator[Engine]:
    opened = open_engine(server)
    migrate(opened)
    with writing(opened) as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())
    yield opened
    opened.dispose()


def at_once(work: Callable[[], object]) -> list[object]:
    results: list[object] = []
    barrier = threading.Barrier(WORKERS)

    def run() -> None:
        barrier.wait()
        results.append(work())

    threads = [threading.Thread(target=run, name=f"worker {number}") for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == WORKERS
    return results


def test_labels_are_sent_by_one_of_several_workers_and_settled_once(engine: Engine) -> None:
    ingest = Ingest(engine, fleet=FLEET, bucket_s=60, quarantine_rows=100, now_ms=lambda: NOW)
    devices = {f"m{number}": PaperDevice(f"m{number}") for number in range(10)}
    for device in devices.values():
        ingest.take([Incoming(device.identity.state, device.presence(), NOW)])
    lines = [f"m{number % 10},i{number},{number % 3}" for number in range(100)]
    body = "\n".join(["device,inference,label", *lines, "nobody,x,1"]).encode()
    pushed = push_labels(
        engine, read_labels(body, CSV), push="lp-1", actor="anna", now_ms=NOW, expire_s=3600.0
    )
    assert (pushed.queued, sum(pushed.refused.values())) == (100, 1)
    sent: list[tuple[str, Request]] = []

    def send(device: str, request: Request) -> bool:
        sent.append((device, request))
        return True

    at_once(lambda: forward_due(engine, send, NOW))
    assert len(sent) == len({request.id for _, request in sent}) == 10
    for name, request in sent:
        device = devices[name]
        answer = AnswerBody(request.id, "done", {"counted": 10})
        items = [device.item("answer", answer.to_bytes())]
        ingest.take([Incoming(device.identity.up, device.message(items, NOW), NOW)])
    with reading(engine) as connection:
        assert connection.execute(select(func.sum(tables.label_batches.c.counted))).scalar() == 100


def test_one_request_one_escalation_and_one_message_whatever_the_number_of_workers(
    engine: Engine, tmp_path: Path
) -> None:
    open_incident(engine)
    (tmp_path / "url").write_text("http://127.0.0.1:1/never")
    numbers = itertools.count(1)
    channel = Channel("chat", "slack", url_file=tmp_path / "url", allow_private=True, changes=("escalated",))
    told = Telling((channel,), 0.0, FLEET, None, lambda: f"al-{next(numbers)}", random.Random(1))
    tell(engine, told, NOW)
    ids = itertools.count(1)

    def request() -> list[str]:
        return request_retraining(
            engine, RetrainPolicy(), fleet=FLEET, public_url=None, targets=(), now_ms=NOW,
            new_id=lambda: f"rr-{next(ids)}",
        )  # fmt: skip

    assert sum(len(made) for made in at_once(request)) == 1
    late = NOW + 2 * DAY
    overdue = at_once(lambda: escalate_overdue(engine, answer_s=86_400, finish_s=86_400, now_ms=late))
    assert sum(len(one) for one in overdue) == 1
    at_once(lambda: tell(engine, told, late + 1))
    with reading(engine) as connection:
        messages = connection.execute(select(tables.alert_messages)).all()
        audit.verify(connection)
    assert len(messages) == 1
    assert messages[0].attempts == 1
    assert messages[0].changes[0]["change"] == "escalated"


def waits_for_a_lock(engine: Engine) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with reading(engine) as connection:
        return connection.execute(text(query)).scalar_one() > 0


def test_a_person_and_a_round_that_changes_many_incidents_do_not_lock_each_other_out(engine: Engine) -> None:
    for name in ("inc-1", "inc-2"):
        open_incident(engine, name)
    failed: list[Exception] = []

    def person() -> None:
        try:
            life.acknowledge(engine, "inc-2", actor="anna", now_ms=NOW + 1)
        except SQLAlchemyError as error:
            failed.append(error)

    thread = threading.Thread(target=person, name="person")
    with writing(engine) as connection:
        life.change(connection, "inc-1", {}, "widened", actor=life.AGGREGATOR, at_ms=NOW, text="wider")
        thread.start()
        deadline = time.monotonic() + 10
        while not waits_for_a_lock(engine):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        life.change(connection, "inc-2", {}, "widened", actor=life.AGGREGATOR, at_ms=NOW, text="wider")
    thread.join()
    assert failed == []
    with reading(engine) as connection:
        state = select(tables.incidents.c.state).where(tables.incidents.c.incident == "inc-2")
        assert connection.execute(state).scalar_one() == "acknowledged"
        audit.verify(connection)


def test_a_history_is_written_and_replayed(engine: Engine) -> None:
    open_incident(engine, "inc-1")
    open_incident(engine, "inc-2", scope_key="camera=C", affected=40, members=40)
    ask(engine, RetrainPolicy(per_week=1))
    life.resolve(engine, "inc-2", actor="anna", now_ms=NOW + 1_000)
    ask(engine, RetrainPolicy(enabled=False), now_ms=NOW + 2_000)
    with reading(engine) as connection:
        decisions = backtest(connection, RetrainPolicy(), days=7, now_ms=NOW + DAY)
        row = connection.execute(select(tables.retrain_requests)).one()
    assert [one.candidate.incident for one in decisions if not one.why] == ["inc-1", "inc-2"]
    assert (row.incident, row.reuse) == ("inc-2", None)
    assert json.loads(row.body)["data"]["ranking"]["devices"] == 40
