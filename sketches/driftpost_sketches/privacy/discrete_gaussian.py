"""Discrete Gaussian noise, exactly: rejection on whole numbers, no floating point anywhere.

A float that was rounded tells of the number it was added to (Mironov 2012), so noise that is to hide a count
is drawn as an integer, with probabilities that are exact rationals or exponentials of rationals (Canonne,
Kamath and Steinke 2020, "The discrete Gaussian for differential privacy", algorithms 1 to 3).
"""

from __future__ import annotations

import math
from typing import Protocol

from driftpost_sketches.window import NOISE_STEPS


class RandomNumbers(Protocol):
    """A source of randomness: `secrets.SystemRandom()` on a device, a seeded one in tests."""

    def randrange(self, stop: int, /) -> int:
        """A uniform whole number in [0, stop)."""


def discrete_gaussian(variance: int, random: RandomNumbers) -> int:
    """A whole number x with probability proportional to exp(-x**2 / (2 * variance)).

    Args:
        variance: in steps of 1 / `window.NOISE_STEPS`, positive.
        random: source of randomness.

    Raises:
        ValueError: a variance that is not positive.
    """
    if variance <= 0:
        raise ValueError(f"noise has a positive variance, not {variance}")
    scale = math.isqrt(variance // NOISE_STEPS) + 1
    while True:
        x = discrete_laplace(scale, random)
        # Accept with exp(-(|x| - variance / scale)**2 / (2 * variance)).
        off = abs(x) * scale * NOISE_STEPS - variance
        if _with_exp(off * off, 2 * variance * scale * scale * NOISE_STEPS, random):
            return x


def discrete_laplace(scale: int, random: RandomNumbers) -> int:
    """A whole number x with probability proportional to exp(-|x| / scale).

    Args:
        scale: a positive whole number.
        random: source of randomness.

    Raises:
        ValueError: a scale that is not positive.
    """
    if scale <= 0:
        raise ValueError(f"noise has a positive scale, not {scale}")
    while True:
        low = random.randrange(scale)
        if not _with_exp(low, scale, random):
            continue
        high = 0
        while _with_exp(1, 1, random):
            high += 1
        size = low + scale * high
        if random.randrange(2):
            return size
        if size:
            return -size


def _with_exp(numerator: int, denominator: int, random: RandomNumbers) -> bool:
    """True with probability exp(-numerator / denominator), exactly."""
    while numerator > denominator:
        if not _with_exp_of_at_most_one(1, 1, random):
            return False
        numerator -= denominator
    return _with_exp_of_at_most_one(numerator, denominator, random)


def _with_exp_of_at_most_one(numerator: int, denominator: int, random: RandomNumbers) -> bool:
    """The same for a quotient of at most 1: parity of the length of a series of rarer and rarer heads."""
    k = 1
    while random.randrange(denominator * k) < numerator:
        k += 1
    return k % 2 == 1
