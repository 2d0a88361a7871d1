"""Waiting longer and longer, never in step with others."""

from __future__ import annotations

from typing import Protocol


class RandomFraction(Protocol):
    """What `random.Random` offers here."""

    def random(self) -> float:
        """Uniform in [0, 1)."""


class Backoff:
    """Exponential, capped, with full jitter above half of the base.

    The wait after failure n is uniform between `base / 2` and `min(cap, base * 2**n)`, so that devices which
    lost their broker in the same second come back spread out, and more so with every failure. Whoever uses
    it decides when to `reset`: a connection that is merely accepted proves nothing (a broker in trouble
    accepts and drops, and resetting then would bring the fleet back in step).
    """

    def __init__(self, base_ms: float, cap_ms: float, random: RandomFraction) -> None:
        self._base = base_ms
        self._cap = max(base_ms, cap_ms)
        self._random = random
        self.failures = 0

    def next_ms(self, *, at_least_ms: float = 0.0) -> int:
        """Count a failure and draw the wait after it, ms."""
        self.failures += 1
        # 2.0**63 is beyond any cap; the exponent is bounded so that years of failures do not overflow.
        high = min(self._cap, self._base * 2.0 ** min(self.failures, 63))
        low = self._base / 2
        wait = low + (high - low) * self._random.random()
        return round(max(wait, at_least_ms * (0.5 + self._random.random())))

    def reset(self) -> None:
        """Success: the next failure waits shortly again."""
        self.failures = 0
