"""Quiet hours: when what is not urgent waits. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class QuietHours:
    """From one time of the day to another, in a time zone; over midnight where it ends before it starts."""

    start: time
    end: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str, zone: ZoneInfo) -> QuietHours:
        """Hours as people write them, `22:00-07:00`.

        Raises:
            ValueError: they make no sense.
        """
        found = _HOURS.fullmatch(text)
        if found is None or found[1] + found[2] == found[3] + found[4]:
            raise ValueError(f"{text!r} is no span of hours; write it as 22:00-07:00")
        numbers = [int(part) for part in found.groups()]
        return cls(time(numbers[0], numbers[1]), time(numbers[2], numbers[3]), zone)

    def over_at(self, now_ms: int) -> int | None:
        """When the quiet hours that are now end, Unix ms; None while none are."""
        here = datetime.fromtimestamp(now_ms / 1000, timezone.utc).astimezone(self.zone)
        clock = here.time()
        if self.start < self.end:
            quiet = self.start <= clock < self.end
        else:
            quiet = clock >= self.start or clock < self.end
        if not quiet:
            return None
        day = here.date() + timedelta(days=1 if clock >= self.end else 0)
        over = datetime.combine(day, self.end, self.zone)
        # An hour that the clocks skip or repeat is never further away than it says.
        return max(round(over.timestamp() * 1000), now_ms + 1)
