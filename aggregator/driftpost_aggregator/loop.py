"""A named thread that does one thing again and again, outlives its failures, and stops on the exit event."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

# Wait after a failed round, seconds; doubled for each further one in a row.
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0


class Loop:
    """Runs `work` until the exit event.

    Args:
        name: of the thread.
        work: one round; it returns how long to wait before the next, seconds.
        exit_event: ends the loop; waiting ends at once, a round when it is done.
        monotonic: seconds, for `progress_age_s`.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], float],
        exit_event: threading.Event,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.failures = 0
        self.last_error = ""
        self._work = work
        self._exit = exit_event
        self._monotonic = monotonic
        self._progress = monotonic()
        self._thread = threading.Thread(target=self._run, name=f"driftpost-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; whether it came."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def progress_age_s(self) -> float:
        """Seconds since a round last ended well."""
        return self._monotonic() - self._progress

    def _run(self) -> None:
        in_a_row = 0
        while not self._exit.is_set():
            try:
                wait_s = self._work()
                self._progress = self._monotonic()
                in_a_row = 0
            except Exception as error:
                self.failures += 1
                self.last_error = f"{type(error).__name__}: {error}"[:300]
                wait_s = min(FIRST_BACKOFF_S * 2 ** min(in_a_row, 10), MAX_BACKOFF_S)
                in_a_row += 1
                log.exception("%s failed; again in %.1f s", self.name, wait_s)
            self._exit.wait(wait_s)
