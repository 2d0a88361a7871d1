"""What can still be read of a damaged database is taken over into the new one; the file itself stays.

Messages carry a checksum each, so those that are whole are known to be. They keep their names, and count as
sent, because the mark that says so may have been lost: they go again as they are, and the aggregator knows
what it has. What SQLite can't reach, because the schema or an inner page is damaged, is read from the pages
themselves, as far as the account has something missing: a page may hold what was deleted long ago. What an
account says was recorded and is not found counts as quarantined: it lies in the file
that was set aside.

Detectors begin anew, because their states have no checksum of their own.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftpost_agent.page_reader import Pages, Value
from driftpost_agent.store_file import PAGE_BYTES, checksum
from driftpost_sync.outbox_row import OutboxRow, row_crc

log = logging.getLogger(__name__)

# Copied as they are, as far as they can be read: none of them is part of an account.
_TABLES = ("finding_log", "activations", "described", "privacy_account", "answered_requests")
_MESSAGE = "id, incarnation, seq, kind, windows, rows, mono, wall, body, crc"
# SQLite quotes a damaged schema in its message, which Python then can't read.
_UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
# Rows asked for at a time; where one of them can't be read they are asked for one by one.
_SLICE = 64
# Ids looked for at most: half a year of windows. A damaged number must not keep the start waiting.
_MOST_IDS = 1 << 16


@dataclass(frozen=True)
class Salvaged:
    """What became of a damaged database.

    Attributes:
        file: where it lies now.
        sha256: of the file, in hex.
        messages: that waited and were taken over.
        lost_windows, lost_rows: recorded, never acknowledged, and not readable any more.
    """

    file: Path
    sha256: str
    messages: int = 0
    lost_windows: int = 0
    lost_rows: int = 0

    @property
    def text(self) -> str:
        """For a person."""
        return (
            f"the database was damaged and is now {self.file.name} (SHA-256 {self.sha256[:16]}...); "
            f"{self.messages} messages that waited were taken over, {self.lost_windows} windows with "
            f"{self.lost_rows} rows can not be read any more"
        )


def salvage(damaged: Path, new: sqlite3.Connection, *, mono: int) -> Salvaged:
    """Take over what can be read, in the caller's transaction on the new database.

    Args:
        damaged: the file that was set aside.
        new: with all tables, all empty.
        mono: ms, for what is started anew.
    """
    digest = checksum(damaged)
    try:
        # Read-only: what was set aside stays as it is, down to its log.
        with closing(sqlite3.connect(f"{damaged.absolute().as_uri()}?mode=ro", uri=True)) as old:
            old.execute("pragma query_only = 1")
            pages = Pages(damaged, PAGE_BYTES)
            incarnations = _incarnations_in(pages, new) | _incarnations(old)
            messages = _take_messages(old, new, incarnations)
            messages += _take_unreached(pages, new, incarnations)
            for table in _TABLES:
                _copy(old, new, table)
    except _UNREADABLE as error:
        log.warning("nothing could be read of %s: %s", damaged.name, error)
        return Salvaged(damaged, digest)
    lost_windows, lost_rows = _settle_accounts(new, incarnations, mono)
    return Salvaged(damaged, digest, messages, lost_windows, lost_rows)


def _incarnations(old: sqlite3.Connection) -> dict[int, dict[str, object]]:
    return {int(str(row["incarnation"])): row for row in _rows(old, "incarnations")}


def _rows(old: sqlite3.Connection, table: str) -> Iterator[dict[str, object]]:
    """Rows of a table, in order, up to the first that can't be read."""
    try:
        cursor = old.execute(f"select * from {table}")
        names = [column[0] for column in cursor.description]
        while (row := cursor.fetchone()) is not None:
            yield dict(zip(names, row, strict=True))
    except _UNREADABLE as error:
        log.warning("the table %s can be read in part only: %s", table, error)


