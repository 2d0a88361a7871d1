"""The outbox's tables, as any SQLite shell shows them."""

from __future__ import annotations

import sqlite3

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
        lost_rows_at_start INTEGER NOT NULL DEFAULT 0,
        closed INTEGER NOT NULL DEFAULT 0     -- windows that were closed and stored, in whatever form
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
        fill BLOB,                            -- zeros: see outbox_fill.py
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
