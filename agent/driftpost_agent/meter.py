"""What the guard did and what it cost, counted over the life of the process."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from driftpost_agent.verdict import Reason, Status


@dataclass(frozen=True)
class Reading:
    """Totals since start.

    Attributes:
        calls: guarded calls, and `rows` in them.
        statuses: calls by status, `reasons`: calls by reason.
        guard_us: mean time a call spent in the guard and not in the model, microseconds.
        model_us: mean time a call spent in the model, microseconds.
    """

    calls: int = 0
    rows: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    guard_us: float = 0.0
    model_us: float = 0.0


class Meter:
    """Adds up calls; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ok = 0
        self._rows = 0
        self._guard_ns = 0
        self._model_ns = 0
        self._statuses = dict.fromkeys(Status, 0)
        self._reasons: dict[Reason, int] = {reason: 0 for reason in Reason if reason is not Reason.OK}

    def count_ok(self, rows: int, total_ns: int, model_ns: int) -> None:
        """A call without any reason."""
        with self._lock:
            self._ok += 1
            self._rows += rows
            self._guard_ns += total_ns - model_ns
            self._model_ns += model_ns

    def count(
        self, status: Status, reasons: Iterable[Reason], rows: int, total_ns: int, model_ns: int
    ) -> None:
        """A call with its verdict."""
        with self._lock:
            self._statuses[status] += 1
            for reason in reasons:
                self._reasons[reason] += 1
            self._rows += rows
            self._guard_ns += total_ns - model_ns
            self._model_ns += model_ns

    def read(self) -> Reading:
        """The totals."""
        with self._lock:
            statuses = {status.value: count for status, count in self._statuses.items()}
            statuses[Status.OK.value] += self._ok
            calls = sum(statuses.values())
            return Reading(
                calls=calls,
                rows=self._rows,
                statuses=statuses,
                reasons={reason.label: count for reason, count in self._reasons.items()},
                guard_us=self._guard_ns / 1000 / calls if calls else 0.0,
                model_us=self._model_ns / 1000 / calls if calls else 0.0,
            )
