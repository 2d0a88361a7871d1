"""Whether live rows come in the order of time, by the reference's column of times."""

from __future__ import annotations

import math

from driftpost_models.replay.tables import RowBlock, is_missing
from driftpost_models.times import seconds_of


class LiveOrder:
    """Looks at the times of live rows, and remembers the first that goes back.

    Args:
        column: that has them; None where none is known.
    """

    def __init__(self, column: str | None) -> None:
        self._column = column
        self._last = -math.inf
        self._back = 0
        self._first = 0

    def look(self, block: RowBlock) -> None:
        """Read a block's times; what is no time is left to others to complain of."""
        if self._column is None or self._column not in block.columns:
            return
        for place, cell in enumerate(block.columns[self._column]):
            text = str(cell)
            try:
                now = math.nan if is_missing(text) else seconds_of(text)
            except ValueError:
                continue
            if now < self._last:
                self._back += 1
                self._first = self._first or block.start + place + 1
            if not math.isnan(now):
                self._last = now

    def notes(self) -> list[str]:
        """A sentence where rows went back."""
        if not self._back:
            return []
        return [
            f"{self._column}: live rows are not in the order of time: row {self._first:,} is earlier than "
            f"the one before, and {self._back:,} in all. Sort them: detectors read what follows what"
        ]
