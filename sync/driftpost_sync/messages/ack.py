"""What the aggregator has committed, refused and wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from driftpost_sync.codec import MAX_INCARNATION, MAX_SEQ, Fields, pack
from driftpost_sync.messages.limits import MAX_ITEMS, MAX_REASON_CHARS, VERSION

Range = tuple[int, int]


def printable(text: str, limit: int = MAX_REASON_CHARS) -> str:
    """`text` as it may travel: at most `limit` characters, control characters replaced.

    >>> printable("a\\tb")
    'a b'
    """
    return "".join(c if c.isprintable() else " " for c in text[:limit])


def ranges_of(seqs: Sequence[int]) -> tuple[Range, ...]:
    """Sequence numbers as ascending [first, last] ranges, both inclusive.

    >>> ranges_of([3, 1, 2, 7])
    ((1, 3), (7, 7))
    """
    ranges: list[Range] = []
    for seq in sorted(set(seqs)):
        if ranges and seq == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], seq)
        else:
            ranges.append((seq, seq))
    return tuple(ranges)


@dataclass(frozen=True)
class Ack:
    """What the aggregator has committed, refused and wants, about one incarnation of the device addressed.

    Attributes:
        incarnation: that the ranges belong to.
        ranges: inclusive [first, last] sequence numbers that are committed (or were before: duplicates too).
        refused: (seq, reason): will never be committed; the device quarantines them.
        wanted: what the device should send again: "describe", "describe:<bundle>", "ledger", "birth".
    """

    incarnation: int
    ranges: tuple[Range, ...] = ()
    refused: tuple[tuple[int, str], ...] = ()
    wanted: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Packed message."""
        return pack(
            {
                "v": VERSION,
                "t": "ack",
                "i": self.incarnation,
                "a": [list(pair) for pair in self.ranges],
                "r": [[seq, printable(reason)] for seq, reason in self.refused],
                "q": list(self.wanted),
            }
        )


def decode_ack(fields: Fields) -> Ack:
    """An acknowledgement, of a message that says to be one.

    Raises:
        MalformedMessage: it breaks the protocol.
    """
    ranges: list[Range] = []
    for first, last in fields.pairs("a", MAX_ITEMS):
        inner = Fields({"first": first, "last": last}, "down.a")
        low = inner.integer("first", 1, MAX_SEQ)
        ranges.append((low, inner.integer("last", low, MAX_SEQ)))
    refused: list[tuple[int, str]] = []
    for seq, reason in fields.pairs("r", MAX_ITEMS):
        inner = Fields({"seq": seq, "reason": reason}, "down.r")
        refused.append((inner.integer("seq", 1, MAX_SEQ), inner.text("reason", MAX_REASON_CHARS, empty=True)))
    return Ack(
        incarnation=fields.integer("i", 1, MAX_INCARNATION),
        ranges=tuple(ranges),
        refused=tuple(refused),
        wanted=fields.texts("q", 16, 120),
    )
