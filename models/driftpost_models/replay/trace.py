"""The course of a replay in bounded memory: neighbouring windows are merged when there are too many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from driftpost_models.replay.tables import Numbers
from driftpost_sketches.window import Window

MAX_POINTS = 1200
"""Points that are kept: more than a plot has columns of pixels to tell apart."""


@dataclass(frozen=True)
class Point:
    """Some consecutive windows.

    Attributes:
        start: number of their first row.
        window: the windows, merged.
        evidence: float64[T], the largest log evidence of each tracked stream.
        together: the largest log evidence of all streams together, what an alarm is decided on.
    """

    start: int
    window: Window
    evidence: Numbers
    together: float


class Trace:
    """Points of a replay in time order.

    Attributes:
        points: at most `MAX_POINTS`, each of as many windows as the others but for the last.
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._windows = 1
        self._open = 0

    def add(self, start: int, window: Window, evidence: Numbers, peak: float) -> None:
        """Take a window.

        Args:
            start: number of its first row.
            window: its sketches.
            evidence: float64[T], log evidence of each tracked stream after it.
            peak: log evidence of an alarm that it raised (which resets `evidence`), -inf without one.
        """
        share = -np.log(max(len(evidence), 1))
        together = max(float(np.logaddexp.reduce(evidence, initial=-np.inf) + share), peak)
        point = Point(start, window, evidence, together)
        if self.points and self._open < self._windows:
            self.points[-1] = _merged(self.points[-1], point)
        else:
            if len(self.points) == MAX_POINTS:
                self.points = [
                    _merged(a, b) for a, b in zip(self.points[::2], self.points[1::2], strict=True)
                ]
                self._windows *= 2
            self.points.append(point)
            self._open = 0
        self._open += 1


def _merged(first: Point, second: Point) -> Point:
    return Point(
        first.start,
        first.window.merge(second.window),
        np.maximum(first.evidence, second.evidence),
        max(first.together, second.together),
    )
