"""What a device learnt of its own normal, in the store: a head that changes with every window, and parts."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from driftpost_sketches.commissioning.journal import Parts

# Bundles whose normal is kept: the active one and its predecessor, as their files are.
KEPT_BUNDLES = 2


@dataclass
class SiteChange:
    """What has to be stored with a window.

    Attributes:
        schema: id of the bundle's schema, hex.
        head: the state but for its parts.
        parts: those that came and went.
    """

    schema: str
    head: bytes
    parts: Parts = field(default_factory=Parts)


def write(db: sqlite3.Connection, bundle: str, change: SiteChange) -> None:
    """Store a change. Call inside a transaction."""
    db.execute(
        "insert into site_states (bundle, schema, head) values (?, ?, ?)"
        " on conflict (bundle) do update set schema = excluded.schema, head = excluded.head",
        (bundle, change.schema, change.head),
    )
    db.executemany(
        "delete from site_parts where bundle = ? and name = ?", [(bundle, name) for name in change.parts.drop]
    )
    db.executemany(
        "insert or replace into site_parts (bundle, name, data) values (?, ?, ?)",
        [(bundle, name, data) for name, data in change.parts.put.items()],
    )


def read(db: sqlite3.Connection, bundle: str) -> tuple[bytes, dict[str, bytes]] | None:
    """Head and parts of a bundle's site, or None."""
    found = db.execute("select head from site_states where bundle = ?", (bundle,)).fetchone()
    if found is None:
        return None
    parts = db.execute("select name, data from site_parts where bundle = ?", (bundle,)).fetchall()
    return bytes(found[0]), {name: bytes(data) for name, data in parts}


def take_over(db: sqlite3.Connection, bundle: str, schema: str) -> str:
    """Copy what the newest other bundle of this schema learnt; its id, or "". Call inside a transaction."""
    found = db.execute(
        "select bundle from site_states where schema = ? and bundle != ? order by rowid desc limit 1",
        (schema, bundle),
    ).fetchone()
    if found is None:
        return ""
    db.execute(
        "insert or replace into site_states (bundle, schema, head)"
        " select ?, schema, head from site_states where bundle = ?",
        (bundle, found[0]),
    )
    db.execute(
        "insert or replace into site_parts (bundle, name, data)"
        " select ?, name, data from site_parts where bundle = ?",
        (bundle, found[0]),
    )
    return str(found[0])


def prune(db: sqlite3.Connection, bundle: str) -> None:
    """Forget what older bundles learnt than `bundle` and the newest others. Call inside a transaction."""
    old = db.execute(
        "select bundle from site_states where bundle != ? order by rowid desc limit -1 offset ?",
        (bundle, KEPT_BUNDLES - 1),
    ).fetchall()
    for table in ("site_states", "site_parts"):
        db.executemany(f"delete from {table} where bundle = ?", old)
