"""The device's outbox: every message in one SQLite row until the aggregator has said that it committed it.

Rules that hold whatever happens:

- A body is stored once. The same row is what waits, what is sent and, once acknowledged, local history.
- `recorded = acked + pending + quarantined`, in windows and in rows, per incarnation. Recorded, acked and
  quarantined are counters that move in the same transaction as the rows; pending is counted from the rows,
  so that the equation is a check and not a definition.
- Nothing is deleted but acknowledged rows, and those only by `prune`; accounts that a newer one replaces; and
  windows whose content lives on in a coarser one (`coarsen.py`). A row that can not be read is quarantined
  where it lies.
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
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from driftpost_sync.errors import MalformedMessage, MessageTooLarge, OutboxError
from driftpost_sync.messages import (
    KINDS,
    MAX_BODY_BYTES,
    MAX_ITEMS,
    Kind,
    LedgerBody,
    Range,
    Tally,
    printable,
)

# Envelope fields with the longest names and largest numbers, and one item's framing (see Envelope.to_bytes).
ENVELOPE_BYTES = 128
ITEM_BYTES = 24
# Incarnations listed one by one; older ones without pending rows are folded into one line of totals.
KEEP_INCARNATIONS = 64
# Acknowledgements held back for the next put at most; a drain writes them in lots of this size.
MAX_UNWRITTEN = 256
_IDS_IN_STATEMENT = 256
# The line of totals; real incarnations start at 1 << 32.
_FOLDED = 0

SCHEMA: tuple[str, ...] = (
    """
    CREATE TABLE incarnations (
        incarnation INTEGER PRIMARY KEY,      -- start counter << 32 | random bits; 0 sums up older ones
        first_id INTEGER NOT NULL,            -- messages.id of its seq 1
        last_seq INTEGER NOT NULL DEFAULT 0,
        boot TEXT NOT NULL DEFAULT '',        -- kernel's boot id: where it is equal, mono compares
        started_mono INTEGER NOT NULL,        -- ms since boot
        started_wall INTEGER,                 -- Unix ms, NULL where the clock was not known to be good
        recorded_windows INTEGER NOT NULL DEFAULT 0,
        recorded_rows INTEGER NOT NULL DEFAULT 0,
        acked_windows INTEGER NOT NULL DEFAULT 0,
        acked_rows INTEGER NOT NULL DEFAULT 0,
        quarantined_windows INTEGER NOT NULL DEFAULT 0,
        quarantined_rows INTEGER NOT NULL DEFAULT 0,
        merged_windows INTEGER NOT NULL DEFAULT 0,
        merged_rows INTEGER NOT NULL DEFAULT 0,
        lost_rows_at_start INTEGER NOT NULL DEFAULT 0
    )
    """,
    """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY,               -- incarnations.first_id + seq - 1: the order of recording
        incarnation INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        status INTEGER NOT NULL DEFAULT 0,    -- as in `state`; a number, so that changing it moves no bytes
        sent INTEGER NOT NULL DEFAULT 0,      -- 1: may have left this device, so its body must not change
        kind TEXT NOT NULL,                   -- window, finding, describe, ledger
        windows INTEGER NOT NULL DEFAULT 0,   -- base windows in it
        rows INTEGER NOT NULL DEFAULT 0,      -- inferences in it
        coarse INTEGER NOT NULL DEFAULT 0,    -- 1: made of several windows that waited
        mono INTEGER NOT NULL,                -- ms since boot, when recorded
        wall INTEGER,                         -- Unix ms, NULL where the clock was not known to be good
        crc INTEGER NOT NULL,                 -- CRC-32 of fields (see row_crc) and body
        body BLOB NOT NULL,                   -- msgpack, see docs/protocol.md
        state TEXT GENERATED ALWAYS AS (
            CASE status WHEN 0 THEN 'pending' WHEN 1 THEN 'acked' ELSE 'quarantined' END
        ) VIRTUAL
    )
    """,
    "CREATE INDEX messages_pending ON messages (kind) WHERE status = 0",
    """
    CREATE TABLE absorbed (
        id INTEGER NOT NULL,                  -- messages.id of a coarse window
        incarnation INTEGER NOT NULL,         -- an earlier one than the message's own
        windows INTEGER NOT NULL,             -- how much of the message that one recorded
        rows INTEGER NOT NULL,
        PRIMARY KEY (id, incarnation)
    ) WITHOUT ROWID
    """,
    """
    CREATE VIEW shares AS                     -- of every message: who recorded how much of it
    SELECT id, incarnation, status,
           windows - coalesce((SELECT sum(a.windows) FROM absorbed AS a WHERE a.id = m.id), 0) AS windows,
           rows - coalesce((SELECT sum(a.rows) FROM absorbed AS a WHERE a.id = m.id), 0) AS rows
    FROM messages AS m
    UNION ALL
    SELECT a.id, a.incarnation, m.status, a.windows, a.rows
    FROM absorbed AS a JOIN messages AS m ON m.id = a.id
    """,
    """
    CREATE TABLE quarantine (
        id INTEGER PRIMARY KEY,               -- messages.id
        reason TEXT NOT NULL,
        mono INTEGER NOT NULL                 -- ms since boot, when it was quarantined
    )
    """,
    """
    CREATE VIEW ledger AS
    SELECT printf('%d.%08x', incarnation >> 32, incarnation & 0xffffffff) AS incarnation,
           recorded_windows, acked_windows, coalesce(pending_windows, 0) AS pending_windows,
           quarantined_windows, merged_windows,
           recorded_rows, acked_rows, coalesce(pending_rows, 0) AS pending_rows, quarantined_rows,
           lost_rows_at_start
    FROM incarnations LEFT JOIN (
        SELECT incarnation AS of_incarnation, sum(windows) AS pending_windows, sum(rows) AS pending_rows
        FROM shares WHERE status = 0 AND id NOT IN (SELECT id FROM quarantine)
        GROUP BY incarnation
    ) ON of_incarnation = incarnation
    """,
)


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the outbox's tables; a migration of the store that holds them calls this once."""
    for statement in SCHEMA:
        connection.execute(statement)


