"""How strict ADWIN must be to stay silent, for many streams in one pass.

Until its first alarm ADWIN (Bifet and Gavalda 2007) drops nothing, so where its buckets end depends on the
number of rows alone, and what they hold follows from running sums: the largest evidence over all checks
says at which delta it would have alarmed. Exact up to rounding for River's ADWIN (clock 32, five buckets of
a size, least window 5); a test holds both against each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

CLOCK = 32  # rows from check to check
MAX_BUCKETS = 5  # of one size
LEAST = 5  # rows on either side of a cut


def adwin_peaks(values: FloatArray) -> FloatArray:
    """Largest -log(delta) below which each stream would have raised an alarm: float64[streams].

    Args:
        values: float64[rows, streams], from ADWIN's first row on.
    """
    zero = np.zeros((1, values.shape[1]))
    sums = np.concatenate([zero, np.cumsum(values, axis=0)])
    squares = np.concatenate([zero, np.cumsum(values * values, axis=0)])
    peaks = np.full(values.shape[1], -np.inf)
    for n, ends, recip in _checks(len(values) // CLOCK):
        old = sums[ends]
        size = ends[:, None].astype(np.float64)
        distance = np.abs(old / size - (sums[n] - old) / (n - size))
        variance = (squares[n] - sums[n] ** 2 / n) / n
        # An alarm takes |distance| > sqrt(2 recip variance L) + 2/3 recip L, with L = log(2 log(n) / delta).
        root, linear = np.sqrt(2.0 * recip * np.maximum(variance, 0.0)), 2.0 / 3.0 * recip
        evidence = ((np.sqrt(root * root + 4.0 * linear * distance) - root) / (2.0 * linear)) ** 2
        peaks = np.maximum(peaks, evidence.max(axis=0) - math.log(2.0 * math.log(n)))
    return peaks


@lru_cache(maxsize=4)
def _checks(checks: int) -> tuple[tuple[int, npt.NDArray[np.int64], FloatArray], ...]:
    """Of every check: rows so far, where a cut may be (rows before it), and 1/n0 + 1/n1 as River takes it."""
    return tuple(_each_check(checks))


def _each_check(checks: int) -> Iterator[tuple[int, npt.NDArray[np.int64], FloatArray]]:
    counts = [0]
    for n in range(1, checks * CLOCK + 1):
        counts[0] += 1
        level = 0
        while counts[level] == MAX_BUCKETS + 1:
            if level + 1 == len(counts):
                counts.append(0)
            counts[level] -= 2
            counts[level + 1] += 1
            level += 1
        if n % CLOCK == 0:
            ends = np.cumsum([1 << k for k in range(len(counts) - 1, -1, -1) for _ in range(counts[k])])
            ends = ends[(ends >= LEAST) & (n - ends >= LEAST)]
            recip = 1.0 / (ends - LEAST + 1.0) + 1.0 / (n - ends - LEAST + 1.0)
            yield n, ends, recip[:, None]
