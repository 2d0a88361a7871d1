"""From a block of values to bins and drift cells, for all streams in a few array passes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import ABSENT, VALUE_CELLS, cells_of
from driftpost_sketches.schema import Schema, Stream, StreamKind

MAX_LOOKUP = 1 << 16  # widest span of category numbers that gets a direct table; wider ones are searched
NARROW_EDGES = 255  # edges that one byte can count

Indices = npt.NDArray[np.int64]


class Binner:
    """Bins and cells of one schema's scalar streams.

    Attributes:
        numeric: positions of numeric streams among the scalar ones, int64.
    """

    def __init__(self, schema: Schema) -> None:
        streams = [schema.streams[i] for i in schema.scalar_streams]
        self.numeric: Indices = np.array(
            [i for i, s in enumerate(streams) if s.kind is StreamKind.NUMERIC], dtype=np.int64
        )
        widest = max((len(streams[i].edges) for i in self.numeric), default=0)
        # Row k holds the k-th edge of every stream. Missing ones are +inf: no finite value reaches them.
        self._edges = np.full((widest, len(self.numeric), 1), np.inf)
        for column, i in enumerate(self.numeric):
            self._edges[: len(streams[i].edges), column, 0] = streams[i].edges
        self._counter = np.uint8 if widest <= NARROW_EDGES else np.uint16
        self._categorical = [
            (i, _Categories(s)) for i, s in enumerate(streams) if s.kind is StreamKind.CATEGORICAL
        ]
        self._folds = [
            (i, cells_of(s).astype(np.int64))
            for i, s in enumerate(streams)
            if s.n_bins > (VALUE_CELLS if s.kind is StreamKind.NUMERIC else VALUE_CELLS - 1)
        ]

    def bins(self, values: npt.NDArray[np.float64]) -> Indices:
        """Bin of every value; what is not finite gets an arbitrary one.

        Args:
            values: float64[S_scalar, rows], C order.

        Returns:
            int64[S_scalar, rows].
        """
        out: Indices = np.empty(values.shape, dtype=np.int64)
        if len(self.numeric):
            every = len(self.numeric) == len(values)
            numbers = values if every else values[self.numeric]
            # Counting the edges passed beats searching when there are about fifteen of them: each comparison
            # runs over all streams at once.
            passed = np.zeros(numbers.shape, dtype=self._counter)
            above: npt.NDArray[np.bool_] = np.empty(numbers.shape, dtype=bool)
            for row in self._edges:
                np.greater_equal(numbers, row, out=above)
                passed += above
            if every:
                out[...] = passed
            else:
                out[self.numeric] = passed
        for i, categories in self._categorical:
            out[i] = categories.bins(values[i])
        return out

    def fold(self, bins: Indices, finite: npt.NDArray[np.bool_] | None) -> Indices:
        """Drift cells of binned values.

        Args:
            bins: int64[S_scalar, rows], from `bins`.
            finite: bool[S_scalar, rows], or None when every value is finite.

        Returns:
            int64[S_scalar, rows].
        """
        cells = bins
        if self._folds:
            cells = bins.copy()
            for i, table in self._folds:
                cells[i] = table[bins[i]]
        if finite is not None:
            cells = np.where(finite, cells, ABSENT)
        return cells


class _Categories:
    """Bins of one categorical stream."""

    def __init__(self, stream: Stream) -> None:
        known = np.array(stream.categories, dtype=np.int64)
        self._overflow = len(known)
        order = np.argsort(known, kind="stable")
        self._sorted = known[order].astype(np.float64)
        self._position: Indices = order.astype(np.int64)
        self._low = float(self._sorted[0]) if len(known) else 0.0
        self._span = int(self._sorted[-1] - self._sorted[0]) + 1 if len(known) else 0
        self._table: Indices | None = None
        if 0 < self._span <= MAX_LOOKUP:
            # One slot beyond either end for what lies outside.
            self._table = np.full(self._span + 2, self._overflow, dtype=np.int64)
            self._table[(self._sorted - self._low).astype(np.int64) + 1] = self._position

    def bins(self, values: npt.NDArray[np.float64]) -> Indices:
        if not len(self._sorted):
            return np.zeros(values.shape, dtype=np.int64)
        if self._table is not None:
            slot = np.clip(np.nan_to_num(values - self._low, nan=-1.0), -1.0, float(self._span))
            whole = slot.astype(np.int64)
            # A value between two whole numbers is no known category.
            return np.where(slot == whole, self._table[whole + 1], self._overflow)
        at = np.minimum(np.searchsorted(self._sorted, values), len(self._sorted) - 1)
        return np.where(self._sorted[at] == values, self._position[at], self._overflow)
