"""Bets on the mean of losses between 0 and 1, and confidence sequences made of them.

A bet of strength s wagers that the mean lies above m (s > 0) or below (s < 0). Its evidence for a loss x is
`s * x - log(1 - m + m * exp(s))`: by convexity its exponential is at most `1 + l * (x - m)` with
`l = (exp(s) - 1) / (1 - m + m * exp(s))`, a fair bet where the mean is m (Waudby-Smith and Ramdas 2024), and
exactly that for losses of 0 and 1. Sums over rows need only the number of rows and the sum of losses, which
merge in any order; where error rates differ between rows the sums are about their running mean, because the
charge is concave in m.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Strengths of a confidence sequence: odds that differ by a factor of exp(0.004) to exp(8). The gentlest are
# for a million labels, the strongest for the first dozen.
STRENGTHS = 0.004 * 2.0 ** (np.arange(23) / 2.0)
BISECTIONS = 48  # of an interval of at most 1: an error of 4e-15
DEFAULT_ALPHA = 0.05


def log_evidence(
    strengths: Floats, mean: float | Floats, rows: float | Floats, loss: float | Floats
) -> Floats:
    """Log evidence of bets against a mean.

    Args:
        strengths: float64[N], positive for "the mean is higher", negative for "lower".
        mean: what is bet against, 0 to 1, of any shape.
        rows: number of rows, broadcasting against `mean`.
        loss: sum of their losses, likewise.

    Returns:
        float64[*shape, N]. -inf where a bet has lost everything.
    """
    m, n, x = (np.asarray(value, dtype=np.float64)[..., None] for value in (mean, rows, loss))
    # log1p keeps the digits that a small mean or a gentle bet has.
    return np.asarray(strengths * x - n * np.log1p(m * np.expm1(strengths)))


def confidence_sequence(
    rows: float, loss: float, independent: float = 1.0, alpha: float = DEFAULT_ALPHA
) -> tuple[float, float]:
    """Interval that holds the mean loss at all times at once with probability 1 - alpha.

    It may be looked at after every label, and be acted on at any moment; a fixed-size interval may not.

    Args:
        rows: labelled rows so far.
        loss: sum of their losses.
        independent: rows that count as one independent row: evidence is divided by it.
        alpha: probability that it ever misses.

    Returns:
        (low, high); (0, 1) without rows.
    """
    n, x = rows / max(independent, 1.0), loss / max(independent, 1.0)
    if n <= 0:
        return 0.0, 1.0
    rate = min(max(x / n, 0.0), 1.0)
    level = math.log(2.0 / alpha) + math.log(len(STRENGTHS))

    def excludes(mean: float, sign: float) -> bool:
        evidence = log_evidence(sign * STRENGTHS, mean, n, x)
        return bool(np.logaddexp.reduce(evidence) >= level)

    low = _border(0.0, rate, lambda mean: excludes(mean, 1.0))
    high = 1.0 - _border(0.0, 1.0 - rate, lambda gap: excludes(1.0 - gap, -1.0))
    return low, high


def _border(outside: float, inside: float, excluded: Callable[[float], bool]) -> float:
    """Between a mean that may be excluded and one that never is: where it begins not to be."""
    if not excluded(outside):
        return outside
    for _ in range(BISECTIONS):
        middle = 0.5 * (outside + inside)
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside
