"""Merging windows into the rollups of their device, its cohorts and the fleet.

A batch is merged in memory first, so each rollup row is read and written once a batch however many windows
fall into it. How many devices a bucket holds is exact: a device's own rollup remembers in which cohorts it
was counted, so neither a second window nor a changed attribute counts it twice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection, ScalarSelect, func, select

from driftpost_aggregator.store import bulk, locks
from driftpost_aggregator.store.tables import rollups
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.window import Window
from driftpost_sketches.window_batch import WindowBatch

log = logging.getLogger(__name__)

COLUMNS = (
    "scope",
    "scope_key",
    "bundle",
    "bucket_s",
    "bucket_start_ms",
    "rows",
    "parts",
    "devices",
    "updated_ms",
    "cohorts",
    "window",
)
_KEY = tuple(rollups.c[name] for name in COLUMNS[:5])
_READ = (*_KEY, rollups.c.devices, rollups.c.cohorts, rollups.c.window)


class Key(NamedTuple):
    """Which rollup: `scope_key` is the device's name, "key=value" of a cohort, "" of the fleet."""

    scope: str
    scope_key: str
    bundle: str
    bucket_s: int
    start_ms: int


@dataclass(frozen=True)
class Contribution:
    """One window on its way into the rollups.

    Attributes:
        device: that recorded it.
        bundle: whose streams it holds.
        bucket_s: length of the buckets it is merged into, seconds.
        start_ms: when it began, corrected Unix ms.
        batch, place: its sketch, as it was read.
        packed: its bytes as received, kept so that a bucket of one window needs no encoding.
    """

    device: str
    bundle: str
    bucket_s: int
    start_ms: int
    batch: WindowBatch
    place: int
    packed: bytes

    @property
    def key(self) -> Key:
        """The device's rollup."""
        length_ms = self.bucket_s * 1000
        start_ms = self.start_ms // length_ms * length_ms
        return Key("device", self.device, self.bundle, self.bucket_s, start_ms)


@dataclass
class _Gathered:
    """What a batch adds to one rollup: windows by the batch they were read in."""

    places: dict[int, tuple[WindowBatch, list[int]]] = field(default_factory=dict)
    packed: bytes | None = None  # of the only window
    devices: int = 0

    def add(self, part: Contribution) -> None:
        self.packed = None if self.places else part.packed
        self.places.setdefault(id(part.batch), (part.batch, []))[1].append(part.place)

    def extend(self, other: _Gathered) -> None:
        self.packed = None if self.places else other.packed
        for number, (batch, places) in other.places.items():
            self.places.setdefault(number, (batch, []))[1].extend(places)

    def total(self) -> Window:
        whole: Window | None = None
        for batch, places in self.places.values():
            one = batch.total(places)
            whole = one if whole is None else whole.merge(one)
        assert whole is not None, "gathered from at least one window"
        return whole


@dataclass(frozen=True)
class Stored:
    """A rollup as it stands in the database."""

    devices: int
    cohorts: tuple[str, ...]
    window: bytes


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
    now_ms: int,
) -> list[Key]:
    """Add windows to the rollups, in the caller's write transaction, at its end.

    The rows of the devices must be locked, so that nobody else merges into theirs. From here to the commit
    nobody else merges into those of cohorts and fleet either.

    Args:
        connection: a connection in a write transaction.
        contributions: windows that were never merged before.
        attributes: key to value, per device.
        now_ms: Unix ms.

    Returns:
        The rollups that were written.

    Raises:
        MalformedSketch: a device's own bucket would hold more than a window can count.
    """
    if not contributions:
        return []
    own: dict[Key, _Gathered] = {}
    for part in contributions:
        own.setdefault(part.key, _Gathered()).add(part)
    stored = load(connection, own)
    wide: dict[Key, _Gathered] = {}
    fresh: list[bulk.Values] = []
    grown: list[bulk.Values] = []
    for key, gathered in own.items():
        before = stored.get(key)
        counted = set(before.cohorts) if before is not None else set()
        present = cohorts_of(attributes.get(key.scope_key, {}))
        for scope, name, new in [
            ("fleet", "", before is None),
            *(("cohort", cohort, cohort not in counted) for cohort in present),
        ]:
            wider = wide.setdefault(key._replace(scope=scope, scope_key=name), _Gathered())
            wider.extend(gathered)
            wider.devices += new
        window = gathered.total()
        packed = gathered.packed
        if before is not None:
            window = window.merge(Window.from_bytes(before.window))
            packed = None
        (fresh if before is None else grown).append(
            row(key, window, packed, devices=1, cohorts=sorted(counted | set(present)), now_ms=now_ms)
        )
    bulk.insert(connection, rollups, COLUMNS, fresh)
    bulk.replace(connection, rollups, COLUMNS, grown)
    locks.hold(connection, locks.WIDE)
    widened = _widen(connection, wide, now_ms)
    return [*own, *widened]


def _widen(connection: Connection, wide: Mapping[Key, _Gathered], now_ms: int) -> list[Key]:
    stored = load(connection, wide)
    rows: list[bulk.Values] = []
    written: list[Key] = []
    for key in sorted(wide):
        gathered, before = wide[key], stored.get(key)
        try:
            window = gathered.total()
            if before is not None:
                window = window.merge(Window.from_bytes(before.window))
        except MalformedSketch:
            # Only a device that invents its counts can fill one: what its neighbours send is no less good,
            # and stays in their own rollups.
            log.warning(
                "the merged window of %s %s at %d ms can hold no more",
                key.scope,
                key.scope_key,
                key.start_ms,
            )
            continue
        packed = gathered.packed if before is None else None
        devices = gathered.devices + (before.devices if before is not None else 0)
        rows.append(row(key, window, packed, devices=devices, cohorts=None, now_ms=now_ms))
        written.append(key)
    bulk.replace(connection, rollups, COLUMNS, rows)
    return written


def shortest(scope: str, scope_key: str, bundle: str) -> ScalarSelect[int]:
    """Length of the shortest buckets of one scope, seconds: longer ones hold the same rows again."""
    here = (rollups.c.scope == scope, rollups.c.scope_key == scope_key, rollups.c.bundle == bundle)
    return select(func.min(rollups.c.bucket_s)).where(*here).scalar_subquery()


def load(connection: Connection, wanted: Iterable[Key]) -> dict[Key, Stored]:
    """Those of some rollups that exist."""
    return {
        Key(*values[:5]): Stored(values[5], tuple(_listed(values[6])), bytes(values[7]))
        for values in bulk.fetch(connection, rollups, _KEY, list(wanted), _READ)
    }


def _listed(cohorts: str | list[str] | None) -> list[str]:
    """A JSON column as it comes from the driver."""
    found: list[str] = json.loads(cohorts) if isinstance(cohorts, str) else cohorts or []
    return found


def row(
    key: Key,
    window: Window,
    packed: bytes | None = None,
    *,
    devices: int,
    cohorts: Sequence[str] | None,
    now_ms: int,
) -> bulk.Values:
    """The values of `COLUMNS`; `packed` are the window's bytes where they are known."""
    return (
        *key,
        window.rows,
        window.parts,
        devices,
        now_ms,
        None if cohorts is None else json.dumps(list(cohorts)),
        window.to_bytes() if packed is None else packed,
    )
