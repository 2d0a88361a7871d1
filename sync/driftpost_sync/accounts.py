"""The accounts of an outbox: what each incarnation recorded, and where all of it is now.

`recorded = acked + pending + quarantined`, in windows and in rows, per incarnation. Recorded, acked and
quarantined are counters that move in the same transaction as the rows; pending is counted from the rows, so
that the equation is a check and not a definition.
"""

from __future__ import annotations

import sqlite3

from driftpost_sync.errors import OutboxError
from driftpost_sync.messages import LedgerBody, Tally

# Incarnations listed one by one; older ones without pending rows are folded into one line of totals.
KEEP_INCARNATIONS = 64
# The line of totals; real incarnations start at 1 << 32.
FOLDED = 0

_COUNTERS = (
    "recorded_windows",
    "recorded_rows",
    "acked_windows",
    "acked_rows",
    "quarantined_windows",
    "quarantined_rows",
    "merged_windows",
    "merged_rows",
    "lost_rows_at_start",
)


class Accounts:
    """What an outbox knows of its incarnations; `Outbox` adds the messages themselves.

    Attributes:
        incarnation: the one that is running.
    """

    def __init__(self, connection: sqlite3.Connection, incarnation: int, boot: str) -> None:
        self._db = connection
        self.incarnation = incarnation
        self._boot = boot

    def settle(self) -> None:
        """Write what the counters do not know yet, in the caller's transaction."""

    def ledger(self, incarnation: int | None = None) -> LedgerBody:
        """The account of one incarnation, the running one by default.

        Raises:
            OutboxError: there never was such an incarnation, or it was folded into the totals.
        """
        wanted = self.incarnation if incarnation is None else incarnation
        found = self._accounts("WHERE incarnation = ?", (wanted,))
        if not found:
            raise OutboxError(f"incarnation {wanted} is not on record")
        return found[0]

    def ledgers(self) -> tuple[LedgerBody, ...]:
        """The accounts of all incarnations on record, newest first; not what is folded into the totals."""
        return self._accounts("WHERE incarnation > ? ORDER BY incarnation DESC", (FOLDED,))

    def total(self) -> LedgerBody:
        """Everything this store ever recorded, under the running incarnation's number."""
        accounts = self._accounts("WHERE incarnation >= ?", (FOLDED,))
        return LedgerBody(
            incarnation=self.incarnation,
            recorded=sum((one.recorded for one in accounts), Tally()),
            acked=sum((one.acked for one in accounts), Tally()),
            pending=sum((one.pending for one in accounts), Tally()),
            quarantined=sum((one.quarantined for one in accounts), Tally()),
            merged=sum((one.merged for one in accounts), Tally()),
            lost_rows_at_start=sum(one.lost_rows_at_start for one in accounts),
        )

    def _accounts(self, where: str, values: tuple[int, ...]) -> tuple[LedgerBody, ...]:
        self.settle()
        found = self._db.execute(
            "SELECT incarnation, recorded_windows, recorded_rows, acked_windows, acked_rows,"
            " quarantined_windows, quarantined_rows, merged_windows, merged_rows, lost_rows_at_start"
            f" FROM incarnations {where}",
            values,
        ).fetchall()
        return tuple(
            LedgerBody(
                incarnation=one[0],
                recorded=Tally(one[1], one[2]),
                acked=Tally(one[3], one[4]),
                pending=self._pending_tally(one[0]),
                quarantined=Tally(one[5], one[6]),
                merged=Tally(one[7], one[8]),
                lost_rows_at_start=one[9],
            )
            for one in found
        )

    def _pending_tally(self, incarnation: int) -> Tally:
        own = self._db.execute(
            "SELECT coalesce(sum(windows), 0), coalesce(sum(rows), 0)"
            " FROM messages INDEXED BY messages_pending WHERE status = 0 AND incarnation = ?"
            " AND id NOT IN (SELECT id FROM quarantine)",
            (incarnation,),
        ).fetchone()
        # What its messages carry for others is theirs, and what others' messages carry for it is its own.
        moved = self._db.execute(
            "SELECT coalesce(sum(CASE WHEN a.incarnation = ?1 THEN a.windows ELSE -a.windows END), 0),"
            " coalesce(sum(CASE WHEN a.incarnation = ?1 THEN a.rows ELSE -a.rows END), 0)"
            " FROM absorbed AS a JOIN messages AS m ON m.id = a.id"
            " WHERE m.status = 0 AND (a.incarnation = ?1 OR m.incarnation = ?1)"
            " AND a.id NOT IN (SELECT id FROM quarantine)",
            (incarnation,),
        ).fetchone()
        return Tally(int(own[0] + moved[0]), int(own[1] + moved[1]))

    def comparable(self, incarnation: int) -> bool:
        """Whether monotonic times of `incarnation` were taken in the boot that is running now."""
        if incarnation == self.incarnation:
            return True
        found = self._db.execute(
            "SELECT boot FROM incarnations WHERE incarnation = ?", (incarnation,)
        ).fetchone()
        return found is not None and found[0] != "" and found[0] == self._boot

    def is_own(self, incarnation: int) -> bool:
        """Whether this store has (or had, as far as it remembers) that incarnation."""
        return self._span(incarnation) is not None

    def _span(self, incarnation: int) -> tuple[int, int] | None:
        if not FOLDED < incarnation < 1 << 63:
            return None
        found = self._db.execute(
            "SELECT first_id, last_seq FROM incarnations WHERE incarnation = ?", (incarnation,)
        ).fetchone()
        return None if found is None else (int(found[0]), int(found[1]))

    def _fold(self) -> None:
        """Sum up old incarnations of which no row is left, so that a restart loop can not grow the table."""
        old = self._db.execute(
            "SELECT incarnation FROM incarnations WHERE incarnation > ? ORDER BY incarnation DESC"
            " LIMIT -1 OFFSET ?",
            (FOLDED, KEEP_INCARNATIONS),
        ).fetchall()
        for (incarnation,) in old:
            span = self._span(incarnation)
            assert span is not None
            left = self._db.execute(
                "SELECT EXISTS (SELECT 1 FROM messages WHERE id BETWEEN ? AND ?)"
                " OR EXISTS (SELECT 1 FROM absorbed WHERE incarnation = ?)",
                (span[0], span[0] + span[1] - 1, incarnation),
            ).fetchone()[0]
            if left:
                continue
            self._db.execute(
                "INSERT OR IGNORE INTO incarnations (incarnation, first_id, started_mono) VALUES (?, 0, 0)",
                (FOLDED,),
            )
            sums = ", ".join(
                f"{name} = {name} + (SELECT {name} FROM incarnations WHERE incarnation = ?1)"
                for name in _COUNTERS
            )
            self._db.execute(f"UPDATE incarnations SET {sums} WHERE incarnation = {FOLDED}", (incarnation,))
            self._db.execute("DELETE FROM incarnations WHERE incarnation = ?", (incarnation,))
