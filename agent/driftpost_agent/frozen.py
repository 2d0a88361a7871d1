"""Notice a sensor that repeats itself: the same row over and over, longer than the reference ever showed."""

from __future__ import annotations

# Repeats that always pass: a client that sends a frame twice, or a slow sensor that is read faster than it
# measures.
LEAST_RUN = 4
# A run is suspicious when it is this many times longer than the reference's longest.
RUN_FACTOR = 2


def longest_innocent_run(reference_run: int) -> int:
    """How many equal rows in a row are still normal.

    Args:
        reference_run: longest run of equal rows in the reference; 1 when no row repeats its predecessor.
    """
    return max(LEAST_RUN, RUN_FACTOR * reference_run)


class FrozenWatch:
    """Counts how long the same row has been coming in.

    Args:
        reference_run: longest run of equal rows in the reference.

    Attributes:
        last: the last row; one that differs needs no more than `begin`.
    """

    def __init__(self, reference_run: int) -> None:
        self._allowed = longest_innocent_run(reference_run)
        self.last = b""
        self._run = 0

    def begin(self, row: bytes) -> None:
        """Take in a row that differs from the last."""
        self.last = row
        self._run = 1

    def frozen(self, row: bytes) -> bool:
        """Take in one row, as the bytes of every input; whether its run is too long by now."""
        if row == self.last:
            self._run += 1
            return self._run > self._allowed
        self.begin(row)
        return False
