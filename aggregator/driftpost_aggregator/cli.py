"""The command `driftpost aggregator`."""

from __future__ import annotations

import base64
import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import DBAPIError

from driftpost_aggregator import audit as audit_log
from driftpost_aggregator.catch_up import catch_up
from driftpost_aggregator.errors import AggregatorError
from driftpost_aggregator.registry import OWNER, Registry, from_plain, register
from driftpost_aggregator.settings import TABLE, database_url, load
from driftpost_aggregator.starter import starter
from driftpost_aggregator.store.database import migrate as migrate_database
from driftpost_aggregator.store.database import open_engine, reading, schema_version, writing
from driftpost_aggregator.store.tables import (
    bundles as bundles_table,
)
from driftpost_aggregator.store.tables import (
    deliveries,
    devices,
    incidents,
    quarantine,
    retrain_requests,
)
from driftpost_aggregator.times import wall_ms
from driftpost_sync.errors import SyncError
from driftpost_sync.settings import Settings
from driftpost_sync.systemd import Notifier

# Standard Webhooks: 24 to 64 bytes.
_SECRET_BYTES = 32
CONFIG = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("aggregator.toml"),
    show_default=True,
    help="The settings file; `driftpost aggregator init` writes a first one.",
)


@contextmanager
def explained() -> Iterator[None]:
    """Refusals of ours end the command with their own words, without a traceback."""
    try:
        yield
    except (AggregatorError, SyncError) as error:
        raise click.ClickException(str(error)) from error
    except DBAPIError as error:
        raise click.ClickException(f"the database refused: {error.orig}") from error


@contextmanager
def database(config: Path, *, migrated: bool = True) -> Iterator[tuple[Settings, Engine]]:
    """The configured database; with `migrated`, one that has a schema already."""
    with explained():
        settings = load(config)
        engine = open_engine(database_url(settings))
        try:
            if migrated and schema_version(engine) is None:
                raise click.ClickException(
                    "the database is empty; `driftpost aggregator run` fills it, "
                    "or `driftpost aggregator migrate`"
                )
            yield settings, engine
        finally:
            engine.dispose()


@click.group()
def aggregator() -> None:
    """Merge a fleet, open incidents, ask for retraining, show the dashboard."""


@aggregator.command()
@CONFIG
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning"]), default="info", show_default=True
)
def run(config: Path, log_level: str) -> None:
    """Run until SIGTERM or Ctrl-C."""
    # The dashboard's libraries take longer to load than every other command takes to run.
    from driftpost_aggregator.service import Aggregator  # noqa: PLC0415

    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(threadName)s %(name)s: %(message)s")
    # httpx tells of every request at this level; the delivery loop says it better.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    exit_event = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: exit_event.set())
    with explained():
        Aggregator(load(config), exit_event).run(Notifier())


@aggregator.command()
@CONFIG
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning"]), default="info", show_default=True
)
def worker(config: Path, log_level: str) -> None:
    """Only take messages, beside `run` and other workers, until SIGTERM or Ctrl-C.

    All of them share the broker's messages: give `run` an mqtt.share_group, which workers join (without one
    it takes every message too, and counts those that a worker was faster with as repeated).
    """
    from driftpost_aggregator.worker import Worker  # noqa: PLC0415

    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(threadName)s %(name)s: %(message)s")
    exit_event = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: exit_event.set())
    with explained():
        Worker(load(config), exit_event).run(Notifier())


@aggregator.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), default=Path("aggregator.toml"))
def init(path: Path) -> None:
    """Write a first settings file, commented."""
    if path.exists():
        raise click.ClickException(f"{path} exists already; edit it, or give another name")
    path.write_text(starter(path), encoding="utf-8")
    click.echo(f"wrote {path}; run it with: driftpost aggregator run --config {path}")


@aggregator.command()
@CONFIG
def migrate(config: Path) -> None:
    """Bring the database to this version's schema (`run` does it too)."""
    with database(config, migrated=False) as (_, engine):
        applied = migrate_database(engine)
        click.echo("applied " + ", ".join(applied) if applied else f"already at {schema_version(engine)}")


