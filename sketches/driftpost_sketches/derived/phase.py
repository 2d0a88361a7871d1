"""Phases of a season: the hours of a day or a week, or the values of a context stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.errors import CalibrationError, MalformedSketch
from driftpost_sketches.schema import Schema, StreamKind

FloatArray = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

DAY_S = 86_400.0
HOUR_OF_DAY, HALF_HOUR_OF_DAY, HOUR_OF_WEEK = "hour-of-day", "half-hour-of-day", "hour-of-week"
STREAM = "stream:"  # in front of a context stream's name

# Period in seconds and phases of each season by the clock.
CLOCKS = {HOUR_OF_DAY: (DAY_S, 24), HALF_HOUR_OF_DAY: (DAY_S, 48), HOUR_OF_WEEK: (7 * DAY_S, 168)}
# Times are taken in steps, so that equal values of neighbouring rows stay equal less their usual value: exact
# repeats tell a stuck or coarse sensor. A daily sine of one deviation moves by 0.04 of it in a step.
STEP_S = 600.0
# 1970 began on a Thursday; weeks begin on Monday.
_MONDAY_S = 3 * DAY_S
MAX_PHASES = 168
CONTEXT_BINS = 10  # quantile bins of a numeric context
MAX_CONTEXT_CATEGORIES = 24  # the most frequent ones; a row of another category has no usual value
MAX_SECONDS = 1e12  # either side of 1970; some thirty thousand years


@dataclass(frozen=True)
class Phase:
    """What a season goes by, and into how many phases it is cut.

    Attributes:
        by: `hour-of-day`, `half-hour-of-day`, `hour-of-week`, or `stream:` and the name of a context stream.
        count: phases.
        edges: of a numeric context: ascending; phase j holds edges[j-1] <= x < edges[j].
        categories: of a categorical context: phase j is category j of them.
    """

    by: str
    count: int
    edges: tuple[float, ...] = ()
    categories: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_PHASES:
            raise MalformedSketch(f"a season has 1 to {MAX_PHASES} phases, not {self.count}")
        if self.context is None:
            if self.by not in CLOCKS or self.edges or self.categories:
                raise MalformedSketch(f"there is no season by {self.by!r:.80}")
        elif bool(self.edges) == bool(self.categories):
            raise MalformedSketch("a context has either edges or categories")
        elif self.count != (len(self.categories) or len(self.edges) + 1):
            raise MalformedSketch("a context has a phase for each category, or one more than edges")
        if not np.isfinite(self.edges).all() or (np.diff(self.edges) <= 0).any():
            raise MalformedSketch("a context's edges must be finite and ascending")

    @property
    def context(self) -> str | None:
        """Name of the context stream; None for a season by the clock."""
        return self.by[len(STREAM) :] if self.by.startswith(STREAM) else None

    @property
    def words(self) -> str:
        """What it is called in a sentence: "hour of day", "load"."""
        return self.context or self.by.replace("-", " ")

    @property
    def period_s(self) -> float:
        """Seconds of one turn; 0 for a context."""
        return CLOCKS[self.by][0] if self.context is None else 0.0

    def of_seconds(self, seconds: FloatArray) -> FloatArray:
        """Places on the clock: 0 <= place < count, a phase's middle at half numbers; NaN for NaN.

        Each is the middle of the ten minutes that a time lies in.

        Args:
            seconds: float64[...], since 1970 in the clock that the season goes by.
        """
        known = np.where(np.abs(seconds) <= MAX_SECONDS, seconds, np.nan)
        middle = (np.floor(known / STEP_S) + 0.5) * STEP_S
        turn = np.mod(middle + _MONDAY_S, self.period_s) / self.period_s
        return np.asarray(np.minimum(turn * self.count, np.nextafter(self.count, 0.0)))

    def of_values(self, column: FloatArray) -> Indices:
        """Phases of a context's values: int64, -1 where there is none."""
        if self.edges:
            found: Indices = np.searchsorted(np.array(self.edges), column, side="right").astype(np.int64)
            return np.where(np.isnan(column), -1, found)
        known = np.array(self.categories, dtype=np.float64)
        order = np.argsort(known)
        at = np.minimum(np.searchsorted(known[order], column), len(known) - 1)
        return np.where(known[order][at] == column, order[at], -1).astype(np.int64)

    def with_count(self, count: int) -> Phase:
        """The same clock in another number of phases."""
        return Phase(self.by, count)


def clock_phase(by: str) -> Phase:
    """A season by the clock.

    Raises:
        CalibrationError: no such season.
    """
    if by not in CLOCKS:
        raise CalibrationError(
            f"there is no season by {by!r:.80}; there are {', '.join(CLOCKS)} and {STREAM}NAME"
        )
    return Phase(by, CLOCKS[by][1])


def context_phase(schema: Schema, name: str, column: FloatArray, rows_each: int) -> Phase:
    """A season by a context stream, in phases that the reference fills.

    Args:
        schema: holds the stream.
        name: of the context stream.
        column: float64[n], its reference values.
        rows_each: rows that a phase must have.

    Raises:
        CalibrationError: no such stream, or too little of it for two phases.
    """
    if name not in schema or schema.streams[schema.index(name)].kind is StreamKind.CODES:
        raise CalibrationError(f"there is no stream {name!r:.80} that a season could go by")
    stream, by = schema.streams[schema.index(name)], STREAM + name
    finite = column[np.isfinite(column)]
    if stream.kind is StreamKind.CATEGORICAL:
        counts = {c: int((finite == c).sum()) for c in stream.categories}
        often = sorted((c for c in counts if counts[c] >= rows_each), key=lambda c: -counts[c])
        if len(often) >= 2:
            kept = often[:MAX_CONTEXT_CATEGORIES]
            return Phase(by, len(kept), categories=tuple(kept))
    else:
        bins = min(CONTEXT_BINS, len(finite) // rows_each)
        # A heavy tie (a lamp that is off) makes a bin of its own, and the quantiles on it one edge.
        cuts = np.unique(np.quantile(finite, np.arange(1, bins) / bins)) if bins > 1 else np.zeros(0)
        cuts = cuts[cuts > finite.min()] if len(cuts) else cuts
        if len(cuts):
            return Phase(by, len(cuts) + 1, edges=tuple(float(c) for c in cuts))
    raise CalibrationError(
        f"{name!r} can not be a season's context: less than two of its values have {rows_each} rows each"
    )
