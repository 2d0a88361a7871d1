"""Which devices stand apart from a population that differs by nature: evidence for each device.

The null hypothesis is a random effect: a healthy device's level is the median device's, plus what it differs
by nature (as the population shows), plus sampling error. Against it stands that the device may be anywhere,
which is a Bayes factor of two normal distributions; averaged over streams and scores it is an e-value for
the device. Which of many devices may be named is then `e_bh`'s question.

Means of few rows have longer tails than a normal distribution. Bernstein's inequality says how much longer
at most (Boucheron, Lugosi and Massart 2013, section 2.8), and the distance counts for less by that.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from driftpost_sketches.drift.log_sums import log_sums
from driftpost_sketches.drift.placing import MAD2_ERROR, BoolArray, FloatArray, Placed

# Fewer devices than this do not show how much devices differ.
MIN_POPULATION = 8
# How far a device may be under the alternative, in standard deviations of the null: large, as faults are.
ALTERNATIVE = 8.0


def log_e_apart(placed: Placed) -> tuple[FloatArray, FloatArray]:
    """Evidence of each device against being one of the population.

    Returns:
        float64[N], natural logs of e-values; 0 for devices that say nothing, and for all of a population of
        fewer than `MIN_POPULATION`. float64[N, T], the same of each stream alone.
    """
    count = placed.here.sum(axis=0)
    # The spread is estimated, too: one standard error more of it.
    nature = placed.nature * (1.0 + MAD2_ERROR / np.sqrt(np.maximum(count, 1)))[:, None]
    variance = placed.sampling + placed.noise + nature
    z2 = _bernstein(placed.off, variance, placed.reach)
    told = placed.used & placed.here[..., None] & (count >= MIN_POPULATION)[:, None]
    return _averaged(_log_bayes_factor(z2), told)


def log_e_against(placed: Placed) -> FloatArray:
    """float64[N]: the same against the reference itself: what the device's own detector must see as well."""
    z2 = _bernstein(placed.shift, placed.sampling + placed.noise, placed.reach)
    return _averaged(_log_bayes_factor(z2), placed.used & placed.here[..., None])[0]


def log_e_moved(shift: float, variance: float) -> float:
    """Evidence of a difference of two means of one device, before and after a moment.

    Args:
        shift: the difference.
        variance: of it, if nothing changed; positive.
    """
    return float(_log_bayes_factor(np.array([shift**2 / variance]))[0])


def log_e_either(first: float, second: float) -> float:
    """The average of two e-values, which is one, too; natural logs."""
    return float(np.logaddexp(first, second)) - math.log(2.0)


def _bernstein(off: FloatArray, variance: FloatArray, reach: FloatArray) -> FloatArray:
    return np.asarray(off**2 / np.maximum(variance + reach * np.abs(off) / 3.0, 1e-300))


def _log_bayes_factor(z2: FloatArray) -> FloatArray:
    """Of N(0, 1 + ALTERNATIVE^2) against N(0, 1), at squared distances."""
    wide = ALTERNATIVE**2
    return np.asarray(0.5 * z2 * wide / (1.0 + wide) - 0.5 * math.log1p(wide))


def _averaged(log_e: FloatArray, told: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Averages over scores and over streams; what says nothing counts as an e-value of 1."""
    used: npt.NDArray[np.int64] = np.maximum(told.any(axis=0).sum(axis=1), 1)
    kept = np.where(told, log_e, -np.inf)
    streams = log_sums(kept) - np.log(used)
    silent = ~told.any(axis=2)
    streams = np.where(silent, 0.0, streams)
    total = log_sums(streams) - math.log(max(streams.shape[1], 1))
    return np.asarray(total), np.asarray(streams)
