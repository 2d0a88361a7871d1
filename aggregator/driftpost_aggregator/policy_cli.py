"""The command `driftpost policy`: what a retrain policy would have asked for."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import click

from driftpost_aggregator.backtest import Decision, backtest, per_week
from driftpost_aggregator.cli import CONFIG, database
from driftpost_aggregator.settings import TABLE, RetrainPolicy
from driftpost_aggregator.store.database import reading
from driftpost_aggregator.times import wall_ms
from driftpost_sync.settings import Setting, SettingsTable

# A policy alone: the settings of its section, as they stand in aggregator.toml.
POLICY_TABLE = SettingsTable(
    "policy.toml",
    [entry for entry in TABLE.entries if isinstance(entry, Setting) and entry.name.startswith("retrain.")],
)


@click.group()
def policy() -> None:
    """Try a retrain policy on what was recorded."""


@policy.command("backtest")
@CONFIG
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file with a [retrain] section to try; the settings' own by default.",
)
@click.option(
    "--days", type=click.FloatRange(0.01, 3_650), default=30.0, show_default=True, help="How far back."
)
@click.option("--all", "every", is_flag=True, help="Show what would not have asked, too, and why.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def backtest_command(config: Path, policy_file: Path | None, days: float, every: bool, as_json: bool) -> None:
    """Replay a policy over recorded incidents and show what it would have asked for."""
    with database(config) as (settings, engine):
        chosen = POLICY_TABLE.load(policy_file) if policy_file is not None else settings
        rules = RetrainPolicy.from_settings(chosen)
        with reading(engine) as connection:
            decisions = backtest(connection, rules, days=days, now_ms=wall_ms())
    if as_json:
        plain = {
            "days": days,
            "requests": sum(not one.why for one in decisions),
            "per_week": round(per_week(decisions, days), 3),
            "decisions": [one.to_dict() for one in decisions],
        }
        click.echo(json.dumps(plain, indent=2))
        return
    asking = [one for one in decisions if not one.why]
    for line in table(decisions if every else asking):
        click.echo(line)
    made = sum(one.request is not None for one in decisions)
    click.echo(
        f"{_counted(len(asking), 'request')} in {_counted(days, 'day')} "
        f"({per_week(decisions, days):.2g} a week) from {_counted(len(decisions), 'episode')} of incidents; "
        f"{made} {'was' if made == 1 else 'were'} really made"
    )


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def table(decisions: list[Decision]) -> list[str]:
    """Decisions as aligned lines under a heading; none without any."""
    if not decisions:
        return []
    rows = [("when (UTC)", "incident", "where", "kind", "effect", "loss", "devices", "priority", "asks")]
    for one in decisions:
        incident = one.candidate
        when = datetime.fromtimestamp(one.at_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M")
        loss = f"{one.gain:.1%}" + ("?" if incident.loss is None else "")
        asks = one.why or ("yes" if one.request is None else f"yes, as {one.request[:11]}")
        rows.append(
            (
                when,
                incident.incident + (f"/{incident.episode}" if incident.episode else ""),
                incident.scope_key[:40] or incident.scope,
                incident.kind,
                f"{incident.severity:.2g}",
                loss,
                f"{incident.affected}/{incident.members}",
                f"{one.priority:.3g}",
                asks,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
