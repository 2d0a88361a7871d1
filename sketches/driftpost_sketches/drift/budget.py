"""The false-alarm budget in a user's words, and the threshold that keeps it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from driftpost_sketches.errors import SketchError

PERIODS = {"hour": 3600.0, "day": 86400.0, "week": 604800.0, "month": 2629800.0, "year": 31557600.0}
SCOPES = ("device", "fleet")
MAX_WORDS = 100  # characters
MIN_COUNT, MAX_COUNT = 1e-6, 1e6  # alarms a period; beyond it the words are surely a slip

# However lax the words, a change with less evidence than 20 to 1 is not told to anyone.
MIN_LOG_THRESHOLD = math.log(20.0)

_NUMBER = r"(\d[\d,]*(?:\.\d+)?)"
_NOTHING = re.compile(r"^\s*(?:[-\N{MINUS SIGN}]|0+(?:\.0*)?\s+per\b)", re.IGNORECASE)
_WORDS = re.compile(rf"^\s*{_NUMBER}\s+per\s+(?:{_NUMBER}\s+)?([a-z]+)-([a-z]+?)s?\s*$", re.IGNORECASE)


class BudgetError(SketchError):
    """Words that are not a false-alarm budget.

    Attributes:
        words: as given.
    """

    def __init__(self, words: str, why: str = "") -> None:
        self.words = words
        super().__init__(
            f"{words!r} is not a false-alarm budget{why and ': '}{why}; write for example "
            f"'1 per device-year' or '2 per fleet-month' (periods: {', '.join(PERIODS)})"
        )


@dataclass(frozen=True)
class Budget:
    """How many false alarms are acceptable.

    Attributes:
        count: alarms a period.
        scope: "device" (for each device) or "fleet" (for all devices together).
        period_s: length of the period in seconds.
    """

    count: float
    scope: str
    period_s: float

    @classmethod
    def parse(cls, words: str) -> Budget:
        """Reads "1 per device-year", "0.5 per fleet-month", "10 per 1,000 device-days" and the like.

        Raises:
            BudgetError: the words say something else.
        """
        match = _WORDS.match(words) if isinstance(words, str) and len(words) <= MAX_WORDS else None
        if match is None or _NOTHING.match(words):
            none = isinstance(words, str) and _NOTHING.match(words) is not None
            why = "no test can promise never to be wrong, so the number must be above 0" if none else ""
            raise BudgetError(words, why)
        count, many = (float(number.replace(",", "")) if number else 1.0 for number in match.group(1, 2))
        scope, period = match[3].lower(), match[4].lower()
        if scope not in SCOPES or period not in PERIODS:
            raise BudgetError(words)
        if not all(MIN_COUNT <= number <= MAX_COUNT for number in (count, many)):
            raise BudgetError(words, f"its numbers must lie between {MIN_COUNT:g} and {MAX_COUNT:g}")
        return cls(count, scope, PERIODS[period] * many)

    def __str__(self) -> str:
        for name, seconds in reversed(PERIODS.items()):
            many = self.period_s / seconds
            if many == 1:
                return f"{self.count:g} per {self.scope}-{name}"
            if many > 1 and many == round(many):
                return f"{self.count:g} per {many:.0f} {self.scope}-{name}s"
        return f"{self.count:g} per {self.period_s / PERIODS['hour']:g} {self.scope}-hours"

    def share(self, fraction: float) -> Budget:
        """The part of this budget that one of several watchers may use; the parts of all add up to 1 at most.

        Args:
            fraction: above 0, at most 1.
        """
        if not 0.0 < fraction <= 1.0:
            raise ValueError(f"a share of a budget lies between 0 and 1, not at {fraction}")
        return replace(self, count=self.count * fraction)

    def log_threshold(self, window_s: float, devices: int = 1) -> float:
        """Natural log of the evidence that one watcher must reach before it may alarm.

        A Shiryaev-Roberts sum of e-values, evaluated once a window, first exceeds A after A windows or more
        on average when nothing has changed (Shin, Ramdas and Rinaldo 2022, "E-detectors"), so A is the number
        of windows in the time that may hold one false alarm. A fleet's budget is divided among its devices.

        Args:
            window_s: seconds a window covers.
            devices: devices that share a fleet budget (ignored for a device budget).
        """
        if not window_s > 0:
            raise ValueError(f"a window lasts longer than {window_s} s")
        watchers = max(1, devices) if self.scope == "fleet" else 1
        return max(MIN_LOG_THRESHOLD, math.log(self.period_s / window_s * watchers / self.count))