class RandomBits(Protocol):
    """What `random.Random` and `secrets.SystemRandom` have in common here."""

    def getrandbits(self, k: int, /) -> int:
        """`k` random bits."""


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


class Outbox:
    """Use `Outbox.open`; the tables must exist (`create_tables`)."""

    def __init__(self, connection: sqlite3.Connection, incarnation: int, first_id: int, boot: str) -> None:
        self._db = connection
        self.incarnation = incarnation
        self._first_id = first_id
        self._boot = boot
        self._settling: set[int] = set()
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
            "INSERT INTO messages (id, incarnation, seq, sent, kind, windows, rows, mono, wall, crc, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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

        Returns:
            None when there is nothing to send.
        """
        options = (max_bytes, now, exclude, live_since, historical, max_items)
        return (self._take(*options, only_sent=True) if probe else None) or self._take(*options)

    def _take(  # noqa: PLR0917  # next_batch's own, in its order
        self,
        max_bytes: int,
        now: int,
        exclude: Collection[int],
        live_since: int | None,
        historical: bool,
        max_items: int,
        *,
        only_sent: bool = False,
    ) -> Batch | None:
        batch: list[OutboxRow] = []
        first: tuple[int, bool] | None = None
        size = ENVELOPE_BYTES
        for meta in self._waiting(exclude, only_sent):
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

    def _waiting(self, exclude: Collection[int], only_sent: bool) -> Iterator[_Meta]:
        """Pending rows in the order of sending, without their bodies."""
        columns = "id, incarnation, kind, mono, length(body), sent"
        pending = "status = 0 AND id NOT IN (SELECT id FROM quarantine)" + " AND sent = 1" * only_sent
        for kind in sorted(KINDS):  # describe, finding, ledger, window
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

    def _span(self, incarnation: int) -> tuple[int, int] | None:
        if not _FOLDED < incarnation < 1 << 63:
            return None
        found = self._db.execute(
            "SELECT first_id, last_seq FROM incarnations WHERE incarnation = ?", (incarnation,)
        ).fetchone()
        return None if found is None else (int(found[0]), int(found[1]))

    # Accounts

    def pending(self) -> Pending:
        """How much waits."""
        self.settle()
        messages, size = self._db.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM messages INDEXED BY messages_pending"
            " WHERE status = 0 AND id NOT IN (SELECT id FROM quarantine)"
        ).fetchone()
        return Pending(int(messages), int(size))

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
        return self._accounts("WHERE incarnation > ? ORDER BY incarnation DESC", (_FOLDED,))

    def total(self) -> LedgerBody:
        """Everything this store ever recorded, under the running incarnation's number."""
        accounts = self._accounts("WHERE incarnation >= ?", (_FOLDED,))
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

    # Room

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
        cursor = self._db.execute("SELECT id, length(body) FROM messages WHERE status = 1 ORDER BY id DESC")
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

    def _fold(self) -> None:
        """Sum up old incarnations of which no row is left, so that a restart loop can not grow the table."""
        old = self._db.execute(
            "SELECT incarnation FROM incarnations WHERE incarnation > ? ORDER BY incarnation DESC"
            " LIMIT -1 OFFSET ?",
            (_FOLDED, KEEP_INCARNATIONS),
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
                (_FOLDED,),
            )
            sums = ", ".join(
                f"{name} = {name} + (SELECT {name} FROM incarnations WHERE incarnation = ?1)"
                for name in _COUNTERS
            )
            self._db.execute(f"UPDATE incarnations SET {sums} WHERE incarnation = {_FOLDED}", (incarnation,))
            self._db.execute("DELETE FROM incarnations WHERE incarnation = ?", (incarnation,))


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


def row_crc(row: OutboxRow) -> int:
    """CRC-32 of what a row says of itself and of its body."""
    head = f"{row.id},{row.incarnation},{row.seq},{row.kind},{row.windows},{row.rows},{row.mono},{row.wall}"
    return zlib.crc32(row.body, zlib.crc32(head.encode()))
