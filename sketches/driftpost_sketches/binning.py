"""From a block of values to bins and drift cells, for all streams in a few array passes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import ABSENT, VALUE_CELLS, cells_of
from driftpost_sketches.schema import Schema, Stream, StreamKind

MAX_LOOKUP = 1 << 16  # widest span of category numbers that gets a direct table; wider ones are searched
# Edges up to which all streams are compared with theirs at once. More, as latency has, are searched: one
# stream with many would make all others wait for as many comparisons.
MAX_COMPARED = 24
# Answers of one such comparison, in bytes: they have to stay in a core's cache.
COMPARED_BYTES = 1 << 18

Indices = npt.NDArray[np.int64]
# Bins and cells within a pass: at most MAX_BINS of a stream, and narrow numbers move four times faster.
Narrow = npt.NDArray[np.int16]


class Binner:
    """Bins and cells of one schema's scalar streams.

    Attributes:
        numeric: positions of numeric streams among the scalar ones, int64.
    """

    def __init__(self, schema: Schema) -> None:
        streams = [schema.streams[i] for i in schema.scalar_streams]
        numeric = [i for i, s in enumerate(streams) if s.kind is StreamKind.NUMERIC]
        self.numeric: Indices = np.array(numeric, dtype=np.int64)
        few = [i for i in numeric if len(streams[i].edges) <= MAX_COMPARED]
        self._few: Indices = np.array(few, dtype=np.int64)
        self._every = len(few) == len(streams)
        widest = max((len(streams[i].edges) for i in few), default=0)
        # Row k holds the k-th edge of every stream. Missing ones are +inf: no finite value reaches them.
        self._edges = np.full((widest, len(few), 1), np.inf)
        for column, i in enumerate(few):
            self._edges[: len(streams[i].edges), column, 0] = streams[i].edges
        self._chunk = max(16, COMPARED_BYTES // max(1, self._edges.size))
        self._searched = [(i, np.array(streams[i].edges)) for i in numeric if i not in set(few)]
        self._categorical = [
            (i, _Categories(s)) for i, s in enumerate(streams) if s.kind is StreamKind.CATEGORICAL
        ]
        self._folds = [
            (i, cells_of(s).astype(np.int16))
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
        return self.narrow(values).astype(np.int64)

    def narrow(self, values: npt.NDArray[np.float64]) -> Narrow:
        """`bins` as int16[S_scalar, rows]."""
        out: Narrow = np.empty(values.shape, dtype=np.int16)
        if len(self._few):
            numbers = values if self._every else values[self._few]
            for start in range(0, values.shape[1], self._chunk):
                part = numbers[:, start : start + self._chunk]
                # Counting the edges passed beats searching them: one comparison runs over all edges of all
                # streams, and adding bytes costs next to nothing.
                passed = (part >= self._edges).view(np.uint8).sum(axis=0, dtype=np.uint8)
                out[slice(None) if self._every else self._few, start : start + self._chunk] = passed
        for i, edges in self._searched:
            out[i] = np.searchsorted(edges, values[i], side="right")
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
        return self.fold_narrow(bins.astype(np.int16), finite).astype(np.int64)

    def fold_narrow(self, bins: Narrow, finite: npt.NDArray[np.bool_] | None) -> Narrow:
        """`fold` of what `narrow` gave; the same array where nothing has to be folded."""
        cells = bins
        if self._folds:
            cells = bins.copy()
            for i, table in self._folds:
                cells[i] = table[bins[i]]
        if finite is not None:
            cells = np.where(finite, cells, np.int16(ABSENT))
        return cells


class _Categories:
    """Bins of one categorical stream."""

    def __init__(self, stream: Stream) -> None:
        known = np.array(stream.categories, dtype=np.int64)
        self._overflow = len(known)
        order = np.argsort(known, kind="stable")
        self._sorted = known[order].astype(np.float64)
        self._position: Indices = order.astype(np.int64)
        low, high = (int(self._sorted[0]), int(self._sorted[-1])) if len(known) else (0, 0)
        self._before = low - 1
        self._span = high - self._before if len(known) else 0
        self._table: Indices | None = None
        if 0 < self._span <= MAX_LOOKUP:
            # Slot 0 is for all that is no known category.
            self._table = np.full(self._span + 1, self._overflow, dtype=np.int64)
            self._table[self._sorted.astype(np.int64) - self._before] = self._position

    def bins(self, values: npt.NDArray[np.float64]) -> Indices:
        if not len(self._sorted):
            return np.zeros(values.shape, dtype=np.int64)
        if self._table is not None:
            with np.errstate(invalid="ignore"):
                slot = values.astype(np.int64)
            # A value between two whole numbers is no known category; NaN equals nothing.
            strange = slot != values
            slot -= self._before
            strange |= slot < 1
            strange |= slot > self._span
            slot[strange] = 0
            return self._table[slot]
        at = np.minimum(np.searchsorted(self._sorted, values), len(self._sorted) - 1)
        return np.where(self._sorted[at] == values, self._position[at], self._overflow)
