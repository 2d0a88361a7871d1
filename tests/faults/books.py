"""Looks into a store from outside, as any other program would, and checks its accounts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from driftpost_sync.outbox_row import OutboxRow, row_crc


@dataclass(frozen=True)
class Books:
    """Rows of inferences in a store's accounts, all incarnations together; `starts` counts these."""

    recorded: int
    acked: int
    pending: int
    quarantined: int
    lost: int
    starts: int = 0


def read_books(path: Path) -> Books:
    """The accounts of a store that nobody has open.

    Raises:
        AssertionError: the file is damaged, an account does not balance, or a message is there twice.
    """
    with closing(sqlite3.connect(path)) as db:
        verdict = db.execute("pragma integrity_check").fetchone()[0]
        assert verdict == "ok", verdict
        totals, starts = [0] * 5, 0
        for row in db.execute(
            "select recorded_windows, acked_windows, pending_windows, quarantined_windows,"
            " recorded_rows, acked_rows, pending_rows, quarantined_rows, lost_rows_at_start from ledger"
        ):
            assert row[0] == row[1] + row[2] + row[3], f"windows do not balance: {row}"
            assert row[4] == row[5] + row[6] + row[7], f"rows do not balance: {row}"
            starts += 1
            totals = [total + value for total, value in zip(totals, row[4:], strict=True)]
        (twice,) = db.execute(
            "select count(*) - count(distinct incarnation || '-' || seq) from messages"
        ).fetchone()
        assert twice == 0
        for *fields, crc in db.execute(
            "select id, incarnation, seq, kind, windows, rows, mono, wall, body, crc from messages"
        ):
            assert row_crc(OutboxRow(*fields)) == crc
    return Books(*totals, starts)
