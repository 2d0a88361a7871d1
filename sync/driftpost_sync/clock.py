"""Time as a device without a battery clock can know it.

Order and durations come from the monotonic clock, which nothing can set. Wall time is only offered while it
is known to be good: after a power cut a board wakes in 1970, or with `fake-hwclock` at its last shutdown,
which looks plausible and is wrong. So plausibility is not enough; the kernel has to say that it is
synchronised.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

# 2024-01-01T00:00:00Z in Unix milliseconds: no device ran this program before it.
EARLIEST_WALL_MS = 1_704_067_200_000

# adjtimex(2) returns this while the kernel clock is not disciplined by a time daemon.
_TIME_ERROR = 5
# Larger than `struct timex` (208 bytes) on every 64-bit and 32-bit Linux; zeroed, it asks and sets nothing.
_TIMEX_BYTES = 512
# How often the kernel is asked at most, ms: the answer changes rarely and a window asks several times.
_ASK_EVERY_MS = 1_000


class Clock(Protocol):
    """What the rest of driftpost may know about time."""

    def mono_ms(self) -> int:
        """Milliseconds since this machine booted, suspend included; never goes back within one boot."""

    def wall_ms(self) -> int | None:
        """Unix milliseconds, or None while the clock is not known to be good."""


def kernel_says_synchronised() -> bool:
    """Whether the kernel's clock is disciplined by a time daemon (adjtimex(2), needs no privilege)."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (AttributeError, OSError):  # not Linux
        return False
    state = int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return 0 <= state < _TIME_ERROR


def boot_id() -> str:
    """The kernel's identifier of this boot, or "" where there is none.

    Two readings of `Clock.mono_ms` are comparable exactly if they were taken in the same boot.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class SystemClock:
    """The machine's own clocks.

    Wall time counts as good once the kernel has reported synchronisation, and stays good for the life of
    this object: a synchronised clock that loses its network drifts by seconds a day, it does not jump to
    1970. A reading before `EARLIEST_WALL_MS` is never good.

    Args:
        trust_wall: take the wall clock as good without asking the kernel, for machines whose clock is kept
            right by something the kernel does not know of (a hypervisor, a battery clock).
        synchronised: asks the kernel; replaced in tests.
    """

    def __init__(
        self, *, trust_wall: bool = False, synchronised: Callable[[], bool] = kernel_says_synchronised
    ) -> None:
        self._good = trust_wall
        self._synchronised = synchronised
        self._asked_ms: int | None = None
        # CLOCK_BOOTTIME counts suspend, which CLOCK_MONOTONIC does not: a window must not shrink in sleep.
        self._clock_id = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def mono_ms(self) -> int:
        """Milliseconds since boot."""
        return time.clock_gettime_ns(self._clock_id) // 1_000_000

    def wall_ms(self) -> int | None:
        """Unix milliseconds, or None while not known to be good."""
        now = time.time_ns() // 1_000_000
        if now < EARLIEST_WALL_MS:
            return None
        if not self._good:
            mono = self.mono_ms()
            if self._asked_ms is None or mono - self._asked_ms >= _ASK_EVERY_MS:
                self._asked_ms = mono
                self._good = self._synchronised()
        return now if self._good else None
