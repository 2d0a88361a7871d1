"""Calls under way, so that a guard that closes waits for them and none records a row after its last flush."""

from __future__ import annotations

import itertools
import threading
from typing import NoReturn

from driftpost_agent.errors import GuardClosed


class Calls:
    """Numbers calls as they begin and counts them as they end.

    Beginning takes no lock: a number is drawn from a counter, which the interpreter does in one step. Closing
    draws one as well, so every call with a lower number began before, and is waited for.

    Args:
        lock: held by whoever counts an end.

    Attributes:
        numbers: draw one to begin a call, then look at `closed`.
        closed: whether calls are refused from now on.
        ended: calls that have ended; change it only while holding `lock`, then `notify` if `closed`.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self.numbers = itertools.count(1)
        self.closed = False
        self.ended = 0
        self._last = 0
        self._condition = threading.Condition(lock)

    def refuse(self, number: int) -> NoReturn:
        """Turn away a call that found `closed`; raises GuardClosed."""
        with self._condition:
            if number < self._last:
                self.ended += 1
                self._condition.notify_all()
        raise GuardClosed

    def end(self) -> None:
        """A call has ended."""
        with self._condition:
            self.ended += 1
            if self.closed:
                self._condition.notify_all()

    def notify(self) -> None:
        """Tell who waits that `ended` has changed; while holding the lock."""
        self._condition.notify_all()

    def close(self) -> bool:
        """Refuse calls from now on; False if they were refused before."""
        with self._condition:
            if self.closed:
                return False
            self.closed = True
            self._last = next(self.numbers)
            return True

    def wait(self, seconds: float) -> bool:
        """Wait for the calls that began before `close`; returns whether all have ended."""
        with self._condition:
            return self._condition.wait_for(lambda: self.ended >= self._last - 1, seconds)
