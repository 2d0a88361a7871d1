"""A clock that moves when it is told to."""

from __future__ import annotations


class ManualClock:
    """Monotonic and wall time set by hand; the wall is unknown until it is given."""

    def __init__(self, mono_ms: int = 0, wall_ms: int | None = None) -> None:
        self.mono = mono_ms
        self.wall = wall_ms

    def mono_ms(self) -> int:
        return self.mono

    def wall_ms(self) -> int | None:
        return self.wall

    def advance(self, milliseconds: int) -> None:
        self.mono += milliseconds
        if self.wall is not None:
            self.wall += milliseconds