def _take_messages(
    old: sqlite3.Connection, new: sqlite3.Connection, incarnations: dict[int, dict[str, object]]
) -> int:
    """Copy all messages that are whole and not acknowledged; returns how many wait."""
    waiting = 0
    for *fields, crc, status in _messages(old, incarnations):
        row = OutboxRow(*fields)
        if not isinstance(row.body, bytes) or row_crc(row) != crc:
            continue
        new.execute(
            f"insert or ignore into messages ({_MESSAGE}, status, sent, coarse)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0)",
            (*fields, crc, status),
        )
        waiting += status == 0
        # The account of an incarnation that can't be read is what is left of its messages.
        known = incarnations.setdefault(row.incarnation, {"first_id": row.id - row.seq + 1, "last_seq": 0})
        known["last_seq"] = max(int(str(known["last_seq"])), row.seq)
    for absorbed in _rows(old, "absorbed"):
        new.execute(
            "insert or ignore into absorbed select ?1, ?2, ?3, ?4"
            " where exists (select 1 from messages where id = ?1)",
            tuple(absorbed[name] for name in ("id", "incarnation", "windows", "rows")),
        )
    for note in _rows(old, "quarantine"):
        new.execute(
            "insert or ignore into quarantine values (?, ?, ?)",
            tuple(note[name] for name in ("id", "reason", "mono")),
        )
    return waiting


def _messages(
    old: sqlite3.Connection, incarnations: dict[int, dict[str, object]]
) -> Iterator[tuple[Any, ...]]:
    """Pending and quarantined messages by their ids, past those that can't be read."""
    query = f"select {_MESSAGE}, status from messages not indexed where id between ? and ? and status != 1"
    for first, count in _spans(old, incarnations):
        for start in range(first, first + count, _SLICE):
            end = min(start + _SLICE, first + count) - 1
            try:
                yield from old.execute(query, (start, end)).fetchall()
            except _UNREADABLE:
                for one in range(start, end + 1):
                    try:
                        yield from old.execute(query, (one, one)).fetchall()
                    except _UNREADABLE:
                        continue


def _spans(old: sqlite3.Connection, incarnations: dict[int, dict[str, object]]) -> list[tuple[int, int]]:
    """Where ids may lie: first one and how many."""
    try:
        low, high = old.execute("select min(id), max(id) from messages not indexed").fetchone()
        if low is not None and 0 < low <= high < low + _MOST_IDS:
            return [(int(low), int(high) - int(low) + 1)]
    except _UNREADABLE:
        pass
    # The edges can't be read. The accounts know, unless they are damaged as well.
    known = [(int(str(one["first_id"])), int(str(one["last_seq"]))) for one in incarnations.values()]
    return [(first, count) for first, count in known if first > 0 and 0 < count <= _MOST_IDS] or [
        (1, 1 << 14)
    ]


def _incarnations_in(pages: Pages, new: sqlite3.Connection) -> dict[int, dict[str, object]]:
    """Accounts in the pages themselves: of each incarnation the one that has recorded most."""
    names = _stored_columns(new, "incarnations")
    found: dict[int, dict[str, object]] = {}
    for row_id, values in pages.rows():
        row: dict[str, object] = dict(zip(names, [row_id, *values[1:]], strict=False))
        if len(values) == len(names) and values[0] is None and _is_account(row):
            before = found.get(row_id)
            if before is None or int(str(before["recorded_rows"])) <= int(str(row["recorded_rows"])):
                found[row_id] = row
    return found


def _is_account(row: dict[str, object]) -> bool:
    """Whether a row can be an account: it has no checksum of its own."""
    numbers = [
        row[name] for name in row if name.endswith(("_windows", "_rows")) or name in {"first_id", "last_seq"}
    ]
    if not isinstance(row["boot"], str) or not isinstance(row["started_mono"], int):
        return False
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        return False
    return all(
        int(str(row[f"acked_{what}"])) + int(str(row[f"quarantined_{what}"]))
        <= int(str(row[f"recorded_{what}"]))
        for what in ("windows", "rows")
    )


