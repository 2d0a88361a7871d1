"""The board's health over time: the latest value, the extremes of an interval, and a day of intervals."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from driftpost_agent.board import SENSORS

# Intervals that are remembered: a day of quarters of an hour.
INTERVAL_MS = 900_000
INTERVALS = 96
# A board at this is about to be slowed down: a Pi caps its clock from 80 degrees on, a Jetson from 85 to 97.
HOT_C = 80.0


@dataclass
class Summary:
    """One sensor over one interval."""

    last: float
    low: float
    high: float
    total: float
    count: int

    @classmethod
    def of(cls, value: float) -> Summary:
        """A single reading."""
        return cls(value, value, value, value, 1)

    def add(self, value: float) -> None:
        """One more reading."""
        self.last, self.low, self.high = value, min(self.low, value), max(self.high, value)
        self.total += value
        self.count += 1

    @property
    def mean(self) -> float:
        """Mean of the readings."""
        return self.total / self.count


class BoardLog:
    """Collects readings; one thread at a time.

    Args:
        now: monotonic ms.
    """

    def __init__(self, now: int) -> None:
        self._open: dict[str, Summary] = {}
        self._report: dict[str, Summary] = {}
        self._reported = now
        self._opened = now
        self._history: deque[dict[str, float]] = deque(maxlen=INTERVALS)
        self._latest: dict[str, float] = {}

    def add(self, reading: Mapping[str, float], now: int) -> None:
        """Take a reading of `driftpost_agent.board.read_board`."""
        self._latest = {
            name: value for name, value in reading.items() if name in SENSORS and math.isfinite(value)
        }
        for name, value in self._latest.items():
            for into in (self._open, self._report):
                if name in into:
                    into[name].add(value)
                else:
                    into[name] = Summary.of(value)
        if now - self._opened >= INTERVAL_MS:
            self._history.append({name: summary.mean for name, summary in self._open.items()})
            self._open, self._opened = {}, now

    def report(self, now: int) -> tuple[int, dict[str, tuple[float, float, float, float]]]:
        """What was read since the last report.

        Returns:
            Milliseconds that it covers, and for each sensor (last, lowest, mean, highest).
        """
        span, self._reported = max(0, now - self._reported), now
        found = {name: (s.last, s.low, s.mean, s.high) for name, s in self._report.items()}
        self._report = {}
        return span, found

    def facts(self) -> dict[str, Any]:
        """For the status document: value, unit and the day's course of each sensor."""
        course = [*self._history, {name: summary.mean for name, summary in self._open.items()}]
        return {
            name: {
                "value": round(value, 3),
                "unit": SENSORS[name][0],
                "meaning": SENSORS[name][1],
                "course": [round(interval[name], 3) for interval in course if name in interval],
            }
            for name, value in self._latest.items()
        }

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the board now, in words."""
        found = []
        if self._latest.get("undervoltage"):
            found.append(
                "the supply voltage is too low: use the board's own power supply and a short, thick cable"
            )
        if self._latest.get("throttled"):
            heat = self._latest.get("temperature")
            where = f" at {heat:.0f} degC" if heat is not None else ""
            found.append(f"the processor is slowed down{where}: give it a heat sink, air or shade")
        elif self._latest.get("temperature", 0.0) >= HOT_C:
            found.append(
                f"the board is at {self._latest['temperature']:.0f} degC and about to be slowed down"
            )
        return tuple(found)
