"""The rows of a batch's devices: locked, made where they are missing, and grown by what the batch brought."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from driftpost_aggregator.store import bulk
from driftpost_aggregator.store.tables import devices

_NEW_COLUMNS = (
    "device",
    "online",
    "first_seen_ms",
    "last_seen_ms",
    "windows",
    "parts",
    "rows",
    "quarantined",
)
_GROWTH_COLUMNS = tuple(
    devices.c[name]
    for name in (
        "device",
        "windows",
        "parts",
        "rows",
        "quarantined",
        "last_seen_ms",
        "incarnation",
        "last_window_ms",
        "evidence",
    )
)
# The incarnation is only a guess until its birth says it: a backlog may be of an earlier one. A batch without
# windows brings a last_window_ms of -1, before every window there was.
_GROW = """\
windows = t.windows + k.windows, parts = t.parts + k.parts, rows = t.rows + k.rows,
quarantined = t.quarantined + k.quarantined,
last_seen_ms = CASE WHEN k.last_seen_ms > t.last_seen_ms THEN k.last_seen_ms ELSE t.last_seen_ms END,
incarnation = coalesce(t.incarnation, k.incarnation),
last_window_ms = CASE WHEN k.last_window_ms >= coalesce(t.last_window_ms, 0)
    THEN k.last_window_ms ELSE t.last_window_ms END,
evidence = CASE WHEN k.last_window_ms >= coalesce(t.last_window_ms, 0) THEN k.evidence ELSE t.evidence END"""


@dataclass
class Growth:
    """What a batch adds to a device's row."""

    last_seen_ms: int
    incarnation: int = 0
    windows: int = 0
    parts: int = 0
    rows: int = 0
    quarantined: int = 0
    last_window_ms: int | None = None
    evidence: float | None = None


@dataclass(frozen=True)
class Locked:
    """Devices whose rows are held.

    Attributes:
        made: whose rows did not exist before.
        unborn: which never told anything about themselves.
    """

    made: frozenset[str]
    unborn: frozenset[str]


def lock(connection: Connection, seen_ms: Mapping[str, int]) -> Locked:
    """Lock the rows of devices, in the order of their names, and make those that are missing.

    Everything that is kept by device (its sequence numbers, windows, rollups, findings, ledgers) is changed
    only by who holds its row.

    Args:
        connection: in a write transaction that holds no row yet.
        seen_ms: when each was last heard of, Unix ms.
    """
    read = (devices.c.device, devices.c.clock_good)

    def locked(names: Iterable[str]) -> dict[str, object]:
        keys = [(name,) for name in names]
        rows = bulk.fetch(connection, devices, [devices.c.device], keys, read, lock=True)
        return {row[0]: row[1] for row in rows}

    names = sorted(seen_ms)
    found = locked(names)
    missing = [name for name in names if name not in found]
    if missing:
        rows = [(name, False, seen_ms[name], seen_ms[name], 0, 0, 0, 0) for name in missing]
        bulk.insert_missing(connection, devices, _NEW_COLUMNS, rows)
        found |= locked(missing)
    unborn = frozenset(name for name, clock_good in found.items() if clock_good is None)
    return Locked(frozenset(missing), unborn)


def grow(connection: Connection, grown: Mapping[str, Growth]) -> None:
    """Add what the batch brought."""
    bulk.update(
        connection,
        devices,
        _GROWTH_COLUMNS,
        [
            (
                device,
                one.windows,
                one.parts,
                one.rows,
                one.quarantined,
                one.last_seen_ms,
                one.incarnation,
                -1 if one.last_window_ms is None else one.last_window_ms,
                one.evidence,
            )
            for device, one in sorted(grown.items())
        ],
        sets=_GROW,
        where="t.device = k.device",
    )
