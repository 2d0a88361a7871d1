"""What the detectors know of the reference when they describe a change, and a window in their terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import ABSENT, CELLS, cell_table, cells_of
from driftpost_sketches.drift.chain import Chain
from driftpost_sketches.drift.effect import reference_spread
from driftpost_sketches.schema import Schema, Stream, StreamKind
from driftpost_sketches.transitions import Transitions
from driftpost_sketches.window import FIXED_POINT, SUM2_LIMIT, Window

# Columns of a stream's sums: cell counts, then finite values, fixed-point moments, exact repeats, steps
# within the cell that has most of them, the sum of products of neighbouring location scores, and runs of
# exact repeats.
N, SUM1, SUM2, REPEATS, STAYS, LAG, RUNS = range(CELLS, CELLS + 7)
FIELDS = CELLS + 7

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One stream over some windows, against its reference.

    Attributes:
        rows: rows in it.
        shares: float64[CELLS], share of rows in each cell.
        shift: change of the mean, reference standard deviations; 0 unless numeric.
        natural: the same in the stream's unit.
        mean: of these windows, in the stream's unit; NaN without values.
        spread: standard deviation over the reference's; 1 unless numeric.
        repeats: share of rows that repeat the row before exactly.
        stays: share of steps that stay in the one cell where most do (the most of each window).
        lag: correlation of neighbouring rows' location scores; 0 where it can not be told.
        runs: how many runs of one value these repeats make.
    """

    rows: float
    shares: FloatArray
    shift: float
    natural: float
    mean: float
    spread: float
    repeats: float
    stays: float
    lag: float
    runs: float


class Reference:
    """Reference behaviour of all tracked streams.

    Attributes:
        schema: the streams.
        streams: the tracked ones, in order.
        shares: float64[T, CELLS].
        tau: float64[T], rows that count as one independent row.
        repeats: float64[T], share of exact repeats.
        means: float64[T], natural units (0 unless numeric).
        spreads: float64[T], standard deviations, natural units, positive.
        lag: float64[T], lag-1 correlation of location scores.
        flow: float64[T, CELLS, CELLS], share of steps from each cell to each.
        extremes: float64[T, 2], lowest and highest value; NaN where there is none.
    """

    def __init__(
        self, schema: Schema, baseline: Window, chains: Sequence[Chain], tau: FloatArray, *, persistence: bool
    ) -> None:
        self.schema = schema
        tracked = schema.tracked_streams
        self.streams: tuple[Stream, ...] = tuple(schema.streams[i] for i in tracked)
        count = len(self.streams)
        self.shares = np.array([c.shares for c in chains]).reshape(count, CELLS)
        self.tau = tau
        self.repeats = np.array([c.repeats for c in chains])
        #: whether windows come with transition counts.
        self.persistence = persistence
        self.means, self.spreads = np.zeros(count), np.ones(count)
        self.extremes = np.full((count, 2), np.nan)
        for t, i in enumerate(tracked):
            now = baseline.summary(schema, int(i))
            if now.kind is StreamKind.NUMERIC and now.n:
                self.means[t] = now.mean
                self.extremes[t] = now.low, now.high
                self.spreads[t] = reference_spread(now.std, self.streams[t])
        ordered = [c.ordered and len(c.scores) > 0 for c in chains]
        self._location = np.array(
            [c.scores[0] if ok else np.zeros(CELLS) for c, ok in zip(chains, ordered, strict=True)]
        ).reshape(count, CELLS)
        self._products = (self._location[:, :, None] * self._location[:, None, :]).reshape(count, CELLS**2)
        self.flow = np.array([c.shares[:, None] * c.matrix for c in chains]).reshape(count, CELLS, CELLS)
        self.lag = np.einsum("tij,ti,tj->t", self.flow, self._location, self._location)
        # Where each bin of each tracked stream is counted: one bincount folds a whole window.
        place = np.full(len(schema), -1, dtype=np.int64)
        place[tracked] = np.arange(count)
        owner = np.repeat(place, np.diff(schema.offsets))
        self._kept = np.flatnonzero(owner >= 0)
        self._target = (owner * CELLS + cell_table(schema))[self._kept]

    def unseen(self, t: int) -> int | None:
        """Cell of categories that stream `t`'s list does not have; None unless categorical."""
        return unseen_cell(self.streams[t])

    def sums(self, window: Window, transitions: Transitions | None) -> FloatArray:
        """A window in the detectors' terms: float64[T, FIELDS]."""
        tracked, count = self.schema.tracked_streams, len(self.streams)
        out = np.zeros((count, FIELDS))
        weights = window.counts[self._kept].astype(np.float64)
        folded = np.bincount(self._target, weights=weights, minlength=count * CELLS)
        out[:, :CELLS] = folded.reshape(count, CELLS)
        out[:, N] = out[:, :CELLS].sum(axis=1)
        out[:, ABSENT] = window.missing[tracked] + window.nonfinite[tracked]
        out[:, SUM1] = window.sum1[tracked]
        out[:, SUM2] = window.sum2[tracked]
        if transitions is not None:
            out[:, REPEATS] = transitions.repeats
            out[:, RUNS] = transitions.runs
            out[:, STAYS] = np.einsum("tii->ti", transitions.moves)[:, :ABSENT].max(axis=1)
            out[:, LAG] = (transitions.moves.reshape(count, CELLS**2) * self._products).sum(axis=1)
        return out

    def ends(self, window: Window) -> FloatArray:
        """Lowest and highest values of a window: float64[T, 2]."""
        tracked = self.schema.tracked_streams
        return np.column_stack([window.low[tracked], window.high[tracked]]).astype(np.float64)

    def measure(self, t: int, sums: FloatArray) -> Measured:
        """Stream `t` over windows whose sums (float64[FIELDS]) are given."""
        cells = sums[:CELLS]
        rows = max(float(cells.sum()), 1.0)
        shares = cells / rows
        shift = natural = lag = 0.0
        mean, spread = math.nan, 1.0
        n = float(sums[N])
        stream = self.streams[t]
        if stream.kind is StreamKind.NUMERIC and n > 0:
            z = float(sums[SUM1]) / n / FIXED_POINT
            mean = stream.center + stream.scale * z
            natural = mean - float(self.means[t])
            shift = natural / float(self.spreads[t])
            squares = float(sums[SUM2]) / n / FIXED_POINT**2
            if sums[SUM2] < SUM2_LIMIT / 2:  # saturated squares say nothing any more
                spread = stream.scale * math.sqrt(max(squares - z * z, 0.0)) / float(self.spreads[t])
        location = float(shares @ self._location[t])
        variance = float(shares @ self._location[t] ** 2) - location**2
        if self.persistence and variance > 1e-6:
            lag = (float(sums[LAG]) / rows - location**2) / variance
        repeats, stays = float(sums[REPEATS]) / rows, float(sums[STAYS]) / rows
        return Measured(rows, shares, shift, natural, mean, spread, repeats, stays, lag, float(sums[RUNS]))


def unseen_cell(stream: Stream) -> int | None:
    """Cell of the overflow bin of a categorical stream; None for others."""
    return int(cells_of(stream)[-1]) if stream.kind is StreamKind.CATEGORICAL else None
