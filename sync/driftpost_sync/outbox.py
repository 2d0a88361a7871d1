"""The device's outbox: every message in one SQLite row until the aggregator has said that it committed it.

Rules that hold whatever happens:

- A body is stored once. The same row is what waits, what is sent and, once acknowledged, local history.
- The accounts balance (`accounts.py`): counters move in the same transaction as the rows.
- Nothing is deleted but acknowledged rows, and those only by `prune`; accounts that a newer one replaces; and
  windows whose content lives on in a coarser one (`coarsen.py`). A row that can not be read is quarantined
  where it lies (`quarantine.py`).
- The caller owns the connection, its lock and its transactions; nothing here commits.

The order of sending is chosen for a person who looks at the dashboard after an outage: descriptions first
(without them the aggregator can not read windows), then findings, then ledgers, each oldest first; windows
newest first, because now matters more than last week and the aggregator does not depend on order.

Flash is spared: the primary key follows time, so that a put touches the end of the table; it is computed from
(incarnation, seq), so that these need no index of their own; a status changes in place, without rewriting the
body; and acknowledgements are written together with the next put, whose transaction touches the same pages.
If power fails in between, a message is sent once more and the aggregator knows it already.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from driftpost_sync.errors import MalformedMessage, MessageTooLarge, OutboxError
from driftpost_sync.messages import KINDS, MAX_BODY_BYTES, MAX_ITEMS, Kind, LedgerBody, Range
from driftpost_sync.outbox_fill import STORED_BYTES, fill_bytes
from driftpost_sync.outbox_row import ENVELOPE_BYTES, ITEM_BYTES, Batch, OutboxRow, row_crc
from driftpost_sync.quarantine import Quarantine

# Acknowledgements held back for the next put at most; a drain writes them in lots of this size.
MAX_UNWRITTEN = 256
_IDS_IN_STATEMENT = 256


class RandomBits(Protocol):
    """What `random.Random` and `secrets.SystemRandom` have in common here."""

    def getrandbits(self, k: int, /) -> int:
        """`k` random bits."""


@dataclass(frozen=True)
class Pending:
    """What waits."""

    messages: int
    bytes: int


@dataclass(frozen=True)
class _Meta:
    id: int
    incarnation: int
    kind: str
    mono: int
    size: int
    sent: int


class Outbox(Quarantine):
    """Use `Outbox.open`; the tables must exist (`create_tables`)."""

    def __init__(self, connection: sqlite3.Connection, incarnation: int, first_id: int, boot: str) -> None:
        super().__init__(connection, incarnation, boot)
        self._first_id = first_id
        self._settling: set[int] = set()
        (self._page,) = connection.execute("pragma page_size").fetchone()
        self.live = False
        """Set by the link while it can send: rows put then count as sent at once, which saves a write."""

    @classmethod
    def open(
        cls,
        connection: sqlite3.Connection,
        random: RandomBits,
        *,
        mono: int,
        wall: int | None = None,
        boot: str = "",
        lost_rows: int = 0,
    ) -> Outbox:
        """Start a new incarnation, in the caller's transaction.

        Args:
            connection: to a database with the outbox's tables.
            random: low 32 bits of the incarnation, so that a lost store can not repeat its past.
            mono, wall: now, ms.
            boot: `clock.boot_id()`, which tells whether monotonic times of two incarnations compare.
            lost_rows: rows known to have been in memory when the last incarnation died.
        """
        last, next_id = connection.execute(
            "SELECT coalesce(max(incarnation), 0), coalesce(max(first_id + last_seq), 1) FROM incarnations"
        ).fetchone()
        counter = (last >> 32) + 1
        if counter >= 1 << 31:
            raise OutboxError("2,147,483,647 starts are used up; move the store away to begin a new one")
        incarnation = counter << 32 | random.getrandbits(32)
        connection.execute(
            "INSERT INTO incarnations"
            " (incarnation, first_id, boot, started_mono, started_wall, lost_rows_at_start)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (incarnation, next_id, boot, mono, wall, lost_rows),
        )
        return cls(connection, incarnation, next_id, boot)

    # Recording

    def put(
        self,
        kind: Kind,
        body: bytes,
        *,
        mono: int,
        wall: int | None = None,
        windows: int = 0,
        rows: int = 0,
    ) -> int:
        """Store a message, in the caller's transaction.

        Args:
            kind: of the body.
            body: packed; its bytes travel as they are.
            mono, wall: when it was recorded, ms.
            windows: base windows in it (`Window.parts`), 0 for anything but a window.
            rows: inferences in it.

        Returns:
            Its sequence number in this incarnation.

        Raises:
            MessageTooLarge: it could never be sent; nothing is stored.
        """
        if kind not in KINDS:
            raise OutboxError(f"unknown kind {kind!r}")
        if len(body) > MAX_BODY_BYTES:
            raise MessageTooLarge(f"a {kind}", len(body), MAX_BODY_BYTES)
        if windows < 0 or rows < 0:
            raise OutboxError(f"{windows} windows and {rows} rows can not be recorded")
        self.settle()
        (last_seq,) = self._db.execute(
            "SELECT last_seq FROM incarnations WHERE incarnation = ?", (self.incarnation,)
        ).fetchone()
        seq = int(last_seq) + 1
        self._db.execute(
            "UPDATE incarnations SET last_seq = ?, recorded_windows = recorded_windows + ?,"
            " recorded_rows = recorded_rows + ? WHERE incarnation = ?",
            (seq, windows, rows, self.incarnation),
        )
        row = OutboxRow(
            self._first_id + seq - 1, self.incarnation, seq, kind, windows, rows, mono, wall, body
        )
        self._db.execute(
            "INSERT INTO messages"
            " (id, incarnation, seq, sent, kind, windows, rows, mono, wall, crc, body, fill)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, zeroblob(?))",
            (
                row.id,
                row.incarnation,
                seq,
                int(self.live),
                kind,
                windows,
                rows,
                mono,
                wall,
                row_crc(row),
                body,
                fill_bytes(len(body), self._page),
            ),
        )
        return seq

    def put_account(self, account: LedgerBody, *, mono: int, wall: int | None = None) -> int:
        """Store a ledger in the place of older ones of its incarnation that never left, as `put` does."""
        found = self._db.execute(
            "SELECT id, body FROM messages INDEXED BY messages_pending"
            " WHERE status = 0 AND kind = 'ledger' AND sent = 0"
        ).fetchall()
        for row_id, body in found:
            try:
                replaced = LedgerBody.from_bytes(body).incarnation == account.incarnation
            except MalformedMessage:
                continue  # sending finds it damaged and sets it aside
            if replaced:
                self._db.execute("DELETE FROM messages WHERE id = ?", (row_id,))
        return self.put("ledger", account.to_bytes(), mono=mono, wall=wall)

    # Sending

    def next_batch(
        self,
        max_bytes: int,
        *,
        now: int,
        exclude: Collection[int] = (),
        live_since: int | None = None,
        historical: bool = True,
        max_items: int = MAX_ITEMS,
        probe: bool = False,
        windows: bool = True,
    ) -> Batch | None:
        """Take what should be sent next, and mark it as sent, in the caller's transaction.

        Args:
            max_bytes: of the whole envelope; one body that is larger travels alone.
            now: monotonic ms, for the quarantine of rows found damaged.
            exclude: ids that are in flight.
            live_since: monotonic ms since which the link has been up; what was recorded before it, or in
                another incarnation, is historical. None: everything is.
            historical: whether historical rows may go now.
            max_items: most rows.
            probe: prefer what was sent before. To an aggregator that does not answer, the same messages go
                again and again: what never left may still be merged when room gets short.
            windows: whether windows may go now.

        Returns:
            None when there is nothing to send.
        """
        options = (max_bytes, now, exclude, live_since, historical, max_items, windows)
        return (self._take(*options, only_sent=True) if probe else None) or self._take(*options)

    def _take(  # noqa: PLR0917  # next_batch's own, in its order
        self,
        max_bytes: int,
        now: int,
        exclude: Collection[int],
        live_since: int | None,
        historical: bool,
        max_items: int,
        windows: bool,
        *,
        only_sent: bool = False,
    ) -> Batch | None:
        batch: list[OutboxRow] = []
        first: tuple[int, bool] | None = None
        size = ENVELOPE_BYTES
        for meta in self._waiting(exclude, only_sent, windows):
            old = meta.incarnation != self.incarnation or live_since is None or meta.mono < live_since
            if old and not historical:
                if meta.kind == "window":
                    break  # newest first: all that follow are older still
                continue
            if first is not None and first != (meta.incarnation, old):
                break
            if batch and size + meta.size + ITEM_BYTES > max_bytes:
                break
            row = self.read(meta.id, now)
            if row is None:
                continue
            first = (meta.incarnation, old)
            batch.append(row)
            size += row.wire_bytes
            if not meta.sent:
                self._db.execute("UPDATE messages SET sent = 1 WHERE id = ?", (meta.id,))
            if len(batch) >= max_items:
                break
        return None if first is None else Batch(first[0], first[1], tuple(batch))

    def _waiting(self, exclude: Collection[int], only_sent: bool, windows: bool) -> Iterator[_Meta]:
        """Pending rows in the order of sending, without their bodies."""
        columns = "id, incarnation, kind, mono, length(body), sent"
        pending = "status = 0 AND id NOT IN (SELECT id FROM quarantine)" + " AND sent = 1" * only_sent
        for kind in sorted(KINDS):  # describe, finding, ledger, window
            if kind == "window" and not windows:
                continue
            order = "DESC" if kind == "window" else "ASC"
            # In slices: no cursor stays open while rows change, and no backlog is loaded whole.
            after: int | None = None
            while True:
                beyond = "" if after is None else f" AND id {'<' if order == 'DESC' else '>'} {after}"
                found = self._db.execute(
                    f"SELECT {columns} FROM messages INDEXED BY messages_pending"
                    f" WHERE {pending} AND kind = ?{beyond} ORDER BY id {order} LIMIT 256",
                    (kind,),
                ).fetchall()
                for values in found:
                    after = int(values[0])
                    if after not in exclude and after not in self._settling:
                        yield _Meta(*values)
                if len(found) < 256:
                    break

    # Settling

    def acknowledge(self, incarnation: int, ranges: Sequence[Range]) -> int:
        """Settle what the aggregator says that it committed, in the caller's transaction.

        The change is written with the next `put`, `settle` or account. Sequence numbers that are unknown,
        were never sent or are settled already change nothing.

        Returns:
            Messages that were pending and now are acknowledged.
        """
        known = self._span(incarnation)
        if known is None:
            return 0
        first_id, last_seq = known
        before = len(self._settling)
        for first, last in ranges:
            low, high = first_id + max(first, 1) - 1, first_id + min(last, last_seq) - 1
            if low <= high:
                self._settling.update(
                    row_id
                    for (row_id,) in self._db.execute(
                        "SELECT id FROM messages WHERE id BETWEEN ? AND ? AND status = 0 AND sent = 1"
                        " AND id NOT IN (SELECT id FROM quarantine)",
                        (low, high),
                    )
                )
        settled = len(self._settling) - before
        if len(self._settling) >= MAX_UNWRITTEN:
            self.settle()
        return settled

    @property
    def unsettled(self) -> bool:
        """Whether there are acknowledgements that are not written yet: an account will write them."""
        return bool(self._settling)

    def settle(self) -> None:
        """Write the acknowledgements that are not written yet, in the caller's transaction."""
        if not self._settling:
            return
        ids = sorted(self._settling)
        self._settling.clear()
        for start in range(0, len(ids), _IDS_IN_STATEMENT):
            part = ids[start : start + _IDS_IN_STATEMENT]
            which = f"id IN ({','.join('?' * len(part))}) AND status = 0"
            sums = self._db.execute(
                f"SELECT sum(windows), sum(rows), incarnation FROM shares WHERE {which} GROUP BY incarnation",
                part,
            ).fetchall()
            self._db.execute(f"UPDATE messages SET status = 1 WHERE {which}", part)
            self._db.executemany(
                "UPDATE incarnations SET acked_windows = acked_windows + ?, acked_rows = acked_rows + ?"
                " WHERE incarnation = ?",
                sums,
            )

    # Room

    def pending(self) -> Pending:
        """How much waits."""
        self.settle()
        messages, size = self._db.execute(
            f"SELECT count(*), coalesce(sum({STORED_BYTES}), 0) FROM messages INDEXED BY messages_pending"
            " WHERE status = 0 AND id NOT IN (SELECT id FROM quarantine)"
        ).fetchone()
        return Pending(int(messages), int(size))

    def prune(self, keep_bytes: int) -> int:
        """Delete the oldest acknowledged rows until the acknowledged bodies fit `keep_bytes`.

        Pending and quarantined rows are never deleted, and the accounts stay as they are.

        Returns:
            Rows deleted.
        """
        self.settle()
        total = 0
        oldest_kept: int | None = None
        over = False
        cursor = self._db.execute(
            f"SELECT id, {STORED_BYTES} FROM messages WHERE status = 1 ORDER BY id DESC"
        )
        for row_id, size in cursor:
            total += size
            if total > keep_bytes:
                over = True
                break
            oldest_kept = row_id
        cursor.close()
        deleted = 0
        if over:
            below = 1 << 62 if oldest_kept is None else oldest_kept
            deleted = self._db.execute("DELETE FROM messages WHERE status = 1 AND id < ?", (below,)).rowcount
            self._db.execute("DELETE FROM absorbed WHERE id NOT IN (SELECT id FROM messages)")
        self._fold()
        return deleted
