"""Joint features: bounded numbers of a row that depend on several carriers at once.

From a block of carriers come raw sums: of the carriers, of all their products, and of random Fourier features
(cosines and sines of random directions; Rahimi and Recht 2007). A window keeps K fixed combinations of them.
All of it is whole numbers, so that windows merge exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from driftpost_sketches.drift.joint.carriers import MOST, UNIT, Carriers, Cells, Ints, Singles

FOURIER = 32  # random directions: a cosine and a sine of each
WAVE = 127  # steps of a cosine's amplitude
TURN = 256  # steps of one radian per standard deviation in the directions
BLOCK = 4096  # rows summed in float32 at a time: 45 * 45 * 4096 stays below 2**24


@dataclass(frozen=True, eq=False)
class Features:
    """K combinations of the raw features of a row.

    Attributes:
        carriers: from drift cells.
        directions: int16[FOURIER, M], in steps of 1 / TURN.
        weights: int16[K, D], with D = M + M (M + 1) / 2 + 2 FOURIER: of carriers, their products, waves.
    """

    carriers: Carriers
    directions: npt.NDArray[np.int16]
    weights: npt.NDArray[np.int16]

    @property
    def count(self) -> int:
        """K."""
        return len(self.weights)

    @property
    def width(self) -> int:
        """D, raw features."""
        return int(self.weights.shape[1])

    @cached_property
    def _upper(self) -> tuple[Ints, Ints]:
        return np.triu_indices(self.carriers.count)

    def gather(self, cells: Cells) -> Ints:
        """Raw features summed over a block of rows: int64[D].

        Args:
            cells: integers [T, rows], the drift cell of every tracked stream; at most BLOCK rows.
        """
        y = self.carriers.values(cells)
        gram = y @ y.T
        raw = np.concatenate([y.sum(axis=1), gram[self._upper], self._waves(y).sum(axis=1)])
        return raw.astype(np.int64)

    def combine(self, raw: Ints) -> Ints:
        """The K features of summed raw ones: int64[K]."""
        return np.asarray(self.weights.astype(np.int64) @ raw)

    def rows(self, cells: Cells) -> Ints:
        """The features of each row: int64[K, rows]; what `gather` and `combine` add up."""
        raw = self.raw(self.carriers.values(cells))
        return np.asarray(np.rint(self.weights.astype(np.float64) @ raw).astype(np.int64))

    def raw(self, y: Singles) -> npt.NDArray[np.float64]:
        """Raw features of each row of carriers: float64[D, rows]."""
        first, second = self._upper
        return np.concatenate([y, y[first] * y[second], self._waves(y)]).astype(np.float64)

    def _waves(self, y: Singles) -> Singles:
        angles = self.directions.astype(np.float32) @ y
        angles *= np.float32(1.0 / (UNIT * TURN))
        waves = np.concatenate([np.cos(angles), np.sin(angles)])
        waves *= np.float32(WAVE)
        np.rint(waves, out=waves)
        return waves


def raw_limits(carriers: int) -> Ints:
    """Largest absolute value of each raw feature: int64[D]."""
    products = np.full(carriers * (carriers + 1) // 2, MOST * MOST)
    return np.concatenate([np.full(carriers, MOST), products, np.full(2 * FOURIER, WAVE)]).astype(np.int64)
