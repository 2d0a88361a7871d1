"""Totals over the whole fleet."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Double, cast, func, select

from driftpost_aggregator.store import tables
from driftpost_aggregator.web.queries.standing import STANDING, STANDING_STATES

_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Coverage:
    """What devices say they recorded, and where it is; by their newest ledgers.

    Attributes:
        devices: Devices that have sent a ledger.
        recorded_windows, recorded_rows: Recorded on devices.
        acked_windows, acked_rows: Acknowledged by an aggregator, so in the database.
        pending_windows, pending_rows: Still waiting on devices.
        quarantined_windows, quarantined_rows: Refused.
        merged_windows: Windows that were merged into coarser ones while they waited; their counts are not
        lost. lost_rows_at_start: Inferences that a power cut took before they were recorded.
    """

    devices: int
    recorded_windows: int
    recorded_rows: int
    acked_windows: int
    acked_rows: int
    pending_windows: int
    pending_rows: int
    quarantined_windows: int
    quarantined_rows: int
    merged_windows: int
    lost_rows_at_start: int

    @property
    def share(self) -> float | None:
        """Acknowledged share of what was recorded, 0 to 1, or None before the first ledger."""
        return self.acked_rows / self.recorded_rows if self.recorded_rows else None

    @property
    def balanced(self) -> bool:
        """Whether recorded = acknowledged + pending + quarantined."""
        return self.recorded_rows == self.acked_rows + self.pending_rows + self.quarantined_rows


@dataclass(frozen=True)
class Totals:
    """The fleet in numbers.

    Attributes:
        devices: Ever seen.
        online: Of these, connected now.
        drifting: With a finding that stands.
        windows, rows: Stored from them; a window may stand for several merged ones.
        incidents: Standing incidents by (scope, state).
        requests: Retrain requests by state.
        quarantined_day: Messages refused in the last 24 hours.
        coverage: By the devices' own ledgers.
    """

    devices: int
    online: int
    drifting: int
    windows: int
    rows: int
    incidents: dict[tuple[str, str], int]
    requests: dict[str, int]
    quarantined_day: int
    coverage: Coverage

    @property
    def offline(self) -> int:
        """Seen once, not connected now."""
        return self.devices - self.online

    def incidents_in(self, *states: str) -> int:
        """Standing incidents in these states."""
        return sum(count for (_, state), count in self.incidents.items() if state in states)

    def incidents_of(self, scope: str) -> int:
        """Standing incidents of this scope."""
        return sum(count for (found, _), count in self.incidents.items() if found == scope)

    def requests_in(self, *states: str) -> int:
        """Retrain requests in these states."""
        return sum(self.requests.get(state, 0) for state in states)


def coverage(connection: Connection, device: str | None = None) -> Coverage:
    """Sum of the newest ledgers of every incarnation, of one device or of all."""
    ledger = tables.ledgers.c
    names = [
        "recorded_windows",
        "recorded_rows",
        "acked_windows",
        "acked_rows",
        "pending_windows",
        "pending_rows",
        "quarantined_windows",
        "quarantined_rows",
        "merged_windows",
        "lost_rows_at_start",
    ]
    # Counted apart: beside the sums, telling devices apart would sort the whole table.
    counted = select(func.count(func.distinct(ledger.device)))
    summed = select(*(_sum(ledger[name]) for name in names))
    if device is not None:
        counted = counted.where(ledger.device == device)
        summed = summed.where(ledger.device == device)
    devices = connection.scalar(counted)
    return Coverage(int(devices or 0), *(int(value) for value in connection.execute(summed).one()))


def _sum(column: ColumnElement[int]) -> ColumnElement[float]:
    """A sum that is exact up to 2**53 and can not overflow.

    A thousand devices that lie with the largest counts the protocol has would otherwise make SQLite refuse
    the query, and with it every page.
    """
    return func.coalesce(func.sum(cast(column, Double)), 0.0)


def totals(connection: Connection, now_ms: int) -> Totals:
    """Count the fleet: a few scans, so share the answer (`Site.totals`)."""
    device, incident, request = tables.devices.c, tables.incidents.c, tables.retrain_requests.c
    sums = connection.execute(
        select(
            func.count().label("devices"),
            _sum(device.windows).label("windows"),
            _sum(device.rows).label("rows"),
        )
    ).one()
    online = connection.scalar(select(func.count()).where(device.online.is_(True)))
    drifting = connection.scalar(select(func.count(func.distinct(tables.findings.c.device))).where(STANDING))
    incidents = connection.execute(
        select(incident.scope, incident.state, func.count())
        .where(incident.state.in_(STANDING_STATES))
        .group_by(incident.scope, incident.state)
    )
    requests = connection.execute(select(request.state, func.count()).group_by(request.state))
    refused = connection.scalar(
        select(func.count()).where(tables.quarantine.c.received_ms >= now_ms - _DAY_MS)
    )
    return Totals(
        devices=int(sums.devices),
        online=int(online or 0),
        drifting=int(drifting or 0),
        windows=int(sums.windows),
        rows=int(sums.rows),
        incidents={(scope, state): int(count) for scope, state, count in incidents},
        requests={state: int(count) for state, count in requests},
        quarantined_day=int(refused or 0),
        coverage=coverage(connection),
    )
