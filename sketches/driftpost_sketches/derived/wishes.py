"""What an owner asks for: which streams go by which season, and which are watched in slices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SeasonWish:
    """A season.

    Attributes:
        by: `hour-of-day`, `half-hour-of-day`, `hour-of-week`, or `stream:` and the name of a context stream.
        streams: which go by it; None for every watched numeric input and output that turns out to.
        local: whether by local time instead of UTC.
    """

    by: str
    streams: tuple[str, ...] | None = None
    local: bool = False


@dataclass(frozen=True)
class SliceWish:
    """Slices.

    Attributes:
        by: categorical streams whose values are the slices.
        streams: which are sliced; None for every watched numeric input and output.
        most: slices by each stream at most, the most frequent values first.
    """

    by: tuple[str, ...]
    streams: tuple[str, ...] | None = None
    most: int = 8
