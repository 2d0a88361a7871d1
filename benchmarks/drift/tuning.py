"""The laxest limit at which a detector raises no more than so many false alarms over all quiet days.

Until its first alarm a detector's statistic does not depend on its limit, so the statistic's peak over a
quiet stream says at which limits the stream alarms at all. Only the few streams with the highest peaks need
be kept and run, to count how often each alarms.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

SPARE = (
    10  # streams kept beyond the alarms allowed: some have their peak in the reference, where nobody counts
)


class Tuned(NamedTuple):
    """What came out.

    Attributes:
        limit: the statistic must go beyond it for an alarm.
        raised: false alarms at that limit.
    """

    limit: float
    raised: int


class Tuning:
    """Finds a limit while quiet streams pass by.

    Args:
        alarms: rows at which one stream alarms, given its reference, live rows and a limit.
        allowed: false alarms over all streams.
    """

    def __init__(self, alarms: Callable[[FloatArray, FloatArray, float], Rows], allowed: int) -> None:
        self._alarms, self._allowed = alarms, allowed
        self._read = 0
        self._highest: list[tuple[float, int, tuple[FloatArray, FloatArray]]] = []

    def read(self, peaks: FloatArray, streams: Sequence[tuple[FloatArray, FloatArray]]) -> None:
        """Takes in more quiet streams.

        Args:
            peaks: float64[streams], of the statistic over all their rows.
            streams: their reference and live rows.
        """
        for peak, stream in zip(peaks.tolist(), streams, strict=True):
            self._read += 1
            heapq.heappush(self._highest, (peak, self._read, stream))
            if len(self._highest) > self._allowed + SPARE:
                heapq.heappop(self._highest)

    @property
    def found(self) -> Tuned:
        """The limit for all that was read: a peak itself, which is then just not beyond it."""
        falling = sorted(self._highest, key=lambda kept: -kept[0])
        best = Tuned(falling[0][0], 0)
        for above, (peak, _, _) in enumerate(falling):
            limit = peak * (1.0 + 1e-9)
            raised = sum(len(self._alarms(*stream, limit)) for _, _, stream in falling[:above])
            if raised > self._allowed:
                break
            best = Tuned(peak, raised)
        return best
