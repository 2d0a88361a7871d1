"""KSWIN's statistic, many rows at a time.

KSWIN (Raab, Heusinger and Schleif 2020) compares the last 30 of 100 rows with 30 drawn from the other 70.
River draws them from Python's generator, whose choices do not depend on the data: drawn once, they serve
every stream. What River computes in 160 us a row takes a few here; a test holds its decisions against
River's.
"""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

WINDOW, RECENT = 100, 30  # rows
LEAST = 0.1  # a smaller distance is never an alarm
CHUNK = 5_000  # rows at a time
_KEEP = 210_000  # rows whose draws are kept


def kswin_distances(values: FloatArray) -> FloatArray:
    """Largest distance of the two distributions at every row, float64[rows]; 0 before the window is full.

    Args:
        values: float64[rows] of one stream, from KSWIN's first row on.
    """
    out = np.zeros(len(values))
    if len(values) < WINDOW:
        return out
    views = np.lib.stride_tricks.sliding_window_view(values, WINDOW)
    steps = np.repeat([1, -1], RECENT)
    for begin in range(0, len(views), CHUNK):
        view = views[begin : begin + CHUNK]
        drawn = np.take_along_axis(view, _drawn(len(values))[begin : begin + len(view)], axis=1)
        both = np.concatenate([drawn, view[:, WINDOW - RECENT :]], axis=1)
        order = np.argsort(both, axis=1, kind="stable")
        ranked = np.take_along_axis(both, order, axis=1)
        distance = np.abs(np.cumsum(steps[order], axis=1))
        distance[:, :-1][ranked[:, 1:] == ranked[:, :-1]] = 0  # of equal values only the last counts
        out[begin + WINDOW - 1 : begin + WINDOW - 1 + len(view)] = distance.max(axis=1) / RECENT
    return out


def kswin_alarms(values: FloatArray, limit: float) -> Rows:
    """Rows (counted from 1) at which the distance is above the limit; it begins anew after each."""
    rows: list[int] = []
    begin = 0
    while begin + WINDOW <= len(values):
        over = np.flatnonzero(kswin_distances(values[begin:]) > max(limit, LEAST))
        if not over.size:
            break
        begin += int(over[0]) + 1
        rows.append(begin)
    return np.array(rows, dtype=np.int64)


def _drawn(rows: int) -> Rows:
    return _draws(max(rows, _KEEP))


@lru_cache(maxsize=1)
def _draws(rows: int) -> Rows:
    rng = random.Random(1)  # the seed that River's gets, too
    places = range(WINDOW - RECENT)
    return np.array([rng.sample(places, RECENT) for _ in range(rows)], dtype=np.int64)
