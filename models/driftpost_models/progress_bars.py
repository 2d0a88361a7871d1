"""Progress on a terminal, for commands whose work is long."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import click


class ProgressBars:
    """One progress bar for each step of the work, on standard error so that reports can be piped."""

    def __init__(self) -> None:
        self._step = ""
        self._done = 0
        self._stack = contextlib.ExitStack()
        self._advance: Callable[[int], None] | None = None

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()

    def update(self, step: str, done: int, total: int) -> None:
        """Show how far a step is."""
        if step != self._step:
            self._finish()
            self._step, self._done = step, 0
            bar = self._stack.enter_context(
                click.progressbar(length=total, label=f"{step:<22}", file=sys.stderr)
            )
            self._advance = bar.update
        if self._advance is not None:
            self._advance(done - self._done)
            self._done = done

    def _finish(self) -> None:
        self._stack.close()
        self._advance = None
