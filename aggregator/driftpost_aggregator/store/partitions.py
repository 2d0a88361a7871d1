"""Parts of PostgreSQL's large tables, by time: made ahead, and dropped whole when nobody needs them any more.

What falls into no part (data of months ago, the first day) lies in the default part, and is deleted row by
row. SQLite has no parts.
"""

from __future__ import annotations

import re

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

    Only of the future: the default part may hold rows of now, which would have to move.

    Returns:
        Names of those that were made.
    """
    if connection.dialect.name != "postgresql":
        return []
    wanted = [
        (f"windows_{begin}_{end}", "windows", f"({begin})", f"({end})")
        for begin, end in _next(now_ms, DAY_MS)
    ]
    for bucket_s in bucket_lengths:
        wanted += [
            (f"rollups_{bucket_s}_{begin}_{end}", "rollups", f"({bucket_s}, {begin})", f"({bucket_s}, {end})")
            for begin, end in _next(now_ms, span_ms(bucket_s))
        ]
    existing = set(_parts(connection, "windows")) | set(_parts(connection, "rollups"))
    made = []
    for name, table, begin, end in wanted:
        if name not in existing:
            connection.execute(
                text(f"CREATE TABLE {name} PARTITION OF {table} FOR VALUES FROM {begin} TO {end}")
            )
            made.append(name)
    return made


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
    prefix = table if bucket_s is None else f"{table}_{bucket_s}"
    for name in _parts(connection, table):
        match = _NAME.fullmatch(name)
        if match is None or not name.startswith(f"{prefix}_") or int(match[2]) > before_ms:
            continue
        if table == "windows":
            waiting = connection.execute(text(f"SELECT 1 FROM {name} WHERE NOT merged LIMIT 1")).first()
            if waiting is not None:
                continue
        connection.execute(text(f"DROP TABLE {name}"))
        dropped.append(name)
    return dropped


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
