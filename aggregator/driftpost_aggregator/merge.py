"""Merging windows into the rollups of their device, its cohorts and the fleet.

A batch is merged in memory first, so each rollup row is read and written once a batch however many windows
fall into it. How many devices a bucket holds is exact: a device's own rollup remembers in which cohorts it
was counted, so neither a second window nor a changed attribute counts it twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, tuple_

from driftpost_aggregator.store.database import upsert
from driftpost_aggregator.store.tables import rollups
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.window import Window

log = logging.getLogger(__name__)

# Keys asked for in one statement: five values each, far below every database's limit.
_KEYS_PER_QUERY = 2_000


@dataclass(frozen=True)
class Contribution:
    """One window on its way into the rollups.

    Attributes:
        device: that recorded it.
        bundle: whose streams it holds.
        start_ms: when it began, corrected Unix ms.
        window: the sketch.
        packed: its bytes as received, kept so that a bucket of one window needs no encoding.
    """

    device: str
    bundle: str
    start_ms: int
    window: Window
    packed: bytes


@dataclass(frozen=True)
class Key:
    """Which rollup: `scope_key` is the device's name, "key=value" of a cohort, "" of the fleet."""

    scope: str
    scope_key: str
    bundle: str
    start_ms: int


@dataclass
class _Sum:
    window: Window
    packed: bytes | None
    devices: int = 0
    cohorts: list[str] | None = None

    def add(self, window: Window) -> None:
        self.window = self.window.merge(window)
        self.packed = None

    def holds(self, window: Window) -> bool:
        """Add a window, if both together are no more than one can count."""
        try:
            self.add(window)
        except MalformedSketch:
            return False
        return True


def joined(total: Window | None, window: Window) -> Window:
    """Both as one; the first alone where they are more than a window can count.

    Only a device that invents its counts comes near that, and it must not keep the others from being judged.
    """
    if total is None:
        return window
    try:
        return total.merge(window)
    except MalformedSketch:
        return total


def cohorts_of(attributes: Mapping[str, str]) -> list[str]:
    """The cohorts a device belongs to, one for each attribute, as they are named in rollups."""
    return [f"{key}={value}" for key, value in sorted(attributes.items())]


def merge_into_rollups(
    connection: Connection,
    contributions: Sequence[Contribution],
    attributes: Mapping[str, Mapping[str, str]],
    *,
    bucket_s: int,
    now_ms: int,
) -> int:
    """Add windows to the rollups, in the caller's write transaction.

    Args:
        connection: a connection in a write transaction that no other worker's merge runs beside.
        contributions: windows that were never merged before.
        attributes: key to value, per device.
        bucket_s: length of a bucket, seconds.
        now_ms: Unix ms.

    Returns:
        Rollup rows written.
    """
    own = _by_device(contributions, bucket_s)
    stored = _load(connection, own, bucket_s)
    wide: dict[Key, _Sum] = {}
    full: set[Key] = set()
    result: dict[Key, _Sum] = {}
    for key, part in own.items():
        before = stored.get(key)
        counted = set(before.cohorts or []) if before is not None else set()
        present = cohorts_of(attributes.get(key.scope_key, {}))
        for scope, name, new in [
            ("fleet", "", before is None),
            *(("cohort", cohort, cohort not in counted) for cohort in present),
        ]:
            wider = Key(scope, name, key.bundle, key.start_ms)
            if wider not in wide:
                wide[wider] = _Sum(part.window, part.packed)
            elif not wide[wider].holds(part.window):
                full.add(wider)
            wide[wider].devices += new
        merged = _Sum(part.window, part.packed, 1, sorted(counted | set(present)))
        if before is not None:
            merged.add(before.window)
        result[key] = merged
    for key, before in _load(connection, wide, bucket_s).items():
        if not wide[key].holds(before.window):
            full.add(key)
        wide[key].devices += before.devices
    for key in full:
        # Only a device that invents its counts can fill one: what its neighbours send is no less good, and
        # stays in their own rollups.
        log.warning(
            "the merged window of %s %s at %d ms can hold no more", key.scope, key.scope_key, key.start_ms
        )
    result |= {key: part for key, part in wide.items() if key not in full}
    upsert(connection, rollups, [_row(key, part, bucket_s, now_ms) for key, part in result.items()])
    return len(result)


def _by_device(contributions: Iterable[Contribution], bucket_s: int) -> dict[Key, _Sum]:
    sums: dict[Key, _Sum] = {}
    bucket_ms = bucket_s * 1000
    for part in contributions:
        start = part.start_ms // bucket_ms * bucket_ms
        key = Key("device", part.device, part.bundle, start)
        if key in sums:
            sums[key].add(part.window)
        else:
            sums[key] = _Sum(part.window, part.packed)
    return sums


def _load(connection: Connection, wanted: Iterable[Key], bucket_s: int) -> dict[Key, _Sum]:
    keys = list(wanted)
    columns = (rollups.c.scope, rollups.c.scope_key, rollups.c.bundle, rollups.c.bucket_start_ms)
    found: dict[Key, _Sum] = {}
    for begin in range(0, len(keys), _KEYS_PER_QUERY):
        chunk = keys[begin : begin + _KEYS_PER_QUERY]
        values = [(key.scope, key.scope_key, key.bundle, bucket_s, key.start_ms) for key in chunk]
        query = select(*columns, rollups.c.devices, rollups.c.cohorts, rollups.c.window).where(
            tuple_(
                rollups.c.scope,
                rollups.c.scope_key,
                rollups.c.bundle,
                rollups.c.bucket_s,
                rollups.c.bucket_start_ms,
            ).in_(values)
        )
        for row in connection.execute(query):
            key = Key(row.scope, row.scope_key, row.bundle, row.bucket_start_ms)
            found[key] = _Sum(Window.from_bytes(row.window), None, row.devices, row.cohorts)
    return found


def _row(key: Key, part: _Sum, bucket_s: int, now_ms: int) -> dict[str, object]:
    return {
        "scope": key.scope,
        "scope_key": key.scope_key,
        "bundle": key.bundle,
        "bucket_s": bucket_s,
        "bucket_start_ms": key.start_ms,
        "rows": part.window.rows,
        "parts": part.window.parts,
        "devices": part.devices,
        "updated_ms": now_ms,
        "cohorts": part.cohorts,
        "window": part.packed if part.packed is not None else part.window.to_bytes(),
    }
