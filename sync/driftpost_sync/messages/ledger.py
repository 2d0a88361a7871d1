"""The account of what became of every window."""

from __future__ import annotations

from dataclasses import dataclass

from driftpost_sync.codec import MAX_INCARNATION, Fields, pack, unpack
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages.limits import MAX_COUNT


@dataclass(frozen=True)
class Tally:
    """How many windows, and how many rows (inferences) in them."""

    windows: int = 0
    rows: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.windows + other.windows, self.rows + other.rows)


@dataclass(frozen=True)
class LedgerBody:
    """What became of every window a device recorded in one incarnation.

    `recorded = acked + pending + quarantined`, in windows and in rows. A window that took others in counts
    as all of them; `merged` says how many no longer stand alone.

    Attributes:
        incarnation: the one accounted for.
        lost_rows_at_start: rows known to have been in memory when the previous incarnation died.
    """

    incarnation: int
    recorded: Tally
    acked: Tally
    pending: Tally
    quarantined: Tally
    merged: Tally = Tally()
    lost_rows_at_start: int = 0

    @property
    def balanced(self) -> bool:
        """Whether nothing is unaccounted for."""
        return self.recorded == self.acked + self.pending + self.quarantined

    def to_bytes(self) -> bytes:
        """Packed body."""
        return pack(
            {
                "i": self.incarnation,
                "n": [self.recorded.windows, self.recorded.rows],
                "a": [self.acked.windows, self.acked.rows],
                "p": [self.pending.windows, self.pending.rows],
                "q": [self.quarantined.windows, self.quarantined.rows],
                "g": [self.merged.windows, self.merged.rows],
                "l": self.lost_rows_at_start,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> LedgerBody:
        """Strictly decoded body; whether it balances is for the reader to judge.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        fields = Fields(unpack(data, limit=1024, where="ledger"), "ledger")
        return cls(
            incarnation=fields.integer("i", 1, MAX_INCARNATION),
            recorded=_tally(fields, "n"),
            acked=_tally(fields, "a"),
            pending=_tally(fields, "p"),
            quarantined=_tally(fields, "q"),
            merged=_tally(fields, "g"),
            lost_rows_at_start=fields.integer("l", 0, MAX_COUNT),
        )


def _tally(fields: Fields, key: str) -> Tally:
    pair = fields.array(key, 2)
    if len(pair) != 2:
        raise MalformedMessage("must be [windows, rows]", f"ledger.{key}")
    inner = Fields({"windows": pair[0], "rows": pair[1]}, f"ledger.{key}")
    return Tally(inner.integer("windows", 0, MAX_COUNT), inner.integer("rows", 0, MAX_COUNT))
