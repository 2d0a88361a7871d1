"""Live updates: what changed is told to whoever listens, and nobody else costs anything."""

from __future__ import annotations

import json

import anyio
import pytest
from sqlalchemy import Engine, update
from sqlalchemy.exc import OperationalError

from driftpost_aggregator import incidents
from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.web import live
from driftpost_aggregator.web.live import Watcher, _events, stream
from driftpost_aggregator.web.queries.changes import TOPICS, stamps
from paper_fleet import FLEET, NOW, PaperDevice

PATIENCE_S = 10.0


class Stamps:
    """Stamps that a test sets; counts how often they were read, and says when."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {"devices": 1, "incidents": 1}
        self.reads = 0
        self.broken = False

    def __call__(self) -> dict[str, object]:
        self.reads += 1
        if self.broken:
            raise OperationalError("SELECT 1", {}, Exception("the database restarts"))
        return dict(self.values)


def run(scenario, watcher: Watcher) -> None:
    """Play a scenario beside the running watcher."""

    async def played() -> None:
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watcher.run)
                await scenario()
                watcher.close()

    anyio.run(played)


async def until(condition) -> None:
    while not condition():
        await anyio.sleep(0.001)


def test_a_listener_is_told_the_topics_that_changed_and_only_those() -> None:
    read = Stamps()
    watcher = Watcher(read, interval_s=0.001)

    async def scenario() -> None:
        async with watcher.listening() as listener:
            await until(lambda: read.reads > 1)
            read.values["incidents"] = 2
            assert await listener.next() == {"incidents"}
            read.values |= {"incidents": 3, "devices": 2}
            assert await listener.next() == {"devices", "incidents"}

    run(scenario, watcher)


def test_changes_that_come_faster_than_they_are_read_are_told_together() -> None:
    async def scenario() -> None:
        listener = live.Listener()
        listener.tell({"devices"})
        listener.tell({"windows", "devices"})
        assert await listener.next() == {"devices", "windows"}

    anyio.run(scenario)


def test_nothing_is_read_while_nobody_listens() -> None:
    read = Stamps()
    watcher = Watcher(read, interval_s=0.001)

    async def scenario() -> None:
        await anyio.sleep(0.02)
        assert read.reads == 0
        async with watcher.listening():
            await until(lambda: read.reads > 2)
        before = read.reads
        await anyio.sleep(0.02)
        assert read.reads <= before + 1

    run(scenario, watcher)


def test_a_database_that_restarts_does_not_end_the_watcher() -> None:
    read = Stamps()
    watcher = Watcher(read, interval_s=0.001)

    async def scenario() -> None:
        async with watcher.listening() as listener:
            await until(lambda: read.reads > 1)
            read.broken = True
            before = read.reads
            await until(lambda: read.reads > before + 2)
            read.broken = False
            read.values["devices"] = 5
            assert await listener.next() == {"devices"}

    run(scenario, watcher)


def test_a_quiet_stream_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.01)
    watcher = Watcher(Stamps(), interval_s=60)

    async def scenario() -> None:
        events = _events(watcher)
        assert b"event: hello" in await anext(events)
        assert await anext(events) == b"event: alive\ndata: {}\n\n"
        await events.aclose()
        assert watcher.listeners == 0

    anyio.run(scenario)


def test_events_are_in_the_server_sent_form() -> None:
    read = Stamps()
    watcher = Watcher(read, interval_s=0.001)

    async def scenario() -> None:
        events = _events(watcher)
        assert (await anext(events)).startswith(b"retry: ")
        told: list[bytes] = []

        async def first() -> None:
            told.append(await anext(events))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await until(lambda: read.reads > 1)
            read.values["devices"] = 2
        name, data, *rest = told[0].decode().split("\n")
        assert (name, rest) == ("event: change", ["", ""])
        assert json.loads(data.removeprefix("data: ")) == {"topics": ["devices"]}
        await events.aclose()

    run(scenario, watcher)


def test_closing_ends_every_stream() -> None:
    watcher = Watcher(Stamps(), interval_s=0.001)

    async def scenario() -> None:
        ended: list[bool] = []

        async def listen() -> None:
            async for _ in _events(watcher):
                pass
            ended.append(True)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(listen)
            await until(lambda: watcher.listeners == 3)
            watcher.close()
        assert ended == [True] * 3

    run(scenario, watcher)


def test_too_many_listeners_are_turned_away_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_LISTENERS", 1)
    watcher = Watcher(Stamps(), interval_s=60)

    async def scenario() -> None:
        assert stream(watcher).status_code == 200
        async with watcher.listening():
            answer = stream(watcher)
            assert answer.status_code == 503
            assert b"remedy" in answer.body

    anyio.run(scenario)


def look(engine: Engine) -> dict[str, object]:
    with reading(engine) as connection:
        return stamps(connection)


def changed(engine: Engine, change) -> set[str]:
    before = look(engine)
    change()
    after = look(engine)
    return {topic for topic in TOPICS if before[topic] != after[topic]}


def test_stamps_have_every_topic_and_stand_still_when_nothing_happens(engine: Engine) -> None:
    assert set(look(engine)) == set(TOPICS)
    assert changed(engine, lambda: None) == set()


def test_stamps_of_an_empty_database_are_stamps_too(empty_engine: Engine) -> None:
    assert set(look(empty_engine)) == set(TOPICS)


def test_people_and_pipelines_change_the_stamps_of_their_topics(engine: Engine) -> None:
    assert changed(
        engine, lambda: incidents.acknowledge(engine, "inc-1", actor="Ada", now_ms=NOW + 5000)
    ) == {"incidents"}

    def report() -> None:
        with writing(engine) as connection:
            connection.execute(update(tables.retrain_requests).values(state="running", updated_ms=NOW + 6000))

    assert changed(engine, report) == {"requests"}


def test_messages_from_devices_change_the_stamps_of_their_topics(engine: Engine) -> None:
    device = PaperDevice("newcomer", {"site": "north"})
    taking = Ingest(engine, fleet=FLEET, bucket_s=300, now_ms=lambda: NOW + 9000)

    def take(topic: str, payload: bytes) -> None:
        taking.take([Incoming(topic, payload, NOW + 9000)])

    assert changed(engine, lambda: take(device.identity.state, device.presence())) == {"devices"}
    garbage = b"\xc1"
    assert "quarantine" in changed(engine, lambda: take(device.identity.up, garbage))
    goodbye = device.presence(online=False)
    assert "devices" in changed(engine, lambda: take(device.identity.state, goodbye))
