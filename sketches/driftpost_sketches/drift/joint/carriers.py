"""Carriers: what a row of several streams looks like to the joint features.

Every stream enters by the normal score of its drift cell, in whole sixteenths of a standard deviation. Scores
are bounded, whatever the stream's tails; a monotone change of one stream's scale does not move them far; a
value that is missing scores 0, the centre: it says nothing. Many streams (an embedding) are first turned to
their leading principal axes. Each row is then brought to the same length (its spatial sign; Visuri, Koivunen,
Oja 2000): spells in which everything swings wider together are no change of how streams hang together, and
would drown one.

Everything is a whole number that float32 holds exactly, so that sums do not depend on how rows were blocked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import CELLS
from driftpost_sketches.drift.scores import normal_scores

UNIT = 16  # steps of one standard deviation
MOST = 45  # steps at which a carrier is clipped: 2.8 deviations, as the scores are
MAX_STREAMS = 48  # streams that enter as they are; more are turned to principal axes first
AXES = 24  # principal axes then
MIN_SPREAD = 0.5  # variance of a score below which a stream hardly moves, and can not move with another
_TURN = 100.0  # largest entry of an axis; sums of 4096 * 45 * 100 would still be exact

Ints = npt.NDArray[np.int64]
Cells = npt.NDArray[np.int64] | npt.NDArray[np.int16]
Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Carriers:
    """From drift cells to carriers.

    Attributes:
        streams: int64[C], positions among the schema's tracked streams.
        scores: int8[C, CELLS], score of each cell in steps of 1 / UNIT.
        axes: int8[M, C], or None where the streams themselves are carriers.
        stretch: float32[M], what a turned row is multiplied by to have unit variance; empty without axes.
    """

    streams: Ints
    scores: npt.NDArray[np.int8]
    axes: npt.NDArray[np.int8] | None
    stretch: Singles

    @property
    def count(self) -> int:
        """M, carriers of a row."""
        return len(self.streams) if self.axes is None else len(self.axes)

    def scored(self, cells: Cells) -> Singles:
        """Scores of the streams: float32[C, rows], in steps of 1 / UNIT."""
        used = cells if len(self.streams) == len(cells) else cells[self.streams]
        z: Singles = self._table.take(used + self._base)
        return z

    @cached_property
    def _table(self) -> Singles:
        return self.scores.ravel().astype(np.float32)

    @cached_property
    def _base(self) -> npt.NDArray[np.int32]:
        return (np.arange(len(self.streams), dtype=np.int32) * CELLS)[:, None]

    def values(self, cells: Cells) -> Singles:
        """Carriers of a block of rows: float32[M, rows], whole numbers within +-MOST.

        Args:
            cells: integers [T, rows], the drift cell of every tracked stream.
        """
        z = self.scored(cells)
        if self.axes is not None:
            # Whole numbers below 2**24: exact in whatever order they are added. Each is then scaled.
            z = np.rint((self.axes.astype(np.float32) @ z) * self.stretch[:, None])
            np.clip(z, -MOST, MOST, out=z)
        # Squares sum below 2**24 as well.
        length = np.sqrt(np.maximum(np.einsum("cr,cr->r", z, z), 1.0))
        z *= np.float32(UNIT * math.sqrt(len(z))) / length
        np.rint(z, out=z)
        return np.clip(z, -MOST, MOST, out=z)


def fit_carriers(shares: Sequence[Floats], streams: Ints, cells: Cells) -> Carriers | None:
    """Carriers of a reference.

    Args:
        shares: float64[CELLS] of each candidate, its cell probabilities.
        streams: int64[C], the candidates' positions among tracked streams.
        cells: int64[T, rows], drift cells of all tracked streams: the part of the reference to fit axes on.

    Returns:
        None where fewer than two streams move.
    """
    kept, tables = [], []
    for t, share in zip(streams, shares, strict=True):
        steps = np.clip(np.rint(normal_scores(share)[0] * UNIT), -MOST, MOST)
        if float(share @ (steps / UNIT) ** 2) >= MIN_SPREAD:
            kept.append(int(t))
            tables.append(steps.astype(np.int8))
    if len(kept) < 2:
        return None
    plain = Carriers(np.array(kept, np.int64), np.array(tables), None, np.zeros(0, np.float32))
    if len(kept) <= MAX_STREAMS:
        return plain
    spread = np.cov(plain.scored(cells).astype(np.float64))
    values, vectors = np.linalg.eigh(spread)
    leading = vectors[:, np.argsort(values)[::-1][:AXES]].T
    axes = np.rint(leading * (_TURN / np.abs(leading).max(axis=1, keepdims=True)))
    stretch = UNIT / np.sqrt(np.einsum("mc,cd,md->m", axes, spread, axes))
    return Carriers(plain.streams, plain.scores, axes.astype(np.int8), stretch.astype(np.float32))
