"""How many bytes to add to a stored message so that it costs the card least.

SQLite keeps the end of a long row in pages of its own and the rest, up to a page, in the table's tree. A
window is as long as chance will have it, and a rest of half a page takes a new page of the tree for every
row, one more for the tree above, and one again when the row is marked as acknowledged. Filled up so that all
but a few bytes stand in pages of their own, several rows share one page of the tree: at five-minute windows
a twentieth less is written.
"""

from __future__ import annotations

STORED_BYTES = "(length(body) + coalesce(length(fill), 0))"
"""SQL: what a message takes of the budget, filling and all."""

FIELD_BYTES = 60
"""All of a row but its body, about: a header of varints, and the fields of `outbox_schema`."""

_SHORT_REST = 100
"""Bytes of a row in the tree that are few enough."""


def fill_bytes(body: int, page: int) -> int:
    """Length of the filling.

    Args:
        body: bytes of the message's body.
        page: bytes of a page.

    Returns:
        0 where the row fits into the tree whole, or leaves little of itself there anyway.
    """
    # Names and numbers of the SQLite file format, "B-tree Pages", cell payload of table leaf cells.
    payload, usable = body + FIELD_BYTES, page
    most, least = usable - 35, (usable - 12) * 32 // 255 - 23
    if payload <= most:
        return 0
    beyond = (payload - least) % (usable - 4)
    rest = least + beyond
    return 0 if rest > most or rest <= _SHORT_REST else usable - 4 - beyond
