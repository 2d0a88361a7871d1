"""The same schema, ingest and triage on a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, func, select

from driftpost_aggregator import audit
from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import migrate, open_engine, reading, writing
from driftpost_aggregator.triage_round import Triage
from driftpost_sketches.drift.budget import Budget
from driftpost_sync.messages import Item
from paper_fleet import FLEET, NOW, PaperBundle, PaperDevice, draw, make_bundle
from postgresql import running_postgresql


@pytest.fixture(scope="module")
def bundle() -> PaperBundle:
    return make_bundle()


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


def _is_no_part(_item: object, name: str, kind: str, _reflected: bool, _other: object) -> bool:
    """Partitions of the large tables are made by time, not declared."""
    return kind != "table" or not name.startswith(("windows_", "rollups_"))


def test_the_migrations_make_the_declared_tables(engine: Engine) -> None:
    assert migrate(engine) == []
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": _is_no_part})
        assert compare_metadata(context, tables.metadata) == []


def test_several_workers_that_take_the_same_messages_at_once_count_each_once(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = [PaperDevice(f"m{index}", {"camera": "AB"[index % 2], "site": "north"}) for index in range(6)]
    first = fleet[0]
    generator = np.random.default_rng(2)
    ups = [(first, [first.item("describe", bundle.describe.to_bytes())])]
    ups += [
        (device, [device.window(bundle.window(draw(generator, 40)), NOW - 1_000 * number)])
        for device in fleet
        for number in range(8)
    ]
    messages = [Incoming(device.identity.state, device.presence(), NOW) for device in fleet]
    messages += [Incoming(device.identity.up, device.message(items, NOW), NOW) for device, items in ups]
    failures: list[BaseException] = []
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        try:
            ingest = Ingest(engine, fleet=FLEET, bucket_s=60, now_ms=lambda: NOW)
            mine = messages[number * 7 :] + messages[: number * 7]
            barrier.wait(20)
            for begin in range(0, len(mine), 5):
                ingest.take(mine[begin : begin + 5])
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with reading(engine) as connection:
        stored = connection.execute(
            select(func.count(), func.sum(tables.windows.c.rows)).select_from(tables.windows)
        ).one()
        totals = connection.execute(
            select(tables.rollups.c.scope, func.sum(tables.rollups.c.rows)).group_by(tables.rollups.c.scope)
        )
        scopes = {row[0]: row[1] for row in totals}
        counted = connection.execute(select(func.sum(tables.devices.c.rows))).scalar_one()
        assert audit.verify(connection).rows == 1
    assert tuple(stored) == (48, 1920)
    assert counted == 1920
    assert scopes == {"device": 1920, "fleet": 1920, "cohort": 2 * 1920}


def test_several_workers_open_one_incident_for_one_cohort(engine: Engine, bundle: PaperBundle) -> None:
    now = NOW
    fleet = [PaperDevice(f"m{index}", {"camera": "B" if index < 4 else "A"}) for index in range(8)]
    ingest = Ingest(engine, fleet=FLEET, bucket_s=20, now_ms=lambda: now)
    workers = [
        Triage(
            engine,
            budget=Budget.parse("1 per fleet-year"),
            bucket_s=20,
            settle_windows=3.0,
            reopen_s=86_400.0,
            now_ms=lambda: now,
            new_id=lambda number=number: f"inc-{number}-{now}",
        )
        for number in range(3)
    ]
    generator = np.random.default_rng(2)
    ingest.take([Incoming(device.identity.state, device.presence(), now) for device in fleet])
    for step in range(9):
        now += 10_000
        for index, device in enumerate(fleet):
            dark = {"brightness": -3.0} if index < 4 and step > 2 else {}
            items: list[Item] = [device.window(bundle.window(draw(generator, 40, shift=dark)), now)]
            if step == 0 and index == 0:
                items.append(device.item("describe", bundle.describe.to_bytes()))
            if step == 3 and index < 4:
                items.append(device.finding(now, effect=-3.0))
            ingest.take([Incoming(device.identity.up, device.message(items, now), now)])
        threads = [threading.Thread(target=worker.round) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    with reading(engine) as connection:
        row = connection.execute(select(tables.incidents)).one()
        events = connection.execute(select(tables.incident_events.c.event)).scalars().all()
        assert audit.verify(connection).rows == 2
    assert (row.scope_key, row.affected, row.state) == ("camera=B", 4, "open")
    assert events == ["opened"]


def test_text_that_postgresql_can_not_hold_sets_one_message_aside(
    engine: Engine, bundle: PaperBundle
) -> None:
    honest, hostile = PaperDevice("m1"), PaperDevice("m2")
    ingest = Ingest(engine, fleet=FLEET, bucket_s=20, now_ms=lambda: NOW)
    item = hostile.finding(NOW, streams=(("bright\0ness", 1.0),))
    good = honest.item("describe", bundle.describe.to_bytes())
    replies = ingest.take(
        [
            Incoming(hostile.identity.up, hostile.message([item], NOW), NOW),
            Incoming(honest.identity.up, honest.message([good], NOW), NOW),
        ]
    )
    assert {reply.device for reply in replies if reply.ack.ranges} == {"m1"}
    with reading(engine) as connection:
        assert connection.execute(select(func.count()).select_from(tables.quarantine)).scalar() == 1
