"""Opening the database: engine, pragmas, write transactions and migrations.

SQLite commits with ``synchronous=FULL``: a device forgets what we have acknowledged, so a commit must
survive a power cut before its acknowledgement leaves. Batches make the one fsync a commit cheap.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from driftpost_aggregator.errors import DatabaseUnusable

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

# How long a writer waits for another one, milliseconds. Ours hold the lock for tens of milliseconds; a
# backup tool may hold it for seconds.
BUSY_TIMEOUT_MS = 30_000
# SQLite's page cache for each connection, KiB: the newest rollups of a fleet of thousands stay in it.
CACHE_KIB = 32_768
# The write-ahead log is cut back to this after a checkpoint, bytes.
WAL_LIMIT = 64 * 1024 * 1024
# SQLite accepts at most 32,766 bound values a statement since 3.32; PostgreSQL 65,535.
MAX_BOUND_VALUES = 30_000

_MIGRATIONS = Path(__file__).parent / "migrations"
# Two aggregators that start together must not both migrate: PostgreSQL's advisory lock of this (arbitrary)
# number.
_MIGRATION_LOCK = 0x6472_6966


def open_engine(url: str, *, pool_size: int = 8) -> Engine:
    """Open the database at an SQLAlchemy URL, ``sqlite:///path`` or ``postgresql+psycopg://...``.

    Raises:
        DatabaseUnusable: the URL makes no sense, its driver is missing, or the database does not answer.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise DatabaseUnusable(
                parsed.render_as_string(),
                "is neither SQLite nor PostgreSQL",
                "use sqlite:///path or postgresql+psycopg://",
            )
        engine = create_engine(
            parsed, pool_size=pool_size, max_overflow=16, pool_pre_ping=parsed.get_backend_name() != "sqlite"
        )
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise DatabaseUnusable(
            _shown(url), str(error), "check database.url and that its driver is installed"
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except OperationalError as error:
        engine.dispose()
        raise DatabaseUnusable(
            _shown(url), str(error.orig), "check that its folder exists and that this user may write to it"
        ) from error
    return engine


def _shown(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "(malformed URL)"


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection)
    # The driver's own idea of when to BEGIN would start every transaction as a reader; _begin_sqlite
    # decides instead.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"cache_size = -{CACHE_KIB}",
        f"journal_size_limit = {WAL_LIMIT}",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    # A reader that turns writer can be refused at once, without waiting, if another wrote meanwhile: so
    # writers say from the start that they are.
    writes = connection.get_execution_options().get("driftpost_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One write transaction: committed at the end of the block, rolled back if it raises."""
    with engine.connect().execution_options(driftpost_writes=True) as connection, connection.begin():
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One read transaction: everything in the block sees the same state."""
    with engine.connect() as connection, connection.begin():
        yield connection


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[dict[str, object]],
    *,
    keep: bool = False,
) -> None:
    """Insert rows, replacing (or, with ``keep``, leaving) those whose primary key is there already.

    Every row must name the same columns; on replacement all of them but the key are overwritten.
    """
    if not rows:
        return
    insert = sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
    keys = [column.name for column in table.primary_key.columns]
    if keep:
        statement = insert.on_conflict_do_nothing(index_elements=keys)
    else:
        statement = insert.on_conflict_do_update(
            index_elements=keys, set_={name: insert.excluded[name] for name in rows[0] if name not in keys}
        )
    connection.execute(statement, list(rows))


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def migrate(engine: Engine) -> list[str]:
    """Bring the schema to this program's version; all steps in one transaction.

    Returns:
        The revisions that were applied, oldest first; empty if there was nothing to do.

    Raises:
        DatabaseUnusable: the database was written by a newer version of this program.
    """
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATION_LOCK})
        config = _alembic(connection)
        scripts = ScriptDirectory.from_config(config)
        known = [script.revision for script in reversed(list(scripts.walk_revisions()))]
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise DatabaseUnusable(
                engine.url.render_as_string(hide_password=True),
                f"has schema {current}, newer than this program's {known[-1]}",
                "install the driftpost version that wrote it, or restore the backup from before the upgrade",
            )
        pending = known if current is None else known[known.index(current) + 1 :]
        if pending:
            command.upgrade(config, "head")
    return pending


def schema_version(engine: Engine) -> str | None:
    """The revision that the database is at, or None if it was never migrated."""
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()
