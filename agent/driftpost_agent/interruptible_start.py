"""A start that can be stopped: a model that takes a minute to load must not keep a stop waiting for it."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Protocol

# Seconds between two looks at the exit event.
LOOK_S = 0.1


class Closeable(Protocol):
    """A model that is being loaded."""

    def close(self) -> None:
        """End its process; whoever waits for it gets an error."""


class InterruptibleStart:
    """While it is entered, the exit event closes every model that is announced; after that it does nothing.

    Args:
        exit_event: set by a signal.
    """

    def __init__(self, exit_event: threading.Event) -> None:
        self._exit = exit_event
        self._lock = threading.Lock()
        self._loading: list[Closeable] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._entered = False

    @property
    def interrupted(self) -> bool:
        """Whether the start was stopped: what fails from then on fails because of that."""
        return self._exit.is_set()

    def announce(self, runtime: Closeable) -> None:
        """A model is about to be loaded."""
        with self._lock:
            if not self._entered:
                return
            self._loading.append(runtime)
            late = self._exit.is_set()
        if late:
            runtime.close()

    def __enter__(self) -> InterruptibleStart:
        with self._lock:
            self._entered = True
        self._thread = threading.Thread(target=self._watch, name="driftpost-start", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._entered = False
            self._loading.clear()
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            if self._exit.is_set():
                with self._lock:
                    loading = list(self._loading)
                for runtime in loading:
                    runtime.close()
                return
