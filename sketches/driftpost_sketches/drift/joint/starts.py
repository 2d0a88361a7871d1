"""Sums since geometrically thinned moments: constant state for a test with an unknown beginning.

An exponential histogram (Datar et al. 2002) of exact sums: a few blocks of each size 1, 2, 4, ... windows.
Every block's beginning is a start at which a change may have begun. Starts are dropped as blocks merge, never
added later, so the sum of their e-values is a Shiryaev-Roberts statistic with some terms left out.
"""

from __future__ import annotations

import numpy as np

from driftpost_sketches.drift.joint.carriers import Floats, Ints

PER_LEVEL = 3
LEVELS = 10  # blocks of up to 2**9 windows: reaches back some 3,000 windows
MAX_BLOCKS = PER_LEVEL * LEVELS + 1


class Starts:
    """Blocks of windows, from the oldest to the newest.

    Attributes:
        windows: int64[B], windows in each block.
        rows: int64[B], rows likewise.
        sums: int64[B, K], feature sums likewise.
    """

    def __init__(self, features: int) -> None:
        self.windows: Ints = np.zeros(0, dtype=np.int64)
        self.rows: Ints = np.zeros(0, dtype=np.int64)
        self.sums: Ints = np.zeros((0, features), dtype=np.int64)

    def clear(self) -> None:
        """Forgets everything."""
        self.windows, self.rows, self.sums = self.windows[:0], self.rows[:0], self.sums[:0]

    def push(self, rows: int, sums: Ints) -> None:
        """Adds one window."""
        windows = [*self.windows.tolist(), 1]
        lengths = [*self.rows.tolist(), rows]
        parts = [*self.sums, sums]
        size = 1
        while windows.count(size) > PER_LEVEL:
            at = windows.index(size)
            windows[at : at + 2] = [2 * size]
            lengths[at : at + 2] = [lengths[at] + lengths[at + 1]]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            size *= 2
        if windows[0] >= 1 << LEVELS:
            del windows[0], lengths[0], parts[0]
        self.windows = np.array(windows, dtype=np.int64)
        self.rows = np.array(lengths, dtype=np.int64)
        self.sums = np.array(parts, dtype=np.int64)

    def since(self) -> tuple[Ints, Floats, Floats]:
        """From each start until now: int64[B] windows, float64[B] rows, float64[B, K] sums."""
        back = slice(None, None, -1)
        return (
            np.cumsum(self.windows[back])[back],
            np.cumsum(self.rows[back])[back].astype(np.float64),
            np.cumsum(self.sums[back], axis=0)[back].astype(np.float64),
        )
