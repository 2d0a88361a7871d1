"""Room for months offline: windows that wait are merged with their neighbours when they outgrow their budget.

Windows merge exactly (see `driftpost_sketches.window`), so nothing is lost but resolution in time: minutes
become hours, hours become days. The shortest neighbours go first, the oldest of them before the others, so
that the whole outage keeps about the same resolution. A window that may have left the device is never
touched: the aggregator could have it already.

A coarse window keeps the identity of its latest part. What earlier incarnations recorded of it stands in the
table `absorbed`, so that every incarnation's account still balances.
"""

from __future__ import annotations

import heapq
import sqlite3
from dataclasses import dataclass, replace

from driftpost_sketches.errors import IncompatibleSketch, SketchError
from driftpost_sketches.window import Window
from driftpost_sync.errors import MalformedMessage, MessageTooLarge
from driftpost_sync.messages import WindowBody
from driftpost_sync.outbox import Outbox
from driftpost_sync.outbox_fill import STORED_BYTES
from driftpost_sync.outbox_row import OutboxRow, row_crc

# Merging stops this far below the budget, so that it does not begin anew with every window.
LEAVE_FREE = 0.125
# Merges in one transaction at most: a second of work on a small board; the next window goes on with the rest.
MAX_MERGES = 256


@dataclass
class _Place:
    """A window that waits, in the list of those around it."""

    id: int
    windows: int
    size: int
    before: int | None = None
    after: int | None = None


def coarsen(connection: sqlite3.Connection, outbox: Outbox, budget_bytes: int, *, now: int) -> int:
    """Merges waiting windows until all that waits fits its budget, in the caller's transaction.

    Args:
        connection: the outbox's.
        outbox: whose windows.
        budget_bytes: bodies of all pending messages together.
        now: monotonic ms, for the quarantine of rows found damaged.

    Returns:
        Windows that were merged into their successor.
    """
    waiting = outbox.pending().bytes
    if waiting <= budget_bytes:
        return 0
    excess = waiting - round(budget_bytes * (1.0 - LEAVE_FREE))
    places = _places(connection)
    # (windows together, older id, newer id): the pairs as they were when they were entered.
    pairs = [
        (p.windows + places[p.after].windows, p.id, p.after) for p in places.values() if p.after is not None
    ]
    heapq.heapify(pairs)
    merged = 0
    while excess > 0 and pairs and merged < MAX_MERGES:
        together, older, newer = heapq.heappop(pairs)
        first, second = places.get(older), places.get(newer)
        if first is None or second is None or first.after != newer:
            continue
        if first.windows + second.windows != together:
            continue  # one of them has grown since; a later entry has them as they are
        rows = outbox.read(older, now), outbox.read(newer, now)
        for place, row in zip((first, second), rows, strict=True):
            if row is None:
                excess -= place.size
                _unlink(places, place)
        if rows[0] is None or rows[1] is None:
            continue
        body = _merged(connection, outbox, rows[0], rows[1], now)
        if body is None:
            first.after = second.before = None
            continue
        _write(connection, rows[0], rows[1], body)
        merged += 1
        excess -= first.size + second.size - len(body)
        _unlink(places, first)
        second.windows, second.size = together, len(body)
        for left, right in ((second.before, newer), (newer, second.after)):
            if left is not None and right is not None:
                heapq.heappush(pairs, (places[left].windows + places[right].windows, left, right))
    return merged


def _places(connection: sqlite3.Connection) -> dict[int, _Place]:
    found = connection.execute(
        f"SELECT id, windows, {STORED_BYTES}, sent FROM messages INDEXED BY messages_pending"
        " WHERE status = 0 AND kind = 'window' AND id NOT IN (SELECT id FROM quarantine) ORDER BY id"
    )
    places: dict[int, _Place] = {}
    last: _Place | None = None
    for row_id, windows, size, sent in found:
        if sent:
            last = None  # merging across it would put its time into another's
            continue
        place = _Place(row_id, windows, size, before=None if last is None else last.id)
        if last is not None:
            last.after = row_id
        places[row_id] = last = place
    return places


def _unlink(places: dict[int, _Place], place: _Place) -> None:
    del places[place.id]
    if place.before is not None:
        places[place.before].after = place.after
    if place.after is not None:
        places[place.after].before = place.before


def _merged(
    connection: sqlite3.Connection, outbox: Outbox, older: OutboxRow, newer: OutboxRow, now: int
) -> bytes | None:
    """The body of both, or None if they are not to be one window."""
    bodies, windows = [], []
    for row in (older, newer):
        try:
            body = WindowBody.from_bytes(row.body)
            windows.append(Window.from_bytes(body.window))
        except (MalformedMessage, SketchError):
            return None  # stored whole and not readable: the aggregator shall say what is wrong with it
        bodies.append(body)
    first, second = bodies
    if first.bundle != second.bundle:
        return None
    try:
        window = windows[0].merge(windows[1])
    except (IncompatibleSketch, SketchError):
        return None
    start = first.mono_start
    if not _same_boot(connection, older.incarnation, newer.incarnation):
        # Monotonic times of two boots can not be compared: the time that was watched is what remains true.
        start = max(0, second.mono_start - (first.mono_end - first.mono_start))
    try:
        return replace(
            second,
            mono_start=min(start, second.mono_start),
            wall_start=first.wall_start,
            window=window.to_bytes(),
        ).to_bytes()
    except MessageTooLarge:
        return None


def _same_boot(connection: sqlite3.Connection, one: int, other: int) -> bool:
    if one == other:
        return True
    boots = connection.execute(
        "SELECT DISTINCT boot FROM incarnations WHERE incarnation IN (?, ?)", (one, other)
    ).fetchall()
    return len(boots) == 1 and boots[0][0] != ""


def _write(connection: sqlite3.Connection, older: OutboxRow, newer: OutboxRow, body: bytes) -> None:
    connection.execute(
        "UPDATE incarnations"
        " SET merged_windows = merged_windows + m.windows, merged_rows = merged_rows + m.rows"
        " FROM (SELECT incarnation AS of, sum(windows) AS windows, sum(rows) AS rows FROM messages"
        " WHERE id IN (?, ?) AND coarse = 0 GROUP BY incarnation) AS m WHERE incarnation = m.of",
        (older.id, newer.id),
    )
    shares = connection.execute(
        "SELECT incarnation, windows, rows FROM shares WHERE id = ?", (older.id,)
    ).fetchall()
    connection.executemany(
        "INSERT INTO absorbed (id, incarnation, windows, rows) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (id, incarnation) DO UPDATE SET"
        " windows = windows + excluded.windows, rows = rows + excluded.rows",
        [(newer.id, *share) for share in shares if share[0] != newer.incarnation and share[1:] != (0, 0)],
    )
    row = replace(newer, windows=older.windows + newer.windows, rows=older.rows + newer.rows, body=body)
    connection.execute(
        # Without filling: what waits for long is written seldom, and shall be small.
        "UPDATE messages SET windows = ?, rows = ?, coarse = 1, crc = ?, body = ?, fill = NULL WHERE id = ?",
        (row.windows, row.rows, row_crc(row), body, newer.id),
    )
    connection.execute("DELETE FROM absorbed WHERE id = ?", (older.id,))
    connection.execute("DELETE FROM messages WHERE id = ?", (older.id,))
