"""Rows into the open window: one vectorised pass over all streams for each block of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from driftpost_sketches.binning import Binner, Indices, Narrow
from driftpost_sketches.cells import CELLS
from driftpost_sketches.drift.joint.features import Features
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.schema import CODE_BINS, Schema, StreamKind
from driftpost_sketches.transitions import Transitions
from driftpost_sketches.window import CLIP, FIXED_POINT, SUM2_LIMIT, Window
from driftpost_sketches.window_bytes import narrow

__all__ = ["Transitions", "WindowAccumulator"]

# Rows per pass. Squares of fixed-point values sum below 2**32 * 4096 = 2**44, exact in float64; and the
# working arrays of 40 streams stay at about a megabyte whatever a caller hands over.
BLOCK_ROWS = 4096


class WindowAccumulator:
    """The open window of one schema.

    The last row of a window is carried into the next, so that no transition is lost between them; of a
    partial stream the last row that belonged to it, however many windows ago.
    """

    def __init__(self, schema: Schema, joint: Features | None = None) -> None:
        self.schema = schema
        self._binner = Binner(schema)
        self._scalar = schema.scalar_streams
        self._tracked = np.flatnonzero(np.isin(schema.scalar_streams, schema.tracked_streams))
        # Counts and sums stand in the order of the value matrix until the window closes.
        bins = np.array([schema.streams[i].n_bins for i in self._scalar], dtype=np.int64)
        self._bins = int(bins.sum())
        self._starts = (np.cumsum(bins) - bins)[:, None].astype(np.int32)
        self._bin_places = np.concatenate(
            [np.arange(schema.offsets[i], schema.offsets[i + 1]) for i in self._scalar]
            or [np.empty(0, np.int64)]
        )
        streams = [schema.streams[i] for i in self._scalar]
        self._numeric = self._binner.numeric
        self._center = np.array([streams[i].center for i in self._numeric])[:, None]
        self._per_scale = 1.0 / np.array([streams[i].scale for i in self._numeric])[:, None]
        self._codes = {
            s.name: (i, s.lowest_code) for i, s in enumerate(schema.streams) if s.kind is StreamKind.CODES
        }
        tracked = len(self._tracked)
        self._all_tracked = tracked == len(self._scalar)
        partial = np.array([s.partial for s in streams], dtype=bool)
        # A NaN in a partial stream is no missing value.
        self._counted = None if not partial.any() else (~partial).astype(np.int64)
        self._partial = np.flatnonzero(partial[self._tracked])
        self._places = np.arange(tracked)
        self._joint = joint
        members = np.zeros(0, np.int64) if joint is None else joint.carriers.streams
        self._joint_partial = np.intersect1d(members, self._partial)
        self._pair_base = (np.arange(tracked, dtype=np.int64) * CELLS**2)[:, None]
        self._narrow_base = self._pair_base.astype(np.int32)
        self._carried: npt.NDArray[np.int64] = np.full(tracked, -1, dtype=np.int64)
        self._carried_value: npt.NDArray[np.float64] = np.full(tracked, np.nan)
        self._carried_same: npt.NDArray[np.bool_] = np.zeros(tracked, dtype=np.bool_)
        self._clear()

    @property
    def rows(self) -> int:
        """Rows in the open window."""
        return self._rows

    def update(
        self, values: npt.NDArray[np.float64], codes: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> None:
        """Adds a block of rows, in time order.

        Args:
            values: float64[rows, S_scalar], a column per non-codes stream in schema order; NaN is missing, or
                in a partial stream no row of its.
            codes: int8 or uint8 arrays by codes stream, first axis rows; rows without codes and streams
                without any may be left out.

        Raises:
            MalformedSketch: wrong shape or type, or a codes stream that the schema does not have. Nothing of
                the block has been added then.
        """
        block = np.asarray(values, dtype=np.float64)
        if block.ndim != 2 or block.shape[1] != len(self._scalar):
            raise MalformedSketch(
                f"values of shape {block.shape}: rows x {len(self._scalar)} columns are expected, "
                "one for each numeric or categorical stream"
            )
        rows = len(block)
        tensors = self._checked(codes or {}, rows)
        for start in range(0, rows, BLOCK_ROWS):
            self._add(np.ascontiguousarray(block[start : start + BLOCK_ROWS].T))
        for name, tensor in tensors.items():
            self._add_codes(*self._codes[name], tensor)
        self._rows += rows

    def so_far(self) -> Window:
        """The open window as it is now; it shares memory with what is added next, so use it at once."""
        scalar = self._scalar
        counts, streams = self._code_counts, len(self.schema)
        counts[self._bin_places] = self._counts
        low, high = self._code_low, self._code_high
        low[scalar], high[scalar] = self._low, self._high
        missing, nonfinite, sum1, sum2 = (np.zeros(streams, dtype=np.int64) for _ in range(4))
        missing[scalar], nonfinite[scalar] = self._missing, self._nonfinite
        sum1[scalar[self._numeric]], sum2[scalar[self._numeric]] = self._sum1, self._sum2
        return Window(
            schema_id=self.schema.id,
            rows=self._rows,
            parts=1 if self._rows else 0,
            layout=self.schema.offsets,
            counts=counts,
            missing=missing,
            nonfinite=nonfinite,
            low=narrow(low),
            high=narrow(high),
            sum1=sum1,
            sum2=sum2,
            joint=np.zeros(0, np.int64) if self._joint is None else self._joint.combine(self._raw),
            joint_rows=self._joint_rows,
        )

    def take(self) -> tuple[Window, Transitions]:
        """Closes the window and opens the next; the last row is carried over."""
        window = self.so_far()
        transitions = Transitions(
            schema_id=self.schema.id,
            moves=self._pairs.reshape(len(self._tracked), CELLS, CELLS),
            repeats=self._repeats,
            runs=self._runs,
            steps=self._steps,
        )
        self._clear()
        return window, transitions

    def break_sequence(self) -> None:
        """Says that the next row does not follow the last one in time (after a pause, a restart)."""
        self._carried.fill(-1)
        self._carried_value.fill(np.nan)
        self._carried_same.fill(False)

    def _clear(self) -> None:
        streams, scalar, tracked = len(self.schema), len(self._scalar), len(self._tracked)
        self._rows = 0
        self._joint_rows = 0
        self._raw: npt.NDArray[np.int64] = np.zeros(self._joint.width if self._joint else 0, dtype=np.int64)
        self._counts: npt.NDArray[np.int64] = np.zeros(self._bins, dtype=np.int64)
        self._missing: npt.NDArray[np.int64] = np.zeros(scalar, dtype=np.int64)
        self._nonfinite: npt.NDArray[np.int64] = np.zeros(scalar, dtype=np.int64)
        self._low: npt.NDArray[np.float64] = np.full(scalar, np.inf)
        self._high: npt.NDArray[np.float64] = np.full(scalar, -np.inf)
        self._sum1: npt.NDArray[np.int64] = np.zeros(len(self._numeric), dtype=np.int64)
        self._sum2: npt.NDArray[np.int64] = np.zeros(len(self._numeric), dtype=np.int64)
        # Of all streams, those of codes filled in and the others still empty.
        self._code_counts: npt.NDArray[np.int64] = np.zeros(int(self.schema.offsets[-1]), dtype=np.int64)
        self._code_low: npt.NDArray[np.float64] = np.full(streams, np.inf)
        self._code_high: npt.NDArray[np.float64] = np.full(streams, -np.inf)
        self._pairs: npt.NDArray[np.int64] = np.zeros(tracked * CELLS**2, dtype=np.int64)
        self._repeats: npt.NDArray[np.int64] = np.zeros(tracked, dtype=np.int64)
        self._runs: npt.NDArray[np.int64] = np.zeros(tracked, dtype=np.int64)
        self._steps: npt.NDArray[np.int64] = np.zeros(tracked, dtype=np.int64)

    def _add(self, values: npt.NDArray[np.float64]) -> None:
        """Adds float64[S_scalar, rows]."""
        every = np.isfinite(values)
        finite = None if every.all() else every
        bins = self._binner.narrow(values)
        places = bins + self._starts
        self._counts += np.bincount(
            places.ravel() if finite is None else places[finite], minlength=self._bins
        )
        low, high = values, values
        if finite is not None:
            missing = np.isnan(values).sum(axis=1)
            self._missing += missing if self._counted is None else missing * self._counted
            self._nonfinite += values.shape[1] - finite.sum(axis=1) - missing
            low, high = np.where(finite, values, np.inf), np.where(finite, values, -np.inf)
        np.minimum(self._low, low.min(axis=1), out=self._low)
        np.maximum(self._high, high.max(axis=1), out=self._high)
        self._add_moments(values, finite)
        self._add_steps(values, self._binner.fold_narrow(bins, finite))

    def _add_moments(self, values: npt.NDArray[np.float64], finite: npt.NDArray[np.bool_] | None) -> None:
        numeric = self._numeric
        if not len(numeric):
            return
        x = values if len(numeric) == len(values) else values[numeric]
        with np.errstate(invalid="ignore", over="ignore"):
            z = (x - self._center) * self._per_scale
        np.maximum(z, -CLIP, out=z)
        np.minimum(z, CLIP, out=z)
        z *= FIXED_POINT
        np.rint(z, out=z)
        if finite is not None:
            z[~finite[numeric]] = 0.0
        self._sum1 += z.sum(axis=1).astype(np.int64)
        self._sum2 += np.einsum("sr,sr->s", z, z).astype(np.int64)
        np.minimum(self._sum2, SUM2_LIMIT, out=self._sum2)

    def _add_steps(self, values: npt.NDArray[np.float64], cells: Narrow) -> None:
        tracked = self._tracked
        if not len(tracked):
            return
        if not self._all_tracked:
            values, cells = values[tracked], cells[tracked]
        if self._joint is not None:
            self._add_joint(self._joint, values, cells)
        if len(self._partial):
            gappy = self._partial[np.isnan(values[self._partial]).any(axis=1)]
            if len(gappy):
                self._link_gappy(gappy, values[gappy], cells[gappy])
                whole = np.delete(self._places, gappy)
                self._link(whole, values[whole], cells[whole])
                return
        self._link(None, values, cells)

    def _add_joint(self, joint: Features, values: npt.NDArray[np.float64], cells: Narrow) -> None:
        """Adds joint features of the rows that belong to every stream they look at.

        A seasonal stream is silent while the clock is unknown: how it hangs together with others can not be
        told then, and silence must not look like a change of it.
        """
        if len(self._joint_partial):
            silent = np.isnan(values[self._joint_partial]).any(axis=0)
            if silent.any():
                cells = np.ascontiguousarray(cells[:, ~silent])
        self._joint_rows += cells.shape[1]
        if cells.shape[1]:
            self._raw += joint.gather(cells)

    def _link(self, some: Indices | None, values: npt.NDArray[np.float64], cells: Narrow) -> None:
        """Adds moves of streams to which every row of the block belongs.

        Args:
            some: which tracked streams; None for all.
            values: float64[streams, rows].
            cells: int16[streams, rows].
        """
        rows = cells.shape[1]
        streams = slice(None) if some is None else some
        if rows > 1:
            steps = cells[:, :-1] * np.int16(CELLS)
            steps += cells[:, 1:]
            places = steps + self._narrow_base[streams]
            self._pairs += np.bincount(places.ravel(), minlength=self._pairs.size)
            same = values[:, 1:] == values[:, :-1]
            repeats = np.count_nonzero(same, axis=1)
            self._repeats[streams] += repeats
        before = self._carried[streams]
        known = before >= 0
        self._pairs[(self._pair_base[streams, 0] + before * CELLS + cells[:, 0])[known]] += 1
        first = known & (values[:, 0] == self._carried_value[streams])
        self._repeats[streams] += first
        self._runs[streams] += first & ~self._carried_same[streams]
        if rows == 1:
            self._carried_same[streams] = first
        else:
            if repeats.any():  # mostly nothing repeats, and there is no run to look for
                self._runs[streams] += same[:, 0] & ~first
                self._runs[streams] += np.count_nonzero(same[:, 1:] > same[:, :-1], axis=1)
            self._carried_same[streams] = same[:, -1]
        self._steps[streams] += known + (rows - 1)
        self._carried[streams] = cells[:, -1]
        self._carried_value[streams] = values[:, -1]

    def _link_gappy(self, streams: Indices, values: npt.NDArray[np.float64], cells: Narrow) -> None:
        """Adds moves of partial streams: between each row that belongs to one and the one before it that did.

        What was carried stands in front as a row of its own; then the rows of all streams are one list, in
        which neighbours of the same stream are moves.
        """
        carried = self._carried[streams]
        values = np.concatenate([self._carried_value[streams, None], values], axis=1)
        cells = np.concatenate([carried[:, None], cells], axis=1)
        own = ~np.isnan(values)
        own[:, 0] = carried >= 0
        x, cell, owner = values[own], cells[own], streams[np.nonzero(own)[0]]
        if not len(x):
            return
        linked = owner[1:] == owner[:-1]
        moves = self._pair_base[owner[1:], 0] + cell[:-1] * CELLS + cell[1:]
        self._pairs += np.bincount(moves[linked], minlength=self._pairs.size)
        self._steps += np.bincount(owner[1:][linked], minlength=len(self._steps))
        same = linked & (x[1:] == x[:-1])
        self._repeats += np.bincount(owner[1:][same], minlength=len(self._steps))
        # The first row of each stream is the carried one, of which it is known whether it was a repeat.
        carried_same = self._carried_same[owner]
        repeat = np.append(carried_same[0], np.where(linked, same, carried_same[1:]))
        self._runs += np.bincount(owner[1:][same & ~repeat[:-1]], minlength=len(self._steps))
        last = np.append(~linked, True)
        self._carried_same[owner[last]] = repeat[last]
        self._carried[owner[last]] = cell[last]
        self._carried_value[owner[last]] = x[last]

    def _checked(self, codes: Mapping[str, npt.NDArray[Any]], rows: int) -> dict[str, npt.NDArray[np.uint8]]:
        checked = {}
        for name, tensor in codes.items():
            if name not in self._codes:
                raise MalformedSketch(f"{name!r} is no codes stream of this schema")
            wanted = np.uint8 if self._codes[name][1] == 0 else np.int8
            array = np.asarray(tensor)
            if array.dtype != wanted or array.ndim < 1 or len(array) > rows:
                raise MalformedSketch(
                    f"codes of {name!r} are {array.dtype}{list(array.shape)}: "
                    f"{np.dtype(wanted)} with at most {rows} rows first is expected"
                )
            checked[name] = np.ascontiguousarray(array).view(np.uint8)
        return checked

    def _add_codes(self, stream: int, lowest: int, tensor: npt.NDArray[np.uint8]) -> None:
        counts = np.bincount(tensor.ravel(), minlength=CODE_BINS)
        if lowest:
            counts = np.roll(counts, CODE_BINS // 2)
        seen = np.flatnonzero(counts)
        if not len(seen):
            return
        start = self.schema.offsets[stream]
        self._code_counts[start : start + CODE_BINS] += counts
        self._code_low[stream] = min(self._code_low[stream], float(seen[0] + lowest))
        self._code_high[stream] = max(self._code_high[stream], float(seen[-1] + lowest))
