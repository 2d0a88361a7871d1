"""Reads what the run left behind from the SQLite files: the devices' stores, the aggregator's database.

The demo's exactness is judged on these rows, not on what any process says about itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from summary import Finding, Incident

BUSY_SECONDS = 5.0


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can't write; the file may be in use."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as connection:
        yield connection


@dataclass(frozen=True)
class DeviceBook:
    """An agent's own account.

    Attributes:
        recorded: Rows of all windows that it ever closed.
        pending: Rows that wait for an acknowledgement; while the agent runs, also rows whose acknowledgement
            it has not written down yet.
        quarantined: Rows that were refused.
        lost: Rows that it knows to have lost in a crash.
        unsent_findings: Findings, raised or cleared, that wait for an acknowledgement; as `pending`.
    """

    recorded: int
    pending: int
    quarantined: int
    lost: int
    unsent_findings: int = 0


def device_book(store: Path) -> DeviceBook:
    """Read an agent's store."""
    with _reading(store) as connection:
        totals = connection.execute(
            "select total(recorded_rows), total(pending_rows), total(quarantined_rows),"
            " total(lost_rows_at_start) from ledger"
        ).fetchone()
        (unsent,) = connection.execute(
            "select count(*) from messages where kind = 'finding' and status = 0"
        ).fetchone()
    return DeviceBook(*(int(one) for one in (*totals, unsent)))


@dataclass(frozen=True)
class FleetBook:
    """A device's account at the aggregator.

    Attributes:
        windows: Windows stored.
        stored: Rows in them.
        merged: Rows in its merged windows.
        quarantined: Messages refused.
    """

    windows: int = 0
    stored: int = 0
    merged: int = 0
    quarantined: int = 0


def fleet_books(database: Path) -> dict[str, FleetBook]:
    """Read the aggregator's account of every device that it has heard of."""
    with _reading(database) as connection:
        stored = {
            device: (windows, rows)
            for device, windows, rows in connection.execute(
                "select device, count(*), sum(rows) from windows group by device"
            )
        }
        # Hours and days, once they are over, hold the same rows again.
        merged = dict(
            connection.execute(
                "select scope_key, sum(rows) from rollups where scope = 'device' "
                "and bucket_s = (select min(bucket_s) from rollups) group by scope_key"
            ).fetchall()
        )
        refused = dict(
            connection.execute(
                "select device, count(*) from quarantine where device is not null group by device"
            ).fetchall()
        )
        names = [name for (name,) in connection.execute("select device from devices")]
    return {
        name: FleetBook(*stored.get(name, (0, 0)), merged.get(name, 0), refused.get(name, 0))
        for name in {*names, *stored, *merged, *refused}
    }


def findings(database: Path) -> list[Finding]:
    """Every finding that a device ever raised, in order, also those that it took back or no incident has."""
    with _reading(database) as connection:
        rows = connection.execute(
            "select device, kind, text, at_ms from findings where state = 'raised' order by at_ms, device, id"
        ).fetchall()
    return [Finding(*row) for row in rows]


def incidents(database: Path) -> list[Incident]:
    """Every incident in order of opening, also those that were resolved or absorbed since."""
    with _reading(database) as connection:
        devices: dict[str, set[str]] = {}
        for incident, device in connection.execute("select incident, device from incident_devices"):
            devices.setdefault(incident, set()).add(device)
        rows = connection.execute(
            "select incident, scope, scope_key, kind, detail, cause, state, absorbed_into,"
            " onset_ms, opened_ms from incidents order by opened_ms"
        ).fetchall()
    return [
        Incident(
            id=name,
            scope=scope,
            scope_key=scope_key,
            kind=kind,
            detail=detail,
            cause=cause,
            state=state,
            absorbed_into=absorbed_into or "",
            devices=frozenset(devices.get(name, ())),
            onset_ms=onset_ms,
            opened_ms=opened_ms,
        )
        for name, scope, scope_key, kind, detail, cause, state, absorbed_into, onset_ms, opened_ms in rows
    ]


def requests(database: Path) -> dict[str, str]:
    """State of each retrain request by id."""
    with _reading(database) as connection:
        return dict(connection.execute("select request, state from retrain_requests").fetchall())
