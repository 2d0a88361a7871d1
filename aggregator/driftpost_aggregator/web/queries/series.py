"""Merged windows over time: rollups of a device, a cohort or the fleet, and evidence of single windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Column, ColumnElement, Connection, func, select, true

from driftpost_aggregator.merge import joined
from driftpost_aggregator.store import tables
from driftpost_sketches.window import Window

SCOPES = ("fleet", "cohort", "device")

# Points that a chart over time shows at most: more than that nobody tells apart, and each is a window to
# decode.
MAX_POINTS = 120
# Fewer points than this say little about the course of things; finer buckets are used then, if there are any.
_FEW_POINTS = 24
# Buckets merged into one point of a long span; of more than that only so many, evenly spaced, are read.
_MERGED_EACH = 8
# Member devices whose windows are merged when an incident's scope has no rollup of its own.
MAX_MERGED_DEVICES = 40

_rollup = tables.rollups.c
_window = tables.windows.c


@dataclass(frozen=True)
class Point:
    """One merged window.

    Attributes:
        start_ms: Unix time of its start.
        bucket_s: Its length, seconds.
        rows: Inferences in it.
        devices: Devices in it.
        window: The sketches.
    """

    start_ms: int
    bucket_s: int
    rows: int
    devices: int
    window: Window


def bundles_of(connection: Connection, scope: str, scope_key: str) -> list[str]:
    """Bundles for which this scope has rollups, the one with the newest data first."""
    rows = connection.execute(
        select(_rollup.bundle, func.max(_rollup.bucket_start_ms))
        .where(_rollup.scope == scope, _rollup.scope_key == scope_key)
        .group_by(_rollup.bundle)
        .order_by(func.max(_rollup.bucket_start_ms).desc())
        .limit(MAX_POINTS)
    )
    return [bundle for bundle, _ in rows]


def bucket_lengths(connection: Connection, scope: str, scope_key: str, bundle: str) -> list[int]:
    """Lengths of the buckets this scope has, seconds, ascending."""
    here = (_rollup.scope == scope, _rollup.scope_key == scope_key, _rollup.bundle == bundle)
    lengths: list[int] = []
    while True:
        # One step into the index for each length, however many buckets there are.
        beyond = lengths[-1] if lengths else 0
        longer = connection.scalar(select(func.min(_rollup.bucket_s)).where(*here, _rollup.bucket_s > beyond))
        if longer is None:
            return lengths
        lengths.append(int(longer))


def fitting_length(lengths: Sequence[int], span_s: float) -> int | None:
    """The coarsest length that still gives enough points over the span, else the finest there is."""
    if not lengths:
        return None
    enough = [length for length in lengths if span_s / length >= _FEW_POINTS]
    return max(enough) if enough else min(lengths)


def points(
    connection: Connection,
    scope: str,
    scope_key: str,
    bundle: str,
    *,
    from_ms: int,
    to_ms: int,
    most: int = MAX_POINTS,
) -> list[Point]:
    """The newest merged windows, at most `most`, that overlap from_ms..to_ms; oldest first."""
    length = fitting_length(
        bucket_lengths(connection, scope, scope_key, bundle), max(1.0, (to_ms - from_ms) / 1000)
    )
    if length is None:
        return []
    rows = connection.execute(
        select(_rollup.bucket_start_ms, _rollup.bucket_s, _rollup.rows, _rollup.devices, _rollup.window)
        .where(
            _rollup.scope == scope,
            _rollup.scope_key == scope_key,
            _rollup.bundle == bundle,
            _rollup.bucket_s == length,
            # A bucket that began before the span may hold its first rows.
            _rollup.bucket_start_ms > from_ms - length * 1000,
            _rollup.bucket_start_ms <= to_ms,
        )
        .order_by(_rollup.bucket_start_ms.desc())
        .limit(most)
    )
    found = [
        Point(row.bucket_start_ms, row.bucket_s, row.rows, row.devices, Window.from_bytes(bytes(row.window)))
        for row in rows
    ]
    return found[::-1]


@dataclass(frozen=True)
class Sampling:
    """Which buckets of a span are read, so that its whole length shows at a bounded cost.

    Attributes:
        from_ms: Where it begins: at the first bucket if that is later than what was asked for.
        length_s: Of a bucket.
        group: Adjacent buckets that become one point.
        stride: Of these only every so-manieth is read.
    """

    from_ms: int
    length_s: int
    group: int
    stride: int

    @classmethod
    def of(
        cls,
        connection: Connection,
        scope: str,
        scope_key: str,
        bundle: str,
        *,
        from_ms: int,
        to_ms: int,
        each: int,
    ) -> Sampling | None:
        """How to read a span with at most `each` buckets a point, or None if there is nothing to read."""
        lengths = bucket_lengths(connection, scope, scope_key, bundle)
        length = fitting_length(lengths, max(1.0, (to_ms - from_ms) / 1000))
        if length is None:
            return None
        here = (_rollup.scope == scope, _rollup.scope_key == scope_key, _rollup.bundle == bundle)
        first = connection.scalar(
            select(func.min(_rollup.bucket_start_ms)).where(
                *here, _rollup.bucket_s == length, _rollup.bucket_start_ms > from_ms - length * 1000
            )
        )
        if first is None or first > to_ms:
            return None
        # A young fleet may have finer buckets that fit its age better.
        begin = max(from_ms, int(first))
        length = fitting_length(lengths, max(1.0, (to_ms - begin) / 1000)) or length
        buckets = -(-(to_ms - begin) // (length * 1000)) + 1
        group = -(-buckets // MAX_POINTS)
        return cls(begin, length, group, -(-group // each))

    def reads(self, start_ms: Column[int]) -> ColumnElement[bool]:
        """Whether a bucket that starts then is read."""
        if self.stride == 1:
            return true()
        return (start_ms // (self.length_s * 1000)) % self.stride == 0


def course(
    connection: Connection, scope: str, scope_key: str, bundle: str, *, from_ms: int, to_ms: int
) -> list[Point]:
    """A scope over a whole span, oldest first: at most MAX_POINTS points, each of adjacent buckets merged."""
    found = Sampling.of(connection, scope, scope_key, bundle, from_ms=from_ms, to_ms=to_ms, each=_MERGED_EACH)
    if found is None:
        return []
    length_ms = found.length_s * 1000
    rows = connection.execute(
        select(_rollup.bucket_start_ms, _rollup.rows, _rollup.devices, _rollup.window)
        .where(
            _rollup.scope == scope,
            _rollup.scope_key == scope_key,
            _rollup.bundle == bundle,
            _rollup.bucket_s == found.length_s,
            _rollup.bucket_start_ms > found.from_ms - length_ms,
            _rollup.bucket_start_ms <= to_ms,
            found.reads(_rollup.bucket_start_ms),
        )
        .order_by(_rollup.bucket_start_ms)
        .limit((MAX_POINTS + 2) * _MERGED_EACH)
    )
    points: list[Point] = []
    for row in rows:
        place = row.bucket_start_ms // length_ms // found.group * found.group * length_ms
        window = Window.from_bytes(bytes(row.window))
        if points and points[-1].start_ms == place:
            last = points.pop()
            points.append(
                Point(
                    place,
                    last.bucket_s,
                    last.rows + row.rows,
                    max(last.devices, row.devices),
                    joined(last.window, window),
                )
            )
        else:
            points.append(Point(place, found.length_s * found.group, row.rows, row.devices, window))
    return points


def merged(windows: Sequence[Window]) -> Window | None:
    """All of them as one, or None of none."""
    total: Window | None = None
    for window in windows:
        total = joined(total, window)
    return total


def since(found: Sequence[Point], from_ms: int) -> list[Window]:
    """Windows of the points that began at or after a time; of the newest one if none did.

    A bucket in which something began is partly from before: it is left out once there are others.
    """
    after = [point.window for point in found if point.start_ms >= from_ms]
    return after or [point.window for point in found[-1:]]


def merged_devices(
    connection: Connection, devices: Sequence[str], bundle: str, *, from_ms: int, to_ms: int, most: int
) -> Window | None:
    """The newest `most` buckets since `from_ms` of each of these devices as one window."""
    windows: list[Window] = []
    for device in devices[:MAX_MERGED_DEVICES]:
        windows += since(
            points(connection, "device", device, bundle, from_ms=from_ms, to_ms=to_ms, most=most), from_ms
        )
    return merged(windows)


@dataclass(frozen=True)
class Evidence:
    """A device's evidence at the end of one window.

    Attributes:
        device: Its name.
        start_ms, end_ms: Unix time of the window's start and end.
        bundle: Which bundle's streams it speaks of.
        values: float16[tracked streams], ln evidence.
    """

    device: str
    start_ms: int
    end_ms: int
    bundle: str
    values: np.ndarray[tuple[int], np.dtype[np.float16]]

    @property
    def largest(self) -> float:
        """Over streams, ln; 0 if nothing finite is there."""
        values = np.nan_to_num(
            self.values.astype(np.float64), nan=0.0, posinf=np.finfo(np.float16).max, neginf=0.0
        )
        return float(values.max(initial=0.0))


def evidence(
    connection: Connection, devices: Sequence[str], *, from_ms: int, cell_ms: int, cells: int
) -> list[Evidence]:
    """The last evidence of each device in every cell of time, by device, oldest first.

    Args:
        connection: To the database.
        devices: Names; each costs one index range and at most `cells` rows.
        from_ms: Unix time where the first cell starts.
        cell_ms: Length of a cell.
        cells: How many.
    """
    found: list[Evidence] = []
    for device in devices:
        last = (
            select(func.max(_window.start_ms).label("start_ms"))
            .where(
                _window.device == device,
                _window.start_ms >= from_ms,
                _window.start_ms < from_ms + cell_ms * cells,
            )
            .group_by((_window.start_ms - from_ms) // cell_ms)
            .subquery()
        )
        rows = connection.execute(
            select(_window.start_ms, _window.end_ms, _window.bundle, _window.evidence)
            .join(last, _window.start_ms == last.c.start_ms)
            .where(_window.device == device)
            .order_by(_window.start_ms)
            # Windows of two incarnations may begin together.
            .limit(2 * cells)
        )
        found += [
            Evidence(device, row.start_ms, row.end_ms, row.bundle, np.frombuffer(bytes(row.evidence), "<f2"))
            for row in rows
        ]
    return found
