"""How the boards fare: the newest report of each device is kept, whatever the order in which they come."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, select

from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.store.database import reading
from driftpost_aggregator.store.tables import boards
from driftpost_sync.messages import BoardBody, Item
from paper_fleet import FLEET, NOW, PaperDevice


@pytest.fixture
def ingest(engine: Engine) -> Ingest:
    return Ingest(engine, fleet=FLEET, bucket_s=60, quarantine_rows=100, now_ms=lambda: NOW)


def report(device: PaperDevice, heat: float) -> Item:
    readings = {"temperature": (heat, heat - 5, heat - 2, heat + 1)}
    return device.item("board", BoardBody(NOW - device.booted_ms, NOW, 3_600_000, readings).to_bytes())


def up(device: PaperDevice, *items: Item) -> Incoming:
    return Incoming(device.identity.up, device.message(list(items), NOW), NOW)


def kept(engine: Engine) -> dict[str, float]:
    with reading(engine) as connection:
        rows = connection.execute(select(boards.c.device, boards.c.readings)).all()
    return {row.device: row.readings["temperature"][0] for row in rows}


def test_the_newest_report_of_each_device_is_kept_whatever_comes_last(ingest: Ingest, engine: Engine) -> None:
    first, second = PaperDevice("m1"), PaperDevice("m2")
    older, newer = report(first, 50.0), report(first, 60.0)
    ingest.take([up(first, newer), up(second, report(second, 40.0))])
    (reply,) = ingest.take([up(first, older)])
    assert reply.ack.refused == ()
    assert kept(engine) == {"m1": 60.0, "m2": 40.0}
    ingest.take([up(first, newer)])
    assert kept(engine)["m1"] == 60.0
    with reading(engine) as connection:
        row = connection.execute(select(boards).where(boards.c.device == "m1")).one()
    assert (row.at_ms, row.span_ms) == (NOW, 3_600_000)
    assert row.readings["temperature"] == [60.0, 55.0, 58.0, 61.0]


def test_a_report_that_makes_no_sense_is_refused_and_the_last_one_stays(
    ingest: Ingest, engine: Engine
) -> None:
    device = PaperDevice("m1")
    ingest.take([up(device, report(device, 50.0))])
    (reply,) = ingest.take([up(device, device.item("board", b"\x81\xa1r\x80"))])
    assert len(reply.ack.refused) == 1
    assert kept(engine) == {"m1": 50.0}
