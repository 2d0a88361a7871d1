"""Messages that will never be sent: refused for good, or damaged on the card. They stay where they lie.

A row carries a CRC-32 of all that it says, so damage is found when it is read. What can not be read is noted
with the reason and counted as quarantined; nothing is deleted, and a person can look at it.
"""

from __future__ import annotations

import sqlite3

from driftpost_sync.accounts import Accounts
from driftpost_sync.messages import printable
from driftpost_sync.outbox_row import OutboxRow, row_crc


class Quarantine(Accounts):
    """Reads rows, and sets those aside that can not be believed."""

    def read(self, row_id: int, now: int) -> OutboxRow | None:
        """The row, or None after quarantining it because it is damaged."""
        try:
            values = self._db.execute(
                "SELECT id, incarnation, seq, kind, windows, rows, mono, wall, body, crc"
                " FROM messages WHERE id = ?",
                (row_id,),
            ).fetchone()
        except sqlite3.OperationalError:
            raise  # busy or full: the row is not at fault
        except sqlite3.DatabaseError as error:
            self._quarantine_damaged(row_id, f"unreadable: {error}", now)
            return None
        *fields, crc = values
        row = OutboxRow(*fields)
        if not isinstance(row.body, bytes) or row_crc(row) != crc:
            self._quarantine_damaged(row_id, "checksum does not match", now)
            return None
        return row

    def quarantine(self, incarnation: int, seq: int, reason: str, *, now: int) -> bool:
        """Set a pending message aside, with its reason; it stays in the store for a person to look at.

        Returns:
            Whether there was such a pending message.
        """
        known = self._span(incarnation)
        if known is None or not 1 <= seq <= known[1]:
            return False
        self.settle()
        row_id = known[0] + seq - 1
        found = self._db.execute(
            "SELECT windows, rows, incarnation FROM shares WHERE id = ? AND status = 0"
            " AND id NOT IN (SELECT id FROM quarantine)",
            (row_id,),
        ).fetchall()
        if not found:
            return False
        self._note(row_id, reason, now)
        self._db.execute("UPDATE messages SET status = 2 WHERE id = ?", (row_id,))
        self._db.executemany(
            "UPDATE incarnations SET quarantined_windows = quarantined_windows + ?,"
            " quarantined_rows = quarantined_rows + ? WHERE incarnation = ?",
            found,
        )
        return True

    def _quarantine_damaged(self, row_id: int, reason: str, now: int) -> None:
        """Set aside a row whose own columns can not be believed."""
        self._note(row_id, reason, now)
        try:
            self._db.execute("UPDATE messages SET status = 2 WHERE id = ?", (row_id,))
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            # The row can not even be rewritten; its entry in `quarantine` alone keeps it out of the way.
            pass
        concerned = self._db.execute(
            "SELECT max(incarnation) FROM incarnations WHERE first_id <= ?1 AND incarnation > 0"
            " UNION SELECT incarnation FROM absorbed WHERE id = ?1",
            (row_id,),
        ).fetchall()
        for (incarnation,) in concerned:
            # The counters know how much is missing from what can still be read: that much was in this row.
            pending = self._pending_tally(incarnation)
            self._db.execute(
                "UPDATE incarnations SET quarantined_windows = recorded_windows - acked_windows - ?,"
                " quarantined_rows = recorded_rows - acked_rows - ? WHERE incarnation = ?",
                (pending.windows, pending.rows, incarnation),
            )

    def _note(self, row_id: int, reason: str, now: int) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO quarantine (id, reason, mono) VALUES (?, ?, ?)",
            (row_id, printable(reason), now),
        )
