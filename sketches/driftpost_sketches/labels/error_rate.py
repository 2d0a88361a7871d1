"""An error rate with its interval, and an alarm about one."""

from __future__ import annotations

from dataclasses import dataclass

from driftpost_sketches.drift.alarm import Alarm


@dataclass(frozen=True)
class Rate:
    """An error rate with its interval.

    Attributes:
        rows: labelled rows.
        rate: mean loss; NaN without rows.
        low: lower end of the 95 % confidence sequence.
        high: upper end.
        independent: rows that count as one independent row.
    """

    rows: int
    rate: float
    low: float
    high: float
    independent: float


@dataclass
class StandingConcept:
    """The alarm that stands.

    Attributes:
        alarm: what was said.
        group: 0 for all answers, else 1 + position of the slice.
        changed: its error rate at the alarm.
        back: log evidence for the reference against that rate.
    """

    alarm: Alarm
    group: int
    changed: float
    back: float = 0.0
