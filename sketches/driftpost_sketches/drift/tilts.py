"""Which tilts are bet on, and how boldly: checked against the reference's own blocks.

A tilt's evidence has mean 1 under the chain. Under the real reference its mean over blocks can be measured:
it is the mean of exp(size * sum of scores - length * log rho). Where slow swings or bursts lift it above 1,
the bet is tempered (its logarithm multiplied by eta < 1) until it is not; the log of that mean is convex in
eta, 0 at 0 and falls there, so the largest admissible eta is a single root.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# Steps in reference standard deviations of the score, per score (location, scale, skew, tails): a factor of
# two apart costs little evidence.
STEPS = ((0.06, 0.12, 0.25, 0.5, 1.0, 2.0), (0.12, 0.25, 0.5), (0.2, 0.5), (0.2, 0.5))
SHARE_STEPS = (0.15, 0.4, 1.0)
# How a score's weight is shared among its steps: most to the changes that people ask about; a leap is found
# whatever the weight, and bold steps overshoot where they are wrong.
STEP_WEIGHTS = ((0.1, 0.15, 0.24, 0.3, 0.16, 0.05), (0.25, 0.45, 0.3), (0.5, 0.5), (0.5, 0.5))
SMALLEST_STEP = 0.12
MOST_GAIN = 3.0  # nats a step: a rare cell's huge score must not make one row an alarm
MEASURABLE = 1.5  # standard deviation of a block's log evidence at which a mean of exponentials is measurable
LONGEST = 4.0  # blocks of at least this many correlation times
MIN_BLOCKS = 64  # fewer blocks measure nothing
NOISE = 1.0  # standard errors of that mean within which it is not told from 1
_HALVINGS = 20


class Tilt(NamedTuple):
    """A tilt by exp(size * score).

    Attributes:
        score: which one.
        size: signed.
        weight: relative to the other tilts of the score.
    """

    score: int
    size: float
    weight: float


def plan_tilts(ordered: bool, scores: FloatArray, shares: FloatArray, tau_chain: FloatArray) -> list[Tilt]:
    """Every tilt that is bet on, in a fixed order.

    Args:
        ordered: whether the stream is numeric.
        scores: float64[K, CELLS].
        shares: float64[CELLS].
        tau_chain: float64[K], correlation times under the chain, rows.
    """
    plan = []
    for k, score in enumerate(scores):
        largest = float(np.abs(score[shares > 0]).max(initial=0.0))
        if not largest > 0.0:
            continue
        steps = STEPS[k] if ordered else SHARE_STEPS
        weights = STEP_WEIGHTS[k] if ordered else (1.0,) * len(steps)
        for step, weight in zip(steps, weights, strict=True):
            # A stream that remembers moves slowly: its evidence per row is smaller by its correlation time.
            size = min(step / max(float(tau_chain[k]), 1.0), MOST_GAIN / largest)
            plan += [Tilt(k, sign * size, weight) for sign in (1.0, -1.0)]
    return plan


def exponents(
    plan: Sequence[Tilt], scores: FloatArray, tau_chain: FloatArray, excess: FloatArray
) -> FloatArray:
    """Log weights of the tilts on the cells: float64[Q, CELLS].

    A tilt by size * score supposes that rows vary as they do on average. In a stream with volatile spells a
    loud one would pass for a shift, so there the tilt is divided by cosh(size * score): for symmetric values
    its mean is 1 whatever their scale, row by row (de la Pena 1999). Scores are symmetric by construction.

    Args:
        plan: of this stream.
        scores: float64[K, CELLS].
        tau_chain: float64[K], correlation times under the chain.
        excess: float64[K], positive where spells are volatile.
    """
    powers = np.array([tilt.size * scores[tilt.score] for tilt in plan]).reshape(len(plan), scores.shape[1])
    for q, tilt in enumerate(plan):
        if steadied(tilt, excess):
            powers[q] -= max(float(tau_chain[tilt.score]), 1.0) * np.log(np.cosh(powers[q]))
    return powers


def steadied(tilt: Tilt, excess: FloatArray) -> bool:
    """Whether a tilt is one of location that volatile spells must not feed."""
    return tilt.score == 0 and bool(excess[0] > 0)


def admissible(series: FloatArray, size: float, log_rho: float, temper: float, tau: float) -> float:
    """Largest factor, at most `temper`, at which a tilt's evidence has mean 1 or less over blocks.

    Args:
        series: float64[n], the score of every reference row, in time order.
        size: of the tilt, signed.
        log_rho: log of the principal eigenvalue of the tilted chain.
        temper: factor that second moments alone allow.
        tau: correlation time of the score, rows.
    """
    n = len(series)
    length = max((MEASURABLE / (temper * abs(size))) ** 2 / tau, LONGEST * tau, 1.0)
    length = min(2 ** round(math.log2(length)), n // MIN_BLOCKS)
    if length < 1:
        return temper
    blocks = n // length
    sums = size * series[: blocks * length].reshape(blocks, length).sum(axis=1) - length * log_rho
    # The reference's own mean is what the gate is for; here only the spread around it is judged.
    sums -= size * length * float(series.mean())
    if _excess(temper * sums) <= 0.0:
        return temper
    low, high = 0.0, temper
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _excess(middle * sums) <= 0.0 else (low, middle)
    return low


def _excess(logs: FloatArray) -> float:
    """Log of the mean of exp(logs), less what its own sampling error explains."""
    top = float(logs.max())
    evidence = np.exp(logs - top)
    mean = float(evidence.mean())
    error = float(evidence.std()) / mean / math.sqrt(len(logs))
    return top + math.log(mean) - NOISE * error
