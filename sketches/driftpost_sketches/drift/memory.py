"""How long a series remembers: the long-run variance of its sums, by two methods that watch each other.

An autoregression whose order the data choose is precise to a few per cent, but knows nothing of memory beyond
its order. Batch means see every cycle that fits the series several times, to ten per cent. So the
autoregression is believed until the batches contradict it by more than their own error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MIN_BATCHES = 20  # fewer batches give no variance worth the name
MIN_TAU = 0.05
MOST_ORDER = 40  # rows that the autoregression may look back
SHORTEST = 16  # rows of a batch at which memory can be judged at all
NOISE, CERTAIN = 2.0, 3.5  # standard errors from which batches are heard, and from which they alone count
_CONSTANT = 1e-12  # variance of a series that does not vary


def memory(series: FloatArray) -> float:
    """Integrated autocorrelation in rows, with its own uncertainty added.

    Args:
        series: float64[n], in time order.
    """
    n, variance = len(series), float(series.var())
    if variance < _CONSTANT or n < 2 * MIN_BATCHES:
        return 1.0
    short, order = autoregressive_tau(series)
    short *= 1.0 + math.sqrt(4.0 * max(order, 0.5) / n)
    most = short
    for long, error in _batch_taus(series):
        heard = min(max(((long / short - 1.0) / error - NOISE) / (CERTAIN - NOISE), 0.0), 1.0)
        most = max(most, short + heard * (long * (1.0 + error) - short))
    return most


def autoregressive_tau(series: FloatArray) -> tuple[float, int]:
    """Integrated autocorrelation of the autoregression that Schwarz's criterion prefers, and its order.

    Levinson's recursion on the sample autocorrelations; the relative standard error of the result is about
    sqrt(4 * order / n) (Berk 1974).
    """
    n = len(series)
    centred = series - series.mean()
    variance = float(centred @ centred)
    if variance < _CONSTANT * n:
        return 1.0, 0
    most = min(MOST_ORDER, n // 10)
    lags = np.array([float(centred[k:] @ centred[: n - k]) / variance for k in range(most + 1)])
    weights = np.zeros(0)
    rest, best, least, order = 1.0, 1.0, 0.0, 0
    for p in range(1, most + 1):
        partial = float(lags[p] - weights @ lags[p - 1 : 0 : -1]) / rest
        weights = np.append(weights - partial * weights[::-1], partial)
        rest *= 1.0 - partial * partial
        if rest < _CONSTANT:
            break
        score = n * math.log(rest) + p * math.log(n)
        if score < least:
            least, order = score, p
            best = rest / (1.0 - float(weights.sum())) ** 2
    return max(best, MIN_TAU), order


def batch_tau(series: FloatArray) -> tuple[float, float]:
    """Integrated autocorrelation by overlapping batch means, and its relative standard error.

    The batch length doubles until it is ten times the result, or until too few batches remain. The error is
    Meketon and Schmeiser's (1984): in variance two thirds of that of separate batches.
    """
    n, variance = len(series), float(series.var())
    if variance < _CONSTANT or n < 2 * MIN_BATCHES:
        return 1.0, 0.0
    tau, error, largest = 1.0, 0.0, MIN_TAU
    for step, found in enumerate(_batch_taus(series)):
        tau, error = found
        largest = max(largest, tau)
        if SHORTEST * 2**step >= 10 * largest:
            break
    return max(tau, MIN_TAU), error


def _batch_taus(series: FloatArray) -> Iterator[tuple[float, float]]:
    """The same at batch lengths of 16, 32, 64 ... rows, as long as there are enough batches."""
    n, variance = len(series), float(series.var())
    sums = np.concatenate([[0.0], np.cumsum(series - series.mean())])
    length = min(SHORTEST, n // MIN_BATCHES)
    while n // length >= MIN_BATCHES:
        batches = sums[length:] - sums[:-length]
        tau = float(batches @ batches) / len(batches) / length / variance * n / (n - length)
        yield tau, math.sqrt(4.0 * length / (3.0 * n))
        length *= 2
