"""Answers that everyone shares for a few seconds, so that whole tables are not counted for every look."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by key, each computed at most once in `seconds`, by one thread at a time.

    Args:
        seconds: How old an answer may be.
        most: Keys kept; the least recently used go first.
        monotonic: Clock, seconds.
    """

    def __init__(
        self, seconds: float, most: int = 64, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._most = most
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._computing: dict[Hashable, threading.Lock] = {}
        self._values: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of `key`, computed now unless it is fresh; others who ask meanwhile get the same one."""
        with self._lock:
            fresh = self._fresh(key)
            if fresh is not None:
                return fresh[0]
            turn = self._computing.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                fresh = self._fresh(key)
                if fresh is not None:
                    return fresh[0]
            try:
                value = compute()
            finally:
                with self._lock:
                    self._computing.pop(key, None)
            with self._lock:
                self._values[key] = (self._monotonic() + self._seconds, value)
                self._values.move_to_end(key)
                while len(self._values) > self._most:
                    self._values.popitem(last=False)
            return value

    def _fresh(self, key: Hashable) -> tuple[T] | None:
        held = self._values.get(key)
        if held is None or held[0] <= self._monotonic():
            return None
        self._values.move_to_end(key)
        return (held[1],)
