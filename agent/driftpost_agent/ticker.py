"""The thread that keeps a recorder's time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

# Seconds a stop may take: one tick with a slow disk under it.
STOP_S = 5.0


class Ticker:
    """Calls `tick` at least every `interval_s`, at a window's end, and when woken.

    Args:
        tick: does the work; an exception in it is logged, and the next tick comes all the same.
        until_due: seconds until the next moment that matters.
        interval_s: longest wait, seconds.
        progress: called after each completed tick, for the watchdog.
        name: of the thread.
    """

    def __init__(
        self,
        tick: Callable[[], None],
        until_due: Callable[[], float],
        *,
        interval_s: float = 1.0,
        progress: Callable[[], None] = lambda: None,
        name: str = "driftpost-recorder",
    ) -> None:
        self._tick = tick
        self._until_due = until_due
        self._interval_s = interval_s
        self._stretched = 1
        self._progress = progress
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Tick now."""
        self._woken.set()

    def stretch(self, times: int) -> None:
        """Tick that many times more rarely, except when something is due."""
        self._stretched = max(1, times)

    def stop(self) -> bool:
        """End the thread; returns whether it ended in time."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.wait(min(self._interval_s * self._stretched, max(0.001, self._until_due())))
            self._woken.clear()
            if self._stopping.is_set():
                return
            try:
                self._tick()
            except Exception:  # this loop's owner: recording must outlive a bad window
                log.exception("recording failed; the next window is tried all the same")
            self._progress()
