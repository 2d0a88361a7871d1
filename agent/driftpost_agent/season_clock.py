"""The clock that a season goes by: wall time in UTC, or as it stands on the device's own wall."""

from __future__ import annotations

import time
from collections.abc import Callable

from driftpost_sketches.derived.plan import DerivedPlan


def _zone_offset_s(seconds: float) -> int:
    """Seconds by which the device's time zone is ahead of UTC, summer time included."""
    return time.localtime(seconds).tm_gmtoff


def season_seconds(
    wall_ms: int | None, plan: DerivedPlan, offset_s: Callable[[float], int] = _zone_offset_s
) -> float | None:
    """Seconds since 1970 by the season's clock.

    Args:
        wall_ms: Unix milliseconds, None while the clock is not known to be good.
        plan: of the derived streams.
        offset_s: seconds that local time is ahead of UTC at a moment.

    Returns:
        None while the clock is not known to be good: a seasonal stream then says nothing.
    """
    if wall_ms is None or plan.season is None:
        return None
    seconds = wall_ms / 1000
    return seconds + offset_s(seconds) if plan.season.local else seconds