@aggregator.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def secret(path: Path) -> None:
    """Write a new webhook secret into a file that only you can read."""
    text = "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode("ascii")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text + "\n")
    click.echo(f"wrote {path}; give its content to the receiver")


@aggregator.command()
@CONFIG
def status(config: Path) -> None:
    """What the database says about the fleet, in a few lines."""
    with database(config) as (settings, engine):
        version = schema_version(engine)
        with reading(engine) as connection:
            online, total, windows, rows = connection.execute(
                select(
                    func.count().filter(devices.c.online),
                    func.count(),
                    func.coalesce(func.sum(devices.c.windows), 0),
                    func.coalesce(func.sum(devices.c.rows), 0),
                )
            ).one()
            set_aside = connection.execute(select(func.count()).select_from(quarantine)).scalar_one()
            open_now = connection.execute(
                select(incidents.c.incident, incidents.c.state, incidents.c.cause)
                .where(incidents.c.state.in_(("open", "acknowledged", "muted")))
                .order_by(incidents.c.opened_ms)
            ).all()
            asked = connection.execute(
                select(retrain_requests.c.state, func.count()).group_by(retrain_requests.c.state)
            ).all()
            waiting = connection.execute(
                select(func.count()).select_from(deliveries).where(deliveries.c.state == "pending")
            ).scalar_one()
    click.echo(f"fleet        {settings.text('fleet.name')}, {online} of {total} devices online")
    click.echo(f"taken        {windows:,} windows of {rows:,} inferences; {set_aside} messages in quarantine")
    click.echo(f"requests     {', '.join(f'{count} {state}' for state, count in asked) or 'none'}")
    click.echo(f"deliveries   {waiting} waiting")
    click.echo(f"schema       {version}")
    click.echo(f"incidents    {len(open_now) or 'none'}")
    for row in open_now:
        click.echo(f"  {row.incident}  {row.state}  {row.cause}")


@aggregator.command()
def settings() -> None:
    """Every setting, with type, default and meaning."""
    click.echo(TABLE.reference_page(), nl=False)


@aggregator.group()
def bundles() -> None:
    """Bundles whose windows the aggregator can read."""


@bundles.command("list")
@CONFIG
def list_bundles(config: Path) -> None:
    """Known bundles, newest first."""
    with database(config) as (_, engine), reading(engine) as connection:
        rows = connection.execute(select(bundles_table).order_by(bundles_table.c.added_ms.desc())).all()
    for row in rows:
        source = "from its file" if row.source == OWNER else f"described by {row.source}"
        click.echo(f"{row.bundle[:16]}  {row.name} {row.version}  model {row.model_sha256[:12]}  {source}")
    if not rows:
        click.echo(
            "none yet; devices describe what they run, or add one: driftpost aggregator bundles add FILE"
        )


@bundles.command("add")
@CONFIG
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def add_bundle(config: Path, file: Path) -> None:
    """Register a bundle from its file; its word counts more than a device's."""
    # A bundle file needs the models package; a running aggregator never opens one.
    from driftpost_models.bundle import Bundle, describe  # noqa: PLC0415
    from driftpost_models.errors import ModelError  # noqa: PLC0415

    with database(config, migrated=False) as (settings, engine):
        try:
            body = from_plain(describe(Bundle.open(file, None)))
        except ModelError as error:
            raise click.ClickException(str(error)) from error
        migrate_database(engine)
        with writing(engine) as connection:
            new = register(connection, body, source=OWNER, now_ms=wall_ms())
            merged = catch_up(
                connection,
                Registry(),
                body.bundle,
                bucket_s=settings.integer("rollups.bucket_s"),
                now_ms=wall_ms(),
            )
    click.echo(f"{body.bundle[:16]}  {body.name} {body.version}  {'added' if new else 'known already'}")
    if merged:
        click.echo(f"{merged} windows that had waited for it are merged")


@aggregator.group()
def audit() -> None:
    """The log of every change, hash-chained."""


@audit.command()
@CONFIG
def verify(config: Path) -> None:
    """Walk the whole chain; exit status 1 if any row was changed, removed or inserted."""
    with database(config) as (_, engine), reading(engine) as connection:
        chain = audit_log.verify(connection)
    click.echo(f"{chain.rows} rows, unbroken; head {chain.head}")
