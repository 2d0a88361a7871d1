"""Which messages of one (device, incarnation) were taken, in constant space for the usual case.

Sequence numbers start at 1 and mostly arrive in order, so "everything up to `through`" says almost all; what
arrived beyond a gap is kept as ranges until the gap closes. The record does not rest on the
messages' own rows: what returns after its row was deleted is still recognised.
"""

from __future__ import annotations

from bisect import bisect_right

import msgpack

from driftpost_aggregator.errors import MessageRejected
from driftpost_sync.codec import MAX_SEQ

# Gaps one incarnation may have open. An honest device that drains newest first has one or two; a device
# that merged its backlog leaves one for each merge, thousands after months offline. Beyond this it is
# inventing numbers.
MAX_GAPS = 20_000


class Seen:
    """The sequence numbers taken from one incarnation.

    Args:
        through: every number from 1 to this was taken.
        ranges: taken ranges above it, ascending, inclusive, with a gap before each.
    """

    def __init__(self, through: int = 0, ranges: list[tuple[int, int]] | None = None) -> None:
        self.through = through
        self._firsts = [first for first, _ in ranges or []]
        self._lasts = [last for _, last in ranges or []]

    @classmethod
    def from_row(cls, through: int, beyond: bytes) -> Seen:
        """Read back what `through` and `beyond` hold."""
        ranges: list[list[int]] = msgpack.unpackb(beyond)
        return cls(through, [(first, last) for first, last in ranges])

    @property
    def beyond(self) -> bytes:
        """The ranges above `through`, packed for the database."""
        packed: bytes = msgpack.packb([list(pair) for pair in zip(self._firsts, self._lasts, strict=True)])
        return packed

    def __contains__(self, seq: int) -> bool:
        if seq <= self.through:
            return seq >= 1
        at = bisect_right(self._firsts, seq) - 1
        return at >= 0 and seq <= self._lasts[at]

    def check(self, seq: int) -> None:
        """Whether a number could be taken; for callers that must know before they count anything.

        Raises:
            MessageRejected: as `add`.
        """
        if not 1 <= seq <= MAX_SEQ:
            raise MessageRejected(f"sequence number {seq} is outside 1 .. {MAX_SEQ}")
        _, joins_left, joins_right = self._place(seq)
        alone = not (joins_left or joins_right or seq in self or seq == self.through + 1)
        if alone and len(self._firsts) >= MAX_GAPS:
            raise MessageRejected(f"more than {MAX_GAPS} gaps in its sequence numbers")

    def _place(self, seq: int) -> tuple[int, bool, bool]:
        """Where a new number belongs, and whether it touches the ranges to its left and right."""
        at = bisect_right(self._firsts, seq)
        joins_left = at > 0 and self._lasts[at - 1] == seq - 1
        return at, joins_left, at < len(self._firsts) and self._firsts[at] == seq + 1

    def add(self, seq: int) -> bool:
        """Take a number.

        Returns:
            Whether it is new.

        Raises:
            MessageRejected: it is outside 1 .. 2^53-1, or would open one gap too many.
        """
        self.check(seq)
        if seq in self:
            return False
        at, joins_left, joins_right = self._place(seq)
        if joins_left and joins_right:
            self._lasts[at - 1] = self._lasts[at]
            del self._firsts[at], self._lasts[at]
        elif joins_left:
            self._lasts[at - 1] = seq
        elif joins_right:
            self._firsts[at] = seq
        else:
            self._firsts.insert(at, seq)
            self._lasts.insert(at, seq)
        if self._firsts and self._firsts[0] == self.through + 1:
            self.through = self._lasts[0]
            del self._firsts[0], self._lasts[0]
        return True
