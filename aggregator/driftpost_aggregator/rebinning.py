"""A window as another schema's bins would have counted it, stream by stream, as nearly as its own bins tell.

Between two bundles of one model the edges differ, because each took them from its own reference. Counts of a
numeric stream are spread over the other's bins along straight pieces of the distribution function; moments
change units. It is an approximation whose error makes two things look more different than they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from driftpost_sketches.schema import Schema, Stream, StreamKind
from driftpost_sketches.window import FIXED_POINT, SUM2_LIMIT, Window

Ints = npt.NDArray[np.int64]


def rebinned(window: Window, seen: Schema, wanted: Schema) -> tuple[Window, frozenset[str]]:
    """A window in another schema's terms.

    Args:
        window: without noise.
        seen: its schema.
        wanted: the other one.

    Returns:
        The window, and the names of the streams that both have; the others are empty in it.
    """
    result = Window.empty(wanted)
    shared = []
    counts = result.counts.copy()
    arrays = {
        name: getattr(result, name).copy() for name in ("missing", "nonfinite", "low", "high", "sum1", "sum2")
    }
    places = {stream.name: index for index, stream in enumerate(seen.streams)}
    for to, stream in enumerate(wanted.streams):
        at = places.get(stream.name)
        if at is None or not _comparable(seen.streams[at], stream):
            continue
        own = window.counts[seen.offsets[at] : seen.offsets[at + 1]]
        moved = _counts(own, seen.streams[at], stream, float(window.low[at]), float(window.high[at]))
        counts[wanted.offsets[to] : wanted.offsets[to + 1]] = moved
        for name in ("missing", "nonfinite", "low", "high"):
            arrays[name][to] = getattr(window, name)[at]
        if stream.kind is StreamKind.NUMERIC:
            total = int(own.sum())
            arrays["sum1"][to], arrays["sum2"][to] = _moments(
                int(window.sum1[at]), int(window.sum2[at]), total, seen.streams[at], stream
            )
        shared.append(stream.name)
    moved_window = Window(
        schema_id=wanted.id,
        rows=window.rows,
        parts=window.parts,
        layout=result.layout,
        counts=counts,
        missing=arrays["missing"],
        nonfinite=arrays["nonfinite"],
        low=arrays["low"],
        high=arrays["high"],
        sum1=arrays["sum1"],
        sum2=arrays["sum2"],
    )
    return moved_window, frozenset(shared)


def _comparable(one: Stream, other: Stream) -> bool:
    if one.kind is not other.kind or one.unit != other.unit or one.partial != other.partial:
        return False
    return one.kind is not StreamKind.CODES or one.lowest_code == other.lowest_code


def _counts(own: Ints, seen: Stream, wanted: Stream, low: float, high: float) -> Ints:
    if seen.kind is StreamKind.NUMERIC:
        return _spread(own, seen.edges, wanted.edges, low, high)
    if seen.kind is StreamKind.CATEGORICAL:
        found = np.zeros(len(wanted.categories) + 1, dtype=np.int64)
        places = {category: place for place, category in enumerate(wanted.categories)}
        for category, count in zip(seen.categories, own[:-1].tolist(), strict=True):
            found[places.get(category, len(wanted.categories))] += count
        found[-1] += int(own[-1])
        return found
    codes: Ints = own.copy()
    return codes


def _spread(own: Ints, seen: tuple[float, ...], wanted: tuple[float, ...], low: float, high: float) -> Ints:
    """Counts between other edges: int64[len(wanted) + 1], of the same sum."""
    total = int(own.sum())
    if seen == wanted or not total:
        same: Ints = own.copy() if seen == wanted else np.zeros(len(wanted) + 1, dtype=np.int64)
        return same
    first, last = min(low, seen[0]), max(high, seen[-1])
    points = np.concatenate([[first], seen, [last]])
    below = np.concatenate([[0], np.cumsum(own)]).astype(np.float64)
    at = np.rint(np.interp(np.array(wanted), points, below, left=0.0, right=float(total))).astype(np.int64)
    found: Ints = np.diff(np.concatenate([[0], at, [total]])).astype(np.int64)
    return found


def _moments(sum1: int, sum2: int, total: int, seen: Stream, wanted: Stream) -> tuple[int, int]:
    """Sums of z and z squared in the other stream's center and scale, fixed point."""
    ratio = seen.scale / wanted.scale
    shift = (seen.center - wanted.center) / wanted.scale * FIXED_POINT
    first = ratio * sum1 + total * shift
    second = ratio**2 * sum2 + 2.0 * ratio * shift * sum1 + total * shift**2
    return round(first), min(max(round(second), 0), SUM2_LIMIT)
