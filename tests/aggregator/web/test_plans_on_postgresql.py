"""PostgreSQL's own plans: whatever ingest, triage, retention and the pages ask, an index answers.

With few rows PostgreSQL rightly walks a table; so here walking is made dear, and a plan that still does it
has no index to use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, event, text
from starlette.testclient import TestClient

import busy_fleet
from driftpost_aggregator.retention import Keep, Retention
from driftpost_aggregator.store.database import migrate, open_engine, reading
from driftpost_aggregator.web.app import build
from driftpost_aggregator.web.options import WebOptions
from paper_fleet import FLEET, NOW
from postgresql import running_postgresql

# Tables that grow with the fleet or with time, by the names of their parts.
LARGE = (
    "devices",
    "device_attributes",
    "seen",
    "windows",
    "rollups",
    "findings",
    "coarse_work",
    "quarantine",
)
WALK = re.compile(rf"Seq Scan on ({'|'.join(LARGE)})(_\w+)? ")
# Answers that are shared by everybody for seconds (the totals), or for a triage round (who runs what and who
# stands where), and DDL.
SHARED = (
    r"count\(\*\) AS devices, coalesce\(sum",
    r"SELECT DISTINCT devices\.bundle",
    r"count\(distinct\(ledgers\.device\)\)",
    r"coalesce\(devices\.evidence",
    r"FROM devices WHERE devices\.bundle IN",
    r"^SELECT pg_|^CREATE|^DROP|pg_inherits",
)
ADDRESSES = [
    "/",
    "/devices",
    "/devices?state=drifting",
    "/devices?attribute=camera%3DB",
    "/devices/meter-00001",
    "/incidents",
    "/incidents/inc-1",
    "/streams",
    "/requests",
    "/quarantine",
    "/api/v1/findings?device=meter-00001",
    "/charts/fleet?rows=devices",
    "/charts/fleet?rows=cohorts",
    "/charts/devices/meter-00001/evidence",
    "/charts/devices/meter-00001/streams?span=30d",
    "/charts/incidents/inc-1/image.brightness",
]


@pytest.fixture(scope="module")
def fleet() -> Iterator[busy_fleet.BusyFleet]:
    with running_postgresql() as url:
        engine = open_engine(url)
        migrate(engine)
        built = busy_fleet.build(engine, devices=12, windows=42)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
        yield built
        engine.dispose()


@contextmanager
def statements(engine: Engine) -> Iterator[list[tuple[str, object]]]:
    """What is sent meanwhile."""
    sent: list[tuple[str, object]] = []

    def note(_c: object, _k: object, statement: str, parameters: object, _x: object, many: bool) -> None:
        if re.match(r"SELECT|UPDATE|DELETE|INSERT", statement) and not many:
            sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def walks(engine: Engine, sent: list[tuple[str, object]]) -> list[tuple[str, str]]:
    """Statements that walk a large table though walking is dear."""
    found = []
    with reading(engine) as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        for statement, parameters in sent:
            if any(re.search(shared, " ".join(statement.split())) for shared in SHARED):
                continue
            rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
            found += [(match[0], statement) for row in rows if (match := WALK.search(f"{row[0]} "))]
    return found


def test_ingest_finds_everything_by_an_index(fleet: busy_fleet.BusyFleet) -> None:
    end_ms = fleet.now_ms + 300_000
    messages = [
        (device.identity.up, device.message([device.window(fleet.window(), end_ms)], end_ms))
        for device in fleet.devices.values()
    ]
    messages += [(device.identity.state, device.presence()) for device in fleet.devices.values()]
    with statements(fleet.engine) as sent:
        fleet.ingest(messages, end_ms)
    assert len(sent) > 8
    assert walks(fleet.engine, sent) == []


@pytest.mark.parametrize("address", ADDRESSES)
def test_pages_find_everything_by_an_index(fleet: busy_fleet.BusyFleet, address: str) -> None:
    app = build(fleet.engine, WebOptions(fleet=FLEET, port=0), now_ms=lambda: NOW + 1_500)
    with statements(fleet.engine) as sent, TestClient(app, base_url="http://127.0.0.1:8088") as client:
        assert client.get(address).status_code == 200
    assert walks(fleet.engine, sent) == []


def test_retention_finds_everything_by_an_index(fleet: busy_fleet.BusyFleet) -> None:
    now_ms = NOW + 40 * 86_400_000
    retention = Retention(fleet.engine, bucket_s=300, keep=Keep(), now_ms=lambda: now_ms)
    with statements(fleet.engine) as sent:
        while retention.step():
            pass
    assert len(sent) > 40
    assert walks(fleet.engine, sent) == []
