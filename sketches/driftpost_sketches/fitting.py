"""Streams fitted to reference data: bins lie where its mass is, so that no outlier can stretch them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from driftpost_sketches.errors import CalibrationError
from driftpost_sketches.schema import Role, Stream, StreamKind

# 1 %, thirteen of 7 %, ... 1 %: fine where most rows are, and tails that see a few per cent of outliers.
QUANTILES = np.concatenate([[0.01], 0.01 + 0.07 * np.arange(1, 14), [0.99]])
MAX_EDGES = 16  # 17 bins: what fits the drift cells unfolded
HEAVY = 1 / 16  # share of one exact value from which it deserves a bin of its own
NARROW = 1e-6  # half-width of the bin of a constant, relative to it: above rounding, below any real change
NARROWEST = 1e-12  # the same around a constant 0, absolute
MAX_CATEGORIES = 64  # own bins; more make windows large and tests weak
FOLD_FROM = 16  # known categories from which the rarest share a drift cell

Column = npt.NDArray[np.float64]


def fit_numeric(
    name: str,
    column: npt.ArrayLike,
    role: Role,
    unit: str = "",
    *,
    tracked: bool = True,
    edges: Sequence[float] | None = None,
) -> Stream:
    """A numeric stream with edges at the reference's quantiles.

    Edges lie midway between neighbouring order statistics, never on a value. A run of ties is not cut, its
    ends are. Few-valued columns get a bin for each value and one beyond either end; so does a constant, so
    that any other value shows.

    Args:
        name: of the stream.
        column: reference values, any order; NaN and infinities are left out.
        role: where it comes from.
        unit: natural unit.
        tracked: whether detectors watch it.
        edges: fixed edges instead of fitted ones.

    Returns:
        The stream. Without any finite value it has a single bin, and only absence tells it apart.
    """
    values = np.asarray(column, dtype=np.float64).ravel()
    values = np.sort(values[np.isfinite(values)])
    center, scale = robust(values)
    if edges is None:
        edges = _fitted_edges(values)
    return Stream(
        name, StreamKind.NUMERIC, role, unit, tuple(float(e) for e in edges),
        center=center, scale=scale, tracked=tracked,
    )  # fmt: skip


def fit_categorical(
    name: str,
    column: npt.ArrayLike,
    role: Role,
    labels: Sequence[str] | Mapping[int, str] = (),
    *,
    max_categories: int = MAX_CATEGORIES,
    tracked: bool = True,
    categories: Sequence[int] | None = None,
    unit: str = "",
) -> Stream:
    """A categorical stream with a bin for each frequent category and one for all others.

    Args:
        name: of the stream.
        column: whole numbers; NaN and infinities are left out.
        role: where it comes from.
        labels: display names by category; a sequence names `categories` or, without those, 0, 1, 2, ...
        max_categories: how many get a bin of their own, the most frequent first.
        tracked: whether detectors watch it.
        categories: fixed categories instead of those of the reference.
        unit: natural unit.

    Raises:
        CalibrationError: a value is not a whole number.
    """
    values = np.asarray(column, dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    if (values != np.rint(values)).any() or (np.abs(values) > 2**53).any():
        raise CalibrationError(
            f"stream {name!r}: categories are whole numbers within 2**53; code them so, or make it numeric"
        )
    if categories is not None:
        known = [int(c) for c in categories]
        if len(known) >= FOLD_FROM:
            known = _by_frequency(values, known)
    else:
        found, counts = np.unique(values, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:max_categories]
        # Ascending reads best; but when cells must be shared, the rarest have to stand last.
        known = [int(c) for c in (found[order] if len(found) >= FOLD_FROM else np.sort(found[order]))]
    if isinstance(labels, Mapping):
        names = dict(labels)
    else:
        named = categories if categories is not None and labels else range(len(labels))
        names = dict(zip(named, labels, strict=True))
    return Stream(
        name, StreamKind.CATEGORICAL, role, unit, categories=tuple(known),
        labels=tuple(names.get(c, str(c)) for c in known) if names else (), tracked=tracked,
    )  # fmt: skip


def fit_codes(name: str, tensor: npt.NDArray[Any], role: Role, unit: str = "code") -> Stream:
    """An exact sketch of an 8-bit tensor: one bin a code. Never tracked: its elements are no time series.

    Args:
        name: of the stream.
        tensor: reference codes, int8 or uint8.
        role: where it comes from.
        unit: natural unit.

    Raises:
        CalibrationError: another type.
    """
    tensor = np.asarray(tensor)
    if tensor.dtype not in (np.int8, np.uint8):
        raise CalibrationError(f"stream {name!r}: codes are int8 or uint8, not {tensor.dtype}")
    center, scale = robust(np.sort(tensor.ravel()[: 1 << 20].astype(np.float64)))
    return Stream(
        name, StreamKind.CODES, role, unit, center=center, scale=scale,
        lowest_code=0 if tensor.dtype == np.uint8 else -128, tracked=False,
    )  # fmt: skip


def robust(values: Column) -> tuple[float, float]:
    """Location and spread of **sorted** finite values that neither one outlier nor a heavy tie can spoil."""
    if not len(values):
        return 0.0, 1.0
    # In units of the largest value nothing overflows, whatever the unit.
    unit = float(max(abs(values[0]), abs(values[-1]))) or 1.0
    small = values / unit
    low, quarter, center, three, high = np.quantile(small, [0.005, 0.25, 0.5, 0.75, 0.995])
    # A quarter of the winsorised deviation keeps heavy tails within the moments' clip of 16 spreads.
    scale = max((three - quarter) / 1.349, 0.25 * float(np.clip(small, low, high).std()))
    if scale <= 1e-9 * abs(center):
        scale = float(small.std())
    if scale <= 1e-9 * abs(center):
        scale = abs(center) or 1.0
    center, scale = center * unit, scale * unit
    return float(center), float(max(scale, np.finfo(np.float64).tiny * 1e16))


def _fitted_edges(values: Column) -> list[float]:
    n = len(values)
    if not n:
        return []
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    distinct = values[starts]
    # Between values a and b the edge is their middle, unless that rounds down to a.
    between = distinct[:-1] + (distinct[1:] - distinct[:-1]) / 2
    between = np.where(between > distinct[:-1], between, distinct[1:])
    if len(distinct) < MAX_EDGES:
        edges = list(between)
    else:
        cuts = np.unique(np.clip(np.rint(QUANTILES * n).astype(np.int64), 1, n - 1))
        # Index of the boundary between runs of ties that lies nearest to each cut.
        right = np.searchsorted(starts[1:], cuts)
        left = np.maximum(right - 1, 0)
        right = np.minimum(right, len(between) - 1)
        nearer = np.where(cuts - starts[1:][left] <= starts[1:][right] - cuts, left, right)
        chosen = set(nearer.tolist())
        lengths = np.diff(np.append(starts, n))
        for run in np.flatnonzero(lengths >= HEAVY * n):
            chosen |= {int(b) for b in (run - 1, run) if 0 <= b < len(between)}
        edges = [float(between[b]) for b in _thinned(sorted(chosen), starts, n)]
    heavy_low = starts[1] if len(starts) > 1 else n
    heavy_high = n - starts[-1]
    # Where the mass ends in a tie (a floor, a ceiling, a constant), what lies beyond it is news.
    if heavy_low >= HEAVY * n and len(edges) < MAX_EDGES:
        edges.insert(0, _beyond(distinct, -1))
    if heavy_high >= HEAVY * n and len(edges) < MAX_EDGES:
        edges.append(_beyond(distinct, 1))
    # Far from zero a tiny step may round to nothing.
    return [float(e) for e in np.unique(edges) if np.isfinite(e)]


def _thinned(boundaries: list[int], starts: npt.NDArray[np.int64], n: int) -> list[int]:
    """At most 14 boundaries plus room for both ends, dropping those between the lightest neighbours."""
    boundaries = list(boundaries)
    while len(boundaries) > MAX_EDGES - 1:
        places = np.concatenate([[0], starts[1:][boundaries], [n]])
        # Tails keep their own bins: only inner boundaries are candidates.
        merged = places[3:-1] - places[1:-3]
        del boundaries[int(np.argmin(merged)) + 1]
    return boundaries


def _beyond(distinct: Column, side: int) -> float:
    """An edge just outside the outermost value: half a step of the grid, or a hair around a constant."""
    end = distinct[0] if side < 0 else distinct[-1]
    if len(distinct) > 1:
        step = (distinct[1] - distinct[0]) if side < 0 else (distinct[-1] - distinct[-2])
        edge = end + side * step / 2
    else:
        edge = end + side * max(abs(end) * NARROW, NARROWEST)
    # An upper edge is open below: the value itself must stay inside.
    return float(edge if edge != end else np.nextafter(end, side * np.inf))


def _by_frequency(values: Column, known: list[int]) -> list[int]:
    counts = {int(c): int(k) for c, k in zip(*np.unique(values, return_counts=True), strict=True)}
    return sorted(known, key=lambda c: -counts.get(c, 0))