def _take_unreached(pages: Pages, new: sqlite3.Connection, incarnations: dict[int, dict[str, object]]) -> int:
    """Copy waiting messages that only the pages themselves show; returns how many."""
    names = _stored_columns(new, "messages")
    versions: dict[int, OutboxRow] = {}
    acknowledged: set[int] = set()
    for row_id, values in pages.rows():
        if len(values) != len(names) or values[0] is not None:
            continue
        plain: dict[str, Value] = dict(zip(names, [row_id, *values[1:]], strict=True))
        row = _message(plain)
        if row is None:
            continue
        if plain["status"] != 0:
            acknowledged.add(row.id)
        # Of several versions the coarsest is the last.
        elif row.id not in versions or row.windows >= versions[row.id].windows:
            versions[row.id] = row
    taken = 0
    for row in sorted(versions.values(), key=lambda one: (-one.windows, -one.id)):
        account = incarnations.get(row.incarnation)
        if row.id in acknowledged or account is None or row.id - row.seq + 1 != account.get("first_id"):
            continue
        if all(
            count <= _missing(new, account, row.incarnation, what)
            for what, count in (("windows", row.windows), ("rows", row.rows))
        ):
            done = new.execute(
                f"insert or ignore into messages ({_MESSAGE}, status, sent, coarse)"
                " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 1, 0)",
                (
                    row.id,
                    row.incarnation,
                    row.seq,
                    row.kind,
                    row.windows,
                    row.rows,
                    row.mono,
                    row.wall,
                    row.body,
                    row_crc(row),
                ),
            )
            taken += done.rowcount
    return taken


def _message(plain: dict[str, Value]) -> OutboxRow | None:
    """A message whose checksum fits, or None."""
    names = ("id", "incarnation", "seq", "kind", "windows", "rows", "mono", "wall", "body")
    row = OutboxRow(*(plain[name] for name in names))  # type: ignore[arg-type]  # the checksum tells
    if not isinstance(row.body, bytes) or not isinstance(plain["status"], int):
        return None
    return row if row_crc(row) == plain["crc"] else None


def _missing(new: sqlite3.Connection, account: dict[str, object], incarnation: int, what: str) -> int:
    """Windows or rows that an account has recorded and that are nowhere yet."""
    (found,) = new.execute(
        f"select coalesce(sum({what}), 0) from shares where incarnation = ? and status != 1", (incarnation,)
    ).fetchone()
    recorded, acked = (int(str(account.get(f"{name}_{what}", 0))) for name in ("recorded", "acked"))
    return recorded - acked - int(found)


def _stored_columns(db: sqlite3.Connection, table: str) -> list[str]:
    """A table's columns as they lie in its rows; `table_info` leaves out what is computed."""
    return [str(row[1]) for row in db.execute(f"pragma table_info({table})").fetchall()]


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> None:
    known = {row[1] for row in new.execute(f"pragma table_info({table})").fetchall()}
    for row in _rows(old, table):
        names = [name for name in row if name in known]
        if names:
            marks = ", ".join("?" * len(names))
            new.execute(
                f"insert or ignore into {table} ({', '.join(names)}) values ({marks})",
                [row[name] for name in names],
            )


def _settle_accounts(
    new: sqlite3.Connection, incarnations: dict[int, dict[str, object]], mono: int
) -> tuple[int, int]:
    """Write the accounts so that they balance; returns windows and rows that are lost."""
    known = {row[1] for row in new.execute("pragma table_info(incarnations)").fetchall()}
    lost_windows = lost_rows = 0
    for incarnation, plain in incarnations.items():
        row = {name: value for name, value in plain.items() if name in known}
        row |= {"incarnation": incarnation, "started_mono": row.get("started_mono", mono)}
        for what in ("windows", "rows"):
            sums = new.execute(
                f"select coalesce(sum(case when status = 0 then {what} end), 0),"
                f" coalesce(sum(case when status = 2 then {what} end), 0) from shares where incarnation = ?",
                (incarnation,),
            ).fetchone()
            pending, aside = int(sums[0]), int(sums[1])
            acked = int(str(row.get(f"acked_{what}", 0)))
            recorded = max(int(str(row.get(f"recorded_{what}", 0))), acked + pending + aside)
            before = max(aside, int(str(row.get(f"quarantined_{what}", 0))))
            row |= {
                f"recorded_{what}": recorded,
                f"acked_{what}": acked,
                f"quarantined_{what}": recorded - acked - pending,
            }
            lost = max(0, recorded - acked - pending - before)
            if what == "windows":
                lost_windows += lost
            else:
                lost_rows += lost
        marks = ", ".join("?" * len(row))
        new.execute(
            f"insert or replace into incarnations ({', '.join(row)}) values ({marks})", list(row.values())
        )
    return lost_windows, lost_rows
