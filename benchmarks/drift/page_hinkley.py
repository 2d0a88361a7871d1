"""How far the Page-Hinkley test goes out on quiet streams: its statistic without a threshold.

The sums of River's `PageHinkley` (both sides, its usual allowance and forgetting) in blocks of numpy
instead of row by row; exact up to rounding, which a test holds against River's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

DELTA = 0.005  # of every row, allowed to either side
ALPHA = 1.0 - 0.0001  # what is left of a sum after a row
LEAST = 30  # rows before the first decision
BLOCK = 1_000  # rows in which ALPHA's powers stay near 1


def page_hinkley_peaks(values: FloatArray) -> FloatArray:
    """Largest threshold below which each stream would have raised an alarm: float64[streams].

    Args:
        values: float64[rows, streams], from the test's first row on.
    """
    rows = np.arange(1, len(values) + 1)[:, None]
    moved = values - np.cumsum(values, axis=0) / rows
    up = _forgetting_sum(moved - DELTA)
    rise = up - np.minimum.accumulate(up, axis=0)
    down = _forgetting_sum(moved + DELTA)
    # River's largest sum begins at -1.
    fall = np.maximum(np.maximum.accumulate(down, axis=0), -1.0) - down
    return np.asarray(np.maximum(rise, fall)[LEAST - 1 :].max(axis=0))


def _forgetting_sum(values: FloatArray) -> FloatArray:
    out = np.empty_like(values)
    last = np.zeros(values.shape[1])
    powers = ALPHA ** np.arange(1, BLOCK + 1)[:, None]
    for begin in range(0, len(values), BLOCK):
        block = values[begin : begin + BLOCK]
        grown = powers[: len(block)]
        out[begin : begin + BLOCK] = grown * (last + np.cumsum(block / grown, axis=0))
        last = out[begin + len(block) - 1]
    return out
