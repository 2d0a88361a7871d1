"""Parts of PostgreSQL's large tables, by time: made ahead, and dropped whole when nobody needs them any more.

What falls into no part (data of months ago, the first day) lies in the default part, and is deleted row by
row. SQLite has no parts.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sqlalchemy import Connection, text

DAY_MS = 86_400_000
# Parts made ahead of time, counted in parts: an aggregator that was off for a day still finds one.
AHEAD = 3
_NAME = re.compile(r"(?:windows|rollups_\d+)_(\d+)_(\d+)", re.ASCII)


def span_ms(bucket_s: int) -> int:
    """Length of the parts of rollups of some bucket length: a day for minutes, four weeks for hours."""
    if bucket_s < 3_600:
        return DAY_MS
    return 28 * DAY_MS if bucket_s < 86_400 else 364 * DAY_MS


def make_ahead(connection: Connection, now_ms: int, bucket_lengths: tuple[int, ...]) -> list[str]:
    """Make the parts of the near future that do not exist, in the caller's write transaction.

    Only of the future: the default part may hold many rows of now, which would have to move. What it holds of
    the future (from a time when our clock was ahead) does move.

    Returns:
        Names of those that were made.
    """
    if connection.dialect.name != "postgresql":
        return []
    wanted = [_Part("windows", None, begin, end) for begin, end in _next(now_ms, DAY_MS)]
    for bucket_s in bucket_lengths:
        wanted += [_Part("rollups", bucket_s, *span) for span in _next(now_ms, span_ms(bucket_s))]
    existing = set(_parts(connection, "windows")) | set(_parts(connection, "rollups"))
    made = [part for part in wanted if part.name not in existing]
    for part in made:
        _make(connection, part)
    return [part.name for part in made]


class _Part(NamedTuple):
    """Of windows (`bucket_s` None) or rollups of one length; `begin` to `end` in Unix ms."""

    table: str
    bucket_s: int | None
    begin: int
    end: int

    @property
    def name(self) -> str:
        prefix = self.table if self.bucket_s is None else f"{self.table}_{self.bucket_s}"
        return f"{prefix}_{self.begin}_{self.end}"

    @property
    def bounds(self) -> str:
        if self.bucket_s is None:
            return f"FOR VALUES FROM ({self.begin}) TO ({self.end})"
        return f"FOR VALUES FROM ({self.bucket_s}, {self.begin}) TO ({self.bucket_s}, {self.end})"

    @property
    def holds(self) -> str:
        if self.bucket_s is None:
            return f"received_ms >= {self.begin} AND received_ms < {self.end}"
        return (
            f"bucket_s = {self.bucket_s} AND bucket_start_ms >= {self.begin} AND bucket_start_ms < {self.end}"
        )


def _make(connection: Connection, part: _Part) -> None:
    """Make a part, with the rows that the default part holds of its time."""
    # Nothing may come into the default part between looking and making.
    connection.execute(text(f"LOCK TABLE ONLY {part.table} IN ACCESS EXCLUSIVE MODE"))
    default = f"{part.table}_default"
    if connection.execute(text(f"SELECT 1 FROM {default} WHERE {part.holds} LIMIT 1")).first() is None:
        connection.execute(text(f"CREATE TABLE {part.name} PARTITION OF {part.table} {part.bounds}"))
        return
    connection.execute(
        text(f"CREATE TABLE {part.name} (LIKE {part.table} INCLUDING DEFAULTS INCLUDING STORAGE)")
    )
    moved = f"DELETE FROM {default} WHERE {part.holds} RETURNING *"
    connection.execute(text(f"WITH moved AS ({moved}) INSERT INTO {part.name} SELECT * FROM moved"))
    connection.execute(text(f"ALTER TABLE {part.table} ATTACH PARTITION {part.name} {part.bounds}"))


def drop_before(connection: Connection, table: str, before_ms: int, bucket_s: int | None = None) -> list[str]:
    """Drop the parts that end before a moment and hold nothing that still waits, in a write transaction.

    Args:
        connection: in a write transaction.
        table: windows or rollups.
        before_ms: Unix ms.
        bucket_s: of rollups, the length of the buckets.

    Returns:
        Names of those that were dropped.
    """
    if connection.dialect.name != "postgresql":
        return []
    dropped = []
    for name in parts_before(connection, table, before_ms, bucket_s):
        if table == "windows":
            waiting = connection.execute(text(f"SELECT 1 FROM {name} WHERE NOT merged LIMIT 1")).first()
            if waiting is not None:
                continue
        connection.execute(text(f"DROP TABLE {name}"))
        dropped.append(name)
    return dropped


def parts_before(
    connection: Connection, table: str, before_ms: int, bucket_s: int | None = None
) -> list[str]:
    """Names of the parts that end before a moment; arguments as `drop_before`."""
    prefix = table if bucket_s is None else f"{table}_{bucket_s}"
    found = []
    for name in _parts(connection, table):
        match = _NAME.fullmatch(name)
        if match is not None and name.startswith(f"{prefix}_") and int(match[2]) <= before_ms:
            found.append(name)
    return found


def _next(now_ms: int, length_ms: int) -> list[tuple[int, int]]:
    first = now_ms // length_ms + 1
    return [(number * length_ms, (number + 1) * length_ms) for number in range(first, first + AHEAD)]


def _parts(connection: Connection, table: str) -> list[str]:
    rows = connection.execute(
        text(
            "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
            "JOIN pg_class parent ON parent.oid = inhparent WHERE parent.relname = :table ORDER BY 1"
        ),
        {"table": table},
    )
    return list(rows.scalars())
