"""The last windows at falling resolution: what happened since an onset, in constant space.

An exponential histogram (Datar et al. 2002): two blocks of each size 1, 2, 4, ... windows. Sums since any
moment are exact for the last two windows and at least half right in length before.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LEVELS = 10  # reaches back about 2,000 windows: a week of five-minute ones
PER_LEVEL = 2

Floats32 = npt.NDArray[np.float32]


class Recent:
    """Recent sums per stream.

    Attributes:
        blocks: (windows, float32[streams, fields]) from the oldest to the newest.
    """

    def __init__(self, streams: int, fields: int) -> None:
        self._shape = (streams, fields)
        self.blocks: list[tuple[int, Floats32]] = []

    def push(self, window: npt.NDArray[np.float64]) -> None:
        """Adds one window's float64[streams, fields]."""
        self.blocks.append((1, window.astype(np.float32)))
        size = 1
        widths = [width for width, _ in self.blocks]
        while widths.count(size) > PER_LEVEL:
            at = widths.index(size)
            merged = (2 * size, self.blocks[at][1] + self.blocks[at + 1][1])
            self.blocks[at : at + 2] = [merged]
            widths[at : at + 2] = [2 * size]
            size *= 2
        if self.blocks[0][0] >= 1 << LEVELS:
            del self.blocks[0]

    def since(self, windows: int) -> npt.NDArray[np.float64]:
        """Sums over about the last `windows` windows, at least the newest: float64[streams, fields].

        A block that reaches further back than asked is left out unless nothing else is there.
        """
        total = np.zeros(self._shape)
        covered = 0
        for width, block in reversed(self.blocks):
            if covered and covered + width > windows:
                break
            total += block
            covered += width
        return total
