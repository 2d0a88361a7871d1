"""A message as the outbox keeps it, and what of several goes into one envelope."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

# Envelope fields with the longest names and largest numbers, and one item's framing (see Envelope.to_bytes).
ENVELOPE_BYTES = 128
ITEM_BYTES = 24


@dataclass(frozen=True)
class OutboxRow:
    """A row taken for sending. `id` names it to `next_batch(exclude=...)`."""

    id: int
    incarnation: int
    seq: int
    kind: str
    windows: int
    rows: int
    mono: int
    wall: int | None
    body: bytes

    @property
    def wire_bytes(self) -> int:
        """Most that it takes in an envelope."""
        return len(self.body) + ITEM_BYTES


@dataclass(frozen=True)
class Batch:
    """Rows that go into one envelope: of one incarnation, all historical or none."""

    incarnation: int
    historical: bool
    rows: tuple[OutboxRow, ...]

    @property
    def wire_bytes(self) -> int:
        """Most that the envelope takes."""
        return ENVELOPE_BYTES + sum(row.wire_bytes for row in self.rows)


def row_crc(row: OutboxRow) -> int:
    """CRC-32 of what a row says of itself and of its body."""
    head = f"{row.id},{row.incarnation},{row.seq},{row.kind},{row.windows},{row.rows},{row.mono},{row.wall}"
    return zlib.crc32(row.body, zlib.crc32(head.encode()))
