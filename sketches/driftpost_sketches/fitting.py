"""Streams from reference data: edges from quantiles, categories by frequency, robust location and spread."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import MAX_NUMERIC_BINS
from driftpost_sketches.errors import CalibrationError
from driftpost_sketches.schema import Role, Stream, StreamKind

# Interior quantiles: thin tails of 1 % where changes show first, thirteen and a bit of 7 % between them.
QUANTILES = np.concatenate([[0.01], 0.01 + 0.07 * np.arange(1, 14), [0.99]])
FEW_VALUES = MAX_NUMERIC_BINS - 2  # distinct values that each get a bin, with a guard bin on either side
MAX_CATEGORIES = 64
CONSTANT_TOLERANCE = 1e-6  # relative half-width of a constant's own bin: wider than float32 rounding


def fit_numeric(
    name: str, column: npt.NDArray[np.float64], role: Role, unit: str = "", *, tracked: bool = True
) -> Stream:
    """A numeric stream whose bins follow the reference's quantiles.

    Ties never share an edge with a neighbour: a column of few distinct values gets a bin for each and a guard
    bin on either side, so that a constant which moves is seen at once.

    Args:
        name: the stream's name.
        column: float64[n], reference values; NaN and infinities are left out.
        role: where the stream comes from.
        unit: natural unit.
        tracked: whether detectors watch it.

    Raises:
        CalibrationError: the column holds no finite value.
    """
    ordered = np.sort(column[np.isfinite(column)].astype(np.float64))
    if not ordered.size:
        raise CalibrationError(
            f"stream {name!r} has no finite value in the reference; leave it out or mend the data"
        )
    distinct = np.unique(ordered)
    if len(distinct) <= FEW_VALUES:
        edges = _edges_around(distinct)
    else:
        at = (QUANTILES * len(ordered)).astype(np.int64).clip(1, len(ordered) - 1)
        upper = np.searchsorted(distinct, ordered[at])
        edges = np.unique(0.5 * (distinct[np.maximum(upper - 1, 0)] + distinct[upper]))
        edges = edges[edges > distinct[0]]
    center, scale = _location_and_spread(ordered, distinct)
    return Stream(
        name=name,
        kind=StreamKind.NUMERIC,
        role=role,
        unit=unit,
        edges=tuple(float(e) for e in edges),
        center=center,
        scale=scale,
        tracked=tracked,
    )


def _edges_around(distinct: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    gap = float(np.diff(distinct).min()) / 2 if len(distinct) > 1 else _tolerance(float(distinct[0]))
    middles = 0.5 * (distinct[:-1] + distinct[1:])
    return np.unique(np.concatenate([[distinct[0] - gap], middles, [distinct[-1] + gap]]))


def _tolerance(value: float) -> float:
    return max(abs(value) * CONSTANT_TOLERANCE, 1e-12)


def _location_and_spread(
    ordered: npt.NDArray[np.float64], distinct: npt.NDArray[np.float64]
) -> tuple[float, float]:
    low, center, high = (float(q) for q in np.quantile(ordered, [0.25, 0.5, 0.75]))
    if len(distinct) == 1:
        return center, abs(center) or 1.0
    # The floor keeps a spread where more than half of the rows share one value.
    return center, max((high - low) / 1.349, 0.2 * float(ordered.std()), _tolerance(center))


def fit_categorical(
    name: str,
    column: npt.NDArray[np.float64],
    role: Role,
    labels: dict[int, str] | None = None,
    *,
    max_categories: int = MAX_CATEGORIES,
    tracked: bool = True,
) -> Stream:
    """A categorical stream: the reference's categories, most frequent first, then one bin for all others.

    Args:
        name: the stream's name.
        column: float64[n], category numbers as whole floats; NaN is missing.
        role: where the stream comes from.
        labels: display names by category number.
        max_categories: categories beyond it go to the overflow bin.
        tracked: whether detectors watch it.

    Raises:
        CalibrationError: no category at all, or values that are not whole numbers.
    """
    finite = column[np.isfinite(column)]
    if not finite.size:
        raise CalibrationError(
            f"stream {name!r} has no category in the reference; leave it out or mend the data"
        )
    if not np.array_equal(finite, np.rint(finite)):
        raise CalibrationError(f"stream {name!r} is called categorical but holds fractions; make it numeric")
    numbers, counts = np.unique(finite.astype(np.int64), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:max_categories]
    categories = tuple(int(number) for number in numbers[order])
    names = tuple(labels.get(category, str(category)) for category in categories) if labels else ()
    return Stream(
        name=name,
        kind=StreamKind.CATEGORICAL,
        role=role,
        categories=categories,
        labels=names,
        tracked=tracked,
    )
