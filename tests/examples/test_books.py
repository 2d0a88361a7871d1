"""The books are read from files that the real agent's store and the real aggregator's schema make."""

import sqlite3

import pytest
from sqlalchemy import JSON, BigInteger, Boolean, Float, Integer, LargeBinary, Text, insert

from books import DeviceBook, FleetBook, device_book, findings, fleet_books, incidents, requests
from driftpost_agent.store import Store
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import migrate, open_engine, writing
from driftpost_sync.clock import SystemClock
from driftpost_sync.messages import WindowBody


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "agent.db", clock=SystemClock()) as store:
        for rows in (40, 41):
            body = WindowBody("b" * 64, b"s" * 16, 0, 2000, None, None, b"window", b"")
            store.record_window(body, windows=1, rows=rows)
        yield store


def row(table, **values):
    """A row in which every column that must have a value has one."""
    empty = {Text: "", Boolean: False, JSON: [], LargeBinary: b"", Float: 0.0, BigInteger: 0, Integer: 0}
    blank = {
        column.name: next(value for kind, value in empty.items() if isinstance(column.type, kind))
        for column in table.columns
        if not column.nullable and column.autoincrement is not True and column.name != "id"
    }
    optional = {column.name: None for column in table.columns if column.nullable}
    return {**optional, **blank, **values}


def window(device, seq, rows):
    return row(tables.windows, device=device, incarnation=1 << 32, seq=seq, rows=rows)


def rollup(scope, key, rows, bucket_s=2):
    return row(tables.rollups, scope=scope, scope_key=key, bundle="b", bucket_s=bucket_s, rows=rows)


def incident(name, **changes):
    cohort = {"scope": "cohort", "scope_key": "camera=B", "state": "open", "opened_ms": 200}
    return row(tables.incidents, incident=name, **{**cohort, **changes})


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "fleet.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    with writing(engine) as connection:
        for table, rows in (
            (tables.devices, [row(tables.devices, device="meter-9")]),
            (tables.windows, [window("meter-1", 1, 40), window("meter-1", 2, 41), window("meter-2", 1, 7)]),
            (
                tables.rollups,
                [
                    rollup("device", "meter-1", 81),
                    rollup("device", "meter-1", 81, bucket_s=3_600),
                    rollup("cohort", "camera=B", 88),
                    rollup("fleet", "", 88),
                ],
            ),
            (tables.quarantine, [row(tables.quarantine, device="meter-2")]),
            (
                tables.incidents,
                [incident("i-2", opened_ms=500, state="absorbed", absorbed_into="i-1"), incident("i-1")],
            ),
            (
                tables.incident_devices,
                [row(tables.incident_devices, incident="i-1", device=name) for name in ("m-2", "m-4")],
            ),
            (
                tables.findings,
                [
                    row(
                        tables.findings,
                        device=device,
                        seq=seq,
                        id="f",
                        state=state,
                        kind="shift",
                        at_ms=at_ms,
                    )
                    for device, seq, state, at_ms in (
                        ("m-4", 1, "raised", 90),
                        ("m-2", 1, "raised", 80),
                        ("m-2", 2, "cleared", 85),
                    )
                ],
            ),
            (
                tables.retrain_requests,
                [row(tables.retrain_requests, request="msg_1", incident="i-1", state="accepted")],
            ),
        ):
            connection.execute(insert(table), rows)
    engine.dispose()
    return path


def test_a_devices_book_is_its_ledger_even_while_the_agent_writes(store):
    assert device_book(store.path) == DeviceBook(recorded=81, pending=81, quarantined=0, lost=0)


def test_acknowledged_rows_are_no_longer_pending(store):
    with store.outbox_transaction() as outbox:
        outbox.next_batch(64_000, now=0)
        outbox.acknowledge(store.incarnation, [(1, 1)])
        outbox.settle()
    assert device_book(store.path) == DeviceBook(recorded=81, pending=41, quarantined=0, lost=0)


def test_the_fleets_books_count_windows_merged_rows_and_refusals_by_device(database):
    assert fleet_books(database) == {
        "meter-1": FleetBook(windows=2, stored=81, merged=81, quarantined=0),
        "meter-2": FleetBook(windows=1, stored=7, merged=0, quarantined=1),
        "meter-9": FleetBook(),
    }


def test_incidents_come_in_order_of_opening_with_their_devices(database):
    first, second = incidents(database)
    assert (first.id, first.scope, first.scope_key) == ("i-1", "cohort", "camera=B")
    assert first.devices == {"m-2", "m-4"}
    assert (first.absorbed_into, second.absorbed_into) == ("", "i-1")
    assert second.devices == frozenset()


def test_findings_are_those_that_were_raised_also_when_they_were_taken_back(database):
    assert [(one.device, one.kind, one.at_ms) for one in findings(database)] == [
        ("m-2", "shift", 80),
        ("m-4", "shift", 90),
    ]


def test_requests_come_with_their_state(database):
    assert requests(database) == {"msg_1": "accepted"}


def test_reading_never_makes_a_database(tmp_path):
    with pytest.raises(sqlite3.OperationalError):
        device_book(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []
