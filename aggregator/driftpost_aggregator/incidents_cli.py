"""The command `driftpost incidents`: look at them, and do what the dashboard can do."""

from __future__ import annotations

import getpass
import json
import re
from datetime import datetime, timezone
from pathlib import Path

import click

from driftpost_aggregator import incidents as life
from driftpost_aggregator.cli import CONFIG, database
from driftpost_aggregator.store.database import reading
from driftpost_aggregator.times import wall_ms
from driftpost_aggregator.web.plain import plain
from driftpost_aggregator.web.queries import incidents as queries

_SPAN = re.compile(r"(\d{1,6})([mhd])")
_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MOST = 500
_ACTOR = click.option("--actor", help="Who does it; your login name by default.")
_INCIDENT = click.argument("incident")


@click.group()
def incidents() -> None:
    """List, acknowledge, mute, resolve and reopen incidents, and write notes."""


@incidents.command("list")
@CONFIG
@click.option("--state", type=click.Choice(queries.STATES), default="standing", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def list_command(config: Path, state: str, as_json: bool) -> None:
    """Incidents, last opened first."""
    with database(config) as (_, engine), reading(engine) as connection:
        found = queries.list_incidents(connection, state=state, limit=_MOST)
    if as_json:
        click.echo(json.dumps(plain(found.items), indent=2))
        return
    for one in found.items:
        until = f" until {_stamp(one.muted_until_ms)}" if one.state == "muted" and one.muted_until_ms else ""
        click.echo(f"{one.incident}  {one.state}{until}  {one.affected}/{one.members}  {one.cause}")
    if not found.items:
        click.echo("none")


@incidents.command()
@CONFIG
@_INCIDENT
def show(config: Path, incident: str) -> None:
    """One incident and what happened to it."""
    with database(config) as (_, engine), reading(engine) as connection:
        found = queries.incident_named(connection, incident)
        events = queries.events_of(connection, incident)
    if found is None:
        raise click.ClickException(
            f"no incident {incident!r}; list them with `driftpost incidents list --state all`"
        )
    click.echo(f"{found.incident}  {found.state}  {found.kind}  {found.scope}")
    click.echo(found.cause)
    for event in reversed(events):
        click.echo(f"  {_stamp(event.at_ms)}  {event.event}  {event.actor}: {event.text}")


@incidents.command()
@CONFIG
@_ACTOR
@_INCIDENT
def acknowledge(config: Path, actor: str | None, incident: str) -> None:
    """Someone looks after it."""
    with database(config) as (_, engine):
        life.acknowledge(engine, incident, actor=_who(actor), now_ms=wall_ms())
    click.echo(f"{incident} is acknowledged")


@incidents.command()
@CONFIG
@_ACTOR
@click.option("--for", "span", required=True, metavar="SPAN", help="For how long: 30m, 4h, 3d.")
@_INCIDENT
def mute(config: Path, actor: str | None, span: str, incident: str) -> None:
    """No alert and no request from it for a while; it goes on collecting evidence."""
    found = _SPAN.fullmatch(span)
    if found is None:
        raise click.ClickException(f"{span!r} is no span of time; write 30m, 4h or 3d")
    until_ms = wall_ms() + int(found[1]) * _MS[found[2]]
    with database(config) as (_, engine):
        life.mute(engine, incident, until_ms=until_ms, actor=_who(actor), now_ms=wall_ms())
    click.echo(f"{incident} is muted until {_stamp(until_ms)}")


@incidents.command()
@CONFIG
@_ACTOR
@_INCIDENT
def unmute(config: Path, actor: str | None, incident: str) -> None:
    """A muted one is open again."""
    with database(config) as (_, engine):
        life.unmute(engine, incident, actor=_who(actor), now_ms=wall_ms())
    click.echo(f"{incident} is open")


@incidents.command()
@CONFIG
@_ACTOR
@click.option("--note", default="", help="Why.")
@_INCIDENT
def resolve(config: Path, actor: str | None, note: str, incident: str) -> None:
    """Declare it over; a renewed cause reopens it."""
    with database(config) as (_, engine):
        life.resolve(engine, incident, actor=_who(actor), now_ms=wall_ms(), text=note)
    click.echo(f"{incident} is resolved")


@incidents.command()
@CONFIG
@_ACTOR
@click.option("--note", default="", help="Why.")
@_INCIDENT
def reopen(config: Path, actor: str | None, note: str, incident: str) -> None:
    """Take a resolution back; if nothing of it stands any more, the evidence resolves it again."""
    with database(config) as (_, engine):
        life.reopen(engine, incident, actor=_who(actor), now_ms=wall_ms(), text=note)
    click.echo(f"{incident} is open")


@incidents.command()
@CONFIG
@_ACTOR
@_INCIDENT
@click.argument("text")
def note(config: Path, actor: str | None, incident: str, text: str) -> None:
    """Write down what you found."""
    with database(config) as (_, engine):
        life.note(engine, incident, text=text, actor=_who(actor), now_ms=wall_ms())
    click.echo("noted")


def _who(actor: str | None) -> str:
    if actor == life.AGGREGATOR:
        raise click.ClickException("that is the aggregator's own name; give yours with --actor")
    if actor:
        return actor
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise click.ClickException("nobody is logged in under a name; give yours with --actor") from error


def _stamp(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
