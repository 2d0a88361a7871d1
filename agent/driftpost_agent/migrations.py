"""The store's schema, as named steps: each applied once, in order, with its record in one transaction.

A step is never edited after a release: what has to change gets a step of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

from driftpost_sync import outbox_schema

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.db import Table

Migration = Callable[["Database"], None]

# The view since a finding says what it was compared with.
_FINDINGS = """
select
    case when f.wall is null then null else datetime(f.wall / 1000, 'unixepoch') || 'Z' end as at,
    round(f.mono / 1000.0, 1) as at_uptime_s,
    f.state, f.kind, f.source, f.baseline, f.streams, f.direction,
    round(f.effect, 3) as effect_sd, round(f.effect_natural, 6) as effect, f.unit,
    f.text, substr(f.bundle, 1, 12) as bundle, f.finding
from finding_log as f
where f.id = (select max(g.id) from finding_log as g where g.finding = f.finding)
order by f.id desc
"""


def m0001_outbox(db: Database) -> None:
    """Messages, their ledger and quarantine: the outbox's own tables."""
    outbox_schema.create_tables(db.conn)


def m0002_agent_tables(db: Database) -> None:
    """Detector state, findings, activations, and which bundles the aggregator has been told of."""
    _table(db, "detector_states").create(
        {"bundle": str, "state": bytes, "windows": int, "standing": str},
        pk="bundle",
        not_null={"state", "windows", "standing"},
    )
    _table(db, "finding_log").create(
        {
            "id": int,
            "finding": str,
            "state": str,
            "bundle": str,
            "source": str,
            "kind": str,
            "streams": str,
            "effect": float,
            "effect_natural": float,
            "unit": str,
            "direction": str,
            "log_e": float,
            "incarnation": int,
            "seq": int,
            "mono": int,
            "wall": int,
            "onset_mono": int,
            "text": str,
        },
        pk="id",
        not_null={"finding", "state", "bundle", "source", "kind", "text"},
    )
    _table(db, "finding_log").create_index(["finding"])
    _table(db, "activations").create(
        {
            "id": int,
            "bundle": str,
            "name": str,
            "version": str,
            "outcome": str,
            "detail": str,
            "incarnation": int,
            "mono": int,
            "wall": int,
        },
        pk="id",
        not_null={"bundle", "outcome"},
    )
    _table(db, "described").create({"bundle": str, "incarnation": int, "seq": int}, pk="bundle")


def m0003_readable_views(db: Database) -> None:
    """What a person with a SQLite shell wants to see first: windows and findings, newest first."""
    db.create_view(
        "windows",
        """
        select
            printf('%d.%08x', incarnation >> 32, incarnation & 0xffffffff) as incarnation, seq,
            case when wall is null then null else datetime(wall / 1000, 'unixepoch') || 'Z' end as closed_at,
            round(mono / 1000.0, 1) as closed_at_uptime_s,
            rows, windows as merged_from, state, length(body) as bytes
        from messages where kind = 'window' order by id desc
        """,
    )
    db.create_view(
        "findings",
        """
        select
            case when f.wall is null then null else datetime(f.wall / 1000, 'unixepoch') || 'Z' end as at,
            round(f.mono / 1000.0, 1) as at_uptime_s,
            f.state, f.kind, f.source, f.streams, f.direction,
            round(f.effect, 3) as effect_sd, round(f.effect_natural, 6) as effect, f.unit,
            f.text, substr(f.bundle, 1, 12) as bundle, f.finding
        from finding_log as f
        where f.id = (select max(g.id) from finding_log as g where g.finding = f.finding)
        order by f.id desc
        """,
    )


def m0004_privacy(db: Database) -> None:
    """Windows that wait for their release with noise, and the account of the privacy budget."""
    _table(db, "privacy_holds").create(
        {
            "bundle": str,
            "body": bytes,
            "span_ms": int,
            "held_rows": int,
            "rows": int,
            "incarnation": int,
        },
        pk="bundle",
        not_null={"body", "span_ms", "held_rows", "rows", "incarnation"},
    )
    _table(db, "privacy_account").create({"id": int, "state": str}, pk="id", not_null={"state"})


def m0005_site(db: Database) -> None:
    """What the device learns of its own normal, and what a finding was compared with."""
    _table(db, "site_states").create(
        {"bundle": str, "schema": str, "head": bytes}, pk="bundle", not_null={"schema", "head"}
    )
    _table(db, "site_parts").create(
        {"bundle": str, "name": str, "data": bytes}, pk=("bundle", "name"), not_null={"data"}
    )
    _table(db, "finding_log").add_column("baseline", str, not_null_default="training")
    db.create_view("findings", _FINDINGS, replace=True)


def m0006_labels(db: Database) -> None:
    """State of the test on delayed labels."""
    _table(db, "label_states").create(
        {"bundle": str, "state": bytes, "standing": str}, pk="bundle", not_null={"state", "standing"}
    )


def m0007_answered(db: Database) -> None:
    """Requests of the aggregator that were answered: each is carried out once."""
    _table(db, "answered_requests").create({"id": int, "request": str}, pk="id", not_null={"request"})
    _table(db, "answered_requests").create_index(["request"], unique=True)


def m0008_kept_answers(db: Database) -> None:
    """Answers that an orderly end leaves to the next start, for labels that come later."""
    _table(db, "kept_answers").create(
        {"bundle": str, "data": bytes}, pk="bundle", not_null={"bundle", "data"}
    )


MIGRATIONS: tuple[Migration, ...] = (
    m0001_outbox,
    m0002_agent_tables,
    m0003_readable_views,
    m0004_privacy,
    m0005_site,
    m0006_labels,
    m0007_answered,
    m0008_kept_answers,
)


def up_to_date(connection: sqlite3.Connection) -> bool:
    """Whether every step was applied already: then sqlite-utils, 10 MB of memory, need not be loaded."""
    known = connection.execute("select 1 from sqlite_master where name = 'migrations'").fetchone()
    if known is None:
        return False
    applied = {row[0] for row in connection.execute("select name from migrations").fetchall()}
    return all(step.__name__ in applied for step in MIGRATIONS)


def migrate(db: Database) -> list[str]:
    """Bring a database up to date; returns the names of the steps that were applied now.

    Args:
        db: over a connection in autocommit mode (`isolation_level=None`).
    """
    db.execute("create table if not exists migrations (name text primary key, applied_at text not null)")
    applied = {row[0] for row in db.execute("select name from migrations").fetchall()}
    done = []
    for step in MIGRATIONS:
        name = step.__name__
        if name in applied:
            continue
        db.execute("begin immediate")
        try:
            step(db)
            db.execute("insert into migrations values (?, datetime('now'))", [name])
        except BaseException:
            # A full disk makes SQLite roll back by itself.
            if db.conn.in_transaction:
                db.execute("rollback")
            raise
        db.execute("commit")
        done.append(name)
    return done


def _table(db: Database, name: str) -> Table:
    from sqlite_utils.db import Table  # noqa: PLC0415 - loaded only where there is something to migrate

    table = db[name]
    assert isinstance(table, Table)
    return table
