"""What a replay is asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setup:
    """How to replay; None stands for what is usual.

    Attributes:
        budget: false alarms allowed, in words.
        window_rows: rows of a window.
        row_seconds: seconds between rows.
        smallest_effect: smallest change worth an alarm, reference standard deviations.
        trace: keep the course, for a plot.
        season: by what there is a usual course: a clock such as `hour-of-day`, or a column.
        slices: columns whose values are also watched one by one.
        start: time of the reference's first row (with a bundle, the recording's), if no column has times.
        live_start: time of the first live row; it follows the reference's last one where this is not given.
        commission: first live rows from which the device learns a normal of its own; None for none.
    """

    budget: str | None = None
    window_rows: int | None = None
    row_seconds: float | None = None
    smallest_effect: float | None = None
    trace: bool = False
    season: str | None = None
    slices: tuple[str, ...] = ()
    start: str | None = None
    live_start: str | None = None
    commission: int | None = None
