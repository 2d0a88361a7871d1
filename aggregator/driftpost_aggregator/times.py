"""When something happened, for devices whose wall clock may be wrong or unknown.

A device offers wall time only while it believes its clock. Where it does not, or where what it offers lies
in the aggregator's future, the moment follows from its monotonic clock: the message says what that clock
read when it was sent, so the difference is the age of what it carries. Nothing is refused or dropped
because of a clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from driftpost_sync.clock import EARLIEST_WALL_MS

# A device's clock may lead ours by this much before we stop believing it, ms: NTP keeps hosts within a
# second, and a hand-set clock within minutes.
FUTURE_TOLERANCE_MS = 5 * 60 * 1000
# A monotonic age beyond this is not an age, ms (ten years).
MAX_AGE_MS = 10 * 365 * 86_400_000

ClockUsed = Literal["device", "monotonic", "received"]


@dataclass(frozen=True)
class Sent:
    """What a message says about its own sending.

    Attributes:
        mono_ms: the device's monotonic clock at sending, ms; None if what it carries is of an earlier boot.
        wall_ms: its wall clock at sending, Unix ms, None if not known to be good.
        received_ms: our clock at reception, Unix ms.
    """

    mono_ms: int | None
    wall_ms: int | None
    received_ms: int

    def believable(self, wall_ms: int | None) -> bool:
        """Whether a wall time can be taken as it is."""
        return wall_ms is not None and EARLIEST_WALL_MS <= wall_ms <= self.received_ms + FUTURE_TOLERANCE_MS


def moment(sent: Sent, mono_ms: int, wall_ms: int | None) -> tuple[int, ClockUsed]:
    """When an event with these two clock readings happened.

    Args:
        sent: the message that carried it.
        mono_ms: the device's monotonic clock at the event, ms.
        wall_ms: its wall clock at the event, Unix ms, or None.

    Returns:
        Unix ms, and which clock it came from: the device's own wall clock; its monotonic clock counted back
        from the sending; or, where that can not be (another boot), the time of reception.
    """
    if wall_ms is not None and sent.believable(wall_ms):
        return wall_ms, "device"
    if sent.mono_ms is not None and 0 <= sent.mono_ms - mono_ms <= MAX_AGE_MS:
        age = sent.mono_ms - mono_ms
        # The device's own wall clock at sending has no transit time in it, where it can be believed.
        base = (
            sent.wall_ms if sent.wall_ms is not None and sent.believable(sent.wall_ms) else sent.received_ms
        )
        return max(base - age, 0), "monotonic"
    return sent.received_ms, "received"


def interval(
    sent: Sent, mono_start: int, mono_end: int, wall_start: int | None, wall_end: int | None
) -> tuple[int, int, ClockUsed]:
    """When a window began and ended; its length always follows from the monotonic clock.

    Returns:
        (start, end) in Unix ms, and the clock that placed the end (see `moment`).
    """
    duration = mono_end - mono_start
    end, clock = moment(sent, mono_end, wall_end)
    if (
        wall_end is None
        and wall_start is not None
        and clock != "monotonic"
        and sent.believable(wall_start)
        # A window that would still go on is none that was recorded.
        and sent.believable(wall_start + duration)
    ):
        return wall_start, wall_start + duration, "device"
    return max(end - duration, 0), end, clock


def wall_ms() -> int:
    """Unix time in ms: the aggregator's own clock is taken as good."""
    return time.time_ns() // 1_000_000
