from __future__ import annotations

import sqlite3

import pytest

from driftpost_sync.outbox_fill import fill_bytes
from driftpost_sync.outbox_schema import create_tables

PAGE = 512


def _tree_pages(lengths: list[int], *, filled: bool) -> int:
    """Pages of the messages' tree (not those of long rows' ends) after storing bodies of these lengths."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute(f"pragma page_size = {PAGE}")
    create_tables(db)
    for number, length in enumerate(lengths):
        fill = fill_bytes(length, PAGE) if filled else 0
        db.execute(
            "INSERT INTO messages (id, incarnation, seq, kind, windows, rows, mono, wall, crc, body, fill)"
            " VALUES (?, 5783050883, ?, 'window', 1, 30, 13000000, 1800000000000, 4000000000, ?,"
            " zeroblob(?))",
            (number + 1, number + 1, b"\1" * length, fill),
        )
    pages = db.execute("pragma page_count").fetchone()[0]
    ends = sum(-(-(length + (fill_bytes(length, PAGE) if filled else 0)) // (PAGE - 4)) for length in lengths)
    db.close()
    return int(pages) - ends


def test_rows_of_all_lengths_share_pages_of_the_tree() -> None:
    lengths = list(range(1290, 1350)) + list(range(700, 1800, 20))
    assert _tree_pages(lengths, filled=True) < 0.5 * len(lengths)


@pytest.mark.parametrize("body", [0, 10, 400])
def test_a_row_that_fits_into_a_page_is_not_filled(body: int) -> None:
    assert fill_bytes(body, PAGE) == 0


@pytest.mark.parametrize("body", range(450, 3000, 7))
def test_no_filling_is_longer_than_a_page(body: int) -> None:
    assert 0 <= fill_bytes(body, PAGE) < PAGE


def test_with_large_pages_a_window_needs_no_filling() -> None:
    assert fill_bytes(1309, 4096) == 0
