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
        guard_us: mean time a call spent in the guard and not in the model, microseconds; a sample of calls.
        model_us: mean time a call spent in the model, microseconds.
    """

    calls: int = 0
    rows: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    guard_us: float = 0.0
    model_us: float = 0.0


@dataclass
class Channel:
    """What one guard's quick path counts, under a lock of that guard's own.

    Attributes:
        ok: calls of one row without any reason.
        model_ns: what they spent in the model.
        timed: calls of which the whole was timed, and `timed_ns`: what they spent in the guard. Reading the
            clock twice more costs a call as much as copying its row, so only some are.
    """

    ok: int = 0
    model_ns: int = 0
    timed: int = 0
    timed_ns: int = 0


class Meter:
    """Adds up calls; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ok = 0
        self._rows = 0
        self._timed = 0
        self._guard_ns = 0
        self._model_ns = 0
        self._statuses = dict.fromkeys(Status, 0)
        self._reasons: dict[Reason, int] = {reason: 0 for reason in Reason if reason is not Reason.OK}
        self._channels: list[Channel] = []

    def channel(self) -> Channel:
        """A channel for one guard; `close_channel` when that has ended."""
        channel = Channel()
        with self._lock:
            self._channels.append(channel)
        return channel

    def close_channel(self, channel: Channel) -> None:
        """Keep what a channel counted."""
        with self._lock:
            self._channels.remove(channel)
            self._ok += channel.ok
            self._rows += channel.ok
            self._model_ns += channel.model_ns
            self._timed += channel.timed
            self._guard_ns += channel.timed_ns

    def count_ok(self, rows: int, total_ns: int, model_ns: int) -> None:
        """A call without any reason."""
        with self._lock:
            self._ok += 1
            self._add(rows, total_ns, model_ns)

    def count(
        self, status: Status, reasons: Iterable[Reason], rows: int, total_ns: int, model_ns: int
    ) -> None:
        """A call with its verdict."""
        with self._lock:
            self._statuses[status] += 1
            for reason in reasons:
                self._reasons[reason] += 1
            self._add(rows, total_ns, model_ns)

    def _add(self, rows: int, total_ns: int, model_ns: int) -> None:
        self._rows += rows
        self._timed += 1
        self._guard_ns += total_ns - model_ns
        self._model_ns += model_ns

    def read(self) -> Reading:
        """The totals."""
        with self._lock:
            statuses = {status.value: count for status, count in self._statuses.items()}
            quick = sum(channel.ok for channel in self._channels)
            statuses[Status.OK.value] += self._ok + quick
            calls = sum(statuses.values())
            timed = self._timed + sum(channel.timed for channel in self._channels)
            guard_ns = self._guard_ns + sum(channel.timed_ns for channel in self._channels)
            model_ns = self._model_ns + sum(channel.model_ns for channel in self._channels)
            return Reading(
                calls=calls,
                rows=self._rows + quick,
                statuses=statuses,
                reasons={reason.label: count for reason, count in self._reasons.items()},
                guard_us=guard_ns / 1000 / timed if timed else 0.0,
                model_us=model_ns / 1000 / calls if calls else 0.0,
            )
