"""When a device sends the account of its windows: soon after the first arrived, then ever more rarely."""

from __future__ import annotations

# Seconds to the second account, as long as an ordinary window. It doubles from there up to the setting: an
# aggregator knows a new device's coverage at once, and flash sees a handful of small messages more per start.
FIRST_INTERVAL_S = 60.0


class LedgerSchedule:
    """Decides when the next account is due.

    Args:
        longest_s: interval that the schedule settles at, seconds.
        now: monotonic seconds.
    """

    def __init__(self, longest_s: float, now: float) -> None:
        self._longest_s = longest_s
        self._interval_s = longest_s
        self._due = now + longest_s
        self._begun = False

    @property
    def begun(self) -> bool:
        """Whether the first acknowledged window was seen."""
        return self._begun

    def due(self, now: float, *, acknowledged: bool) -> bool:
        """Whether an account is due now; it is taken as sent then.

        Args:
            now: monotonic seconds.
            acknowledged: whether the aggregator has acknowledged a window of this incarnation.
        """
        if acknowledged and not self._begun:
            self._begun = True
            self._interval_s = min(FIRST_INTERVAL_S, self._longest_s)
            self._due = now
        if now < self._due:
            return False
        self._due = now + self._interval_s
        self._interval_s = min(2 * self._interval_s, self._longest_s)
        return True
