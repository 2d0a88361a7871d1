"""The accumulator: blocks of rows in, one window and its transition counts out, all streams at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import ABSENT, CELLS, cell_table
from driftpost_sketches.schema import CODE_BINS, Schema, StreamKind
from driftpost_sketches.transitions import Transitions
from driftpost_sketches.window import MOMENT_CLIP, MOMENT_UNITS, Window

_NO_CELL = -1  # no predecessor yet


class WindowAccumulator:
    """Sketches blocks of rows; its state has constant size.

    The last row's cells are carried over `take`, so no move between two rows is lost at a window's border.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        streams = [schema.streams[i] for i in schema.scalar_streams]
        numeric = [c for c, s in enumerate(streams) if s.kind is StreamKind.NUMERIC]
        self._numeric = np.array(numeric, dtype=np.int64)
        # Row k holds the k-th edge of every numeric stream; no finite value reaches the padding.
        widest = max((len(streams[c].edges) for c in numeric), default=0)
        self._edges = np.full((widest, len(numeric)), np.inf)
        for column, c in enumerate(numeric):
            self._edges[: len(streams[c].edges), column] = streams[c].edges
        self._categorical: list[tuple[int, npt.NDArray[np.float64], npt.NDArray[np.int64]]] = []
        for c, s in enumerate(streams):
            if s.kind is StreamKind.CATEGORICAL:
                known = np.array(s.categories, dtype=np.float64)
                order = np.argsort(known)
                self._categorical.append((c, known[order], order))
        self._centers = np.array([s.center for s in streams])
        self._per_scale = np.array([1.0 / s.scale for s in streams])
        # Moments of category numbers mean nothing; zero weight keeps the arrays aligned.
        self._weights = np.where([s.kind is StreamKind.NUMERIC for s in streams], float(MOMENT_UNITS), 0.0)
        self._offsets = schema.offsets[schema.scalar_streams]
        self._cells = np.append(cell_table(schema), np.int8(ABSENT))  # the extra bin stands for absent values
        position = {int(i): c for c, i in enumerate(schema.scalar_streams)}
        self._tracked = np.array([position[int(i)] for i in schema.tracked_streams], dtype=np.int64)
        self._base = np.arange(len(self._tracked)) * (CELLS * CELLS)
        self._codes = {
            s.name: (i, s.lowest_code) for i, s in enumerate(schema.streams) if s.kind is StreamKind.CODES
        }
        self._last_cells: npt.NDArray[np.int64] = np.full(len(self._tracked), _NO_CELL, np.int64)
        self._last_values: npt.NDArray[np.float64] = np.full(len(self._tracked), np.nan)
        self._clear()

    def _clear(self) -> None:
        self._window = Window.empty(self.schema)
        self._moves = np.zeros(len(self._tracked) * CELLS * CELLS, np.int64)
        self._repeats = np.zeros(len(self._tracked), np.int64)
        self._steps = 0
        self._rows = 0

    @property
    def rows(self) -> int:
        """Rows sketched since the last `take`."""
        return self._rows

    def update(
        self, values: npt.NDArray[np.float64], codes: Mapping[str, npt.NDArray[np.generic]] | None = None
    ) -> None:
        """Adds a block of rows in time order.

        Args:
            values: float64[rows, S_scalar], a column for every stream but codes streams, in schema order;
                NaN is missing, infinities are counted as non-finite, category numbers are whole floats.
            codes: for every codes stream present in this block, its int8 or uint8 tensor of any shape.

        Raises:
            ValueError: the matrix has the wrong shape, or a tensor has the wrong type or an unknown name.
        """
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self._offsets):
            raise ValueError(f"values must be [rows, {len(self._offsets)}], not {list(values.shape)}")
        for name, tensor in (codes or {}).items():
            self._check_codes(name, tensor)
        rows = values.shape[0]
        if rows:
            self._update_values(values)
            self._rows += rows
        for name, tensor in (codes or {}).items():
            self._update_codes(name, tensor)

    def _check_codes(self, name: str, tensor: npt.NDArray[np.generic]) -> None:
        if name not in self._codes:
            raise ValueError(f"{name!r} is not a codes stream of this schema")
        wanted = np.uint8 if self._codes[name][1] == 0 else np.int8
        if tensor.dtype != wanted:
            raise ValueError(f"codes of {name!r} are {np.dtype(wanted)}, not {tensor.dtype}")

    def _update_values(self, values: npt.NDArray[np.float64]) -> None:
        window, scalar = self._window, self.schema.scalar_streams
        finite = np.isfinite(values)
        absent = None if finite.all() else ~finite
        bins = self._bins(values) + self._offsets
        clean = values
        if absent is not None:
            missing = np.isnan(values)
            window.missing[scalar] += missing.sum(0)
            window.nonfinite[scalar] += (absent & ~missing).sum(0)
            bins[absent] = len(window.counts)
            clean = np.where(absent, self._centers, values)
        window.counts[:] += np.bincount(bins.ravel(), minlength=len(window.counts) + 1)[:-1]
        self._update_extremes(values, absent)
        z = np.clip((clean - self._centers) * self._per_scale, -MOMENT_CLIP, MOMENT_CLIP)
        z = np.rint(z * self._weights).astype(np.int64)
        window.sum1[scalar] += z.sum(0)
        window.sum2[scalar] += (z * z).sum(0)
        self._update_moves(self._cells[bins[:, self._tracked]].astype(np.int64), values[:, self._tracked])

    def _bins(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        bins = np.zeros(values.shape, np.int64)
        if len(self._numeric):
            numeric = values[:, self._numeric]
            ranks = np.zeros(numeric.shape, np.int16)
            # One compare per edge rank over all streams beats a search per stream several times over.
            for edges in self._edges:
                ranks += numeric >= edges
            bins[:, self._numeric] = ranks
        for column, known, order in self._categorical:
            value = values[:, column]
            if not len(known):
                continue
            at = np.minimum(np.searchsorted(known, value), len(known) - 1)
            bins[:, column] = np.where(known[at] == value, order[at], len(known))
        return bins

    def _update_extremes(self, values: npt.NDArray[np.float64], absent: npt.NDArray[np.bool_] | None) -> None:
        window, scalar = self._window, self.schema.scalar_streams
        low = values.min(0) if absent is None else np.where(absent, np.inf, values).min(0)
        high = values.max(0) if absent is None else np.where(absent, -np.inf, values).max(0)
        window.low[scalar] = np.minimum(window.low[scalar], _float32_outward(low, -np.inf))
        window.high[scalar] = np.maximum(window.high[scalar], _float32_outward(high, np.inf))

    def _update_moves(self, cells: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        if not len(self._tracked):
            return
        before = np.vstack([self._last_cells, cells[:-1]])
        previous = np.vstack([self._last_values, values[:-1]])
        first = int(self._last_cells[0] == _NO_CELL)
        moves = self._base + before[first:] * CELLS + cells[first:]
        self._moves += np.bincount(moves.ravel(), minlength=len(self._moves))
        self._repeats += (values[first:] == previous[first:]).sum(0)
        self._steps += len(cells) - first
        self._last_cells, self._last_values = cells[-1].copy(), values[-1].copy()

    def _update_codes(self, name: str, tensor: npt.NDArray[np.generic]) -> None:
        index, lowest = self._codes[name]
        raw = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
        counts = np.bincount(raw, minlength=CODE_BINS)
        if lowest:  # bin = code + 128: the two halves of the unsigned view change places
            counts = np.roll(counts, -lowest)
        begin = self.schema.offsets[index]
        self._window.counts[begin : begin + CODE_BINS] += counts
        if raw.size:
            present = np.flatnonzero(counts) + lowest
            self._window.low[index] = min(self._window.low[index], float(present[0]))
            self._window.high[index] = max(self._window.high[index], float(present[-1]))

    def take(self) -> tuple[Window, Transitions]:
        """The window and moves since the last `take`; the accumulator starts a new one."""
        w = self._window
        window = Window(
            schema_id=w.schema_id,
            layout=w.layout,
            rows=self._rows,
            parts=1,
            counts=w.counts,
            missing=w.missing,
            nonfinite=w.nonfinite,
            low=w.low,
            high=w.high,
            sum1=w.sum1,
            sum2=w.sum2,
        )
        shape = (len(self._tracked), CELLS, CELLS)
        transitions = Transitions(w.schema_id, self._moves.reshape(shape), self._repeats, self._steps)
        self._clear()
        return window, transitions


def _float32_outward(values: npt.NDArray[np.float64], toward: float) -> npt.NDArray[np.float64]:
    """The nearest float32 that does not cut the range short: extremes travel as float32."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    short = rounded > values if toward < 0 else rounded < values
    return np.where(short, np.nextafter(rounded, np.float32(toward)), rounded).astype(np.float64)
