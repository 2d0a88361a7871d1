"""How many bytes a day something may take: counted over the last 24 hours, whenever they began."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

HOUR_MS = 3_600_000
HOURS = 24


class DailyAllowance:
    """Bytes used in the last 24 hours against a budget, in slots of an hour.

    Half of the budget may be used at once. Beyond that each hour has its share of the other half: who has
    been greedy is slowed down to a pace, not shut out for the rest of the day. What is used in any 24 hours
    stays below the budget, but for the step that crosses it and the last one of each hour.

    Args:
        budget: bytes in 24 hours; None for as many as are wanted.
        now: monotonic ms.
    """

    def __init__(self, budget: int | None, now: int) -> None:
        self.budget = budget
        self._slots: deque[int] = deque([0] * HOURS, maxlen=HOURS)
        self._begun = now

    def spend(self, size: int, now: int) -> None:
        """Count bytes that were used."""
        self._turn(now)
        self._slots[-1] += max(0, size)

    def used(self, now: int) -> int:
        """Bytes used in the last 24 hours."""
        self._turn(now)
        return sum(self._slots)

    def may(self, now: int) -> bool:
        """Whether more may be used now."""
        if self.budget is None:
            return True
        half = self.budget / 2
        return self.used(now) < half or self._slots[-1] < half / HOURS

    def to_plain(self, now: int) -> list[int]:
        """What a restart must remember, the latest hour last."""
        self._turn(now)
        return list(self._slots)

    def restore(self, slots: Sequence[object], now: int) -> None:
        """Count on where an earlier process ended.

        How long ago that was is not asked: no clock of a board that was off can be trusted to tell.
        """
        plain = [size for size in slots if type(size) is int and size >= 0]
        if len(plain) == HOURS:
            self._slots = deque(plain, maxlen=HOURS)
            self._begun = now

    def _turn(self, now: int) -> None:
        passed = min(max(0, now - self._begun) // HOUR_MS, HOURS)
        self._slots.extend([0] * passed)
        if passed:
            self._begun = now - (now - self._begun) % HOUR_MS
