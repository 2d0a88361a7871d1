"""The command `driftpost labels`: from a person's machine to the aggregator's API."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import BinaryIO

import click

from driftpost_aggregator.errors import AggregatorError
from driftpost_aggregator.labels.reading import CSV, JSON, LINES, Given, Refused, counted, read_labels

_SUFFIXES = {".csv": CSV, ".jsonl": LINES, ".ndjson": LINES, ".json": JSON}
# Lines of a file: what fits a memory of some gigabytes.
MAX_LINES = 5_000_000
# Refused lines that are shown.
_SHOWN = 20
_URL = click.option(
    "--url",
    default="http://127.0.0.1:8088",
    show_default=True,
    envvar="DRIFTPOST_URL",
    help="Address of the aggregator's dashboard.",
)
_TOKEN = click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the dashboard's token (web.token_file of its settings).",
)


@click.group()
def labels() -> None:
    """Send labels that came late to the devices that gave the answers."""


@labels.command()
@click.argument("file", type=click.File("rb"))
@_URL
@_TOKEN
@click.option("--device", help="Device of lines that name none.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "jsonl", "json"]),
    help="By default as the file's name says; CSV for standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="Tell the outcome as JSON.")
def push(
    *,
    file: BinaryIO,
    url: str,
    token_file: Path | None,
    device: str | None,
    kind: str | None,
    as_json: bool,
) -> None:
    """Push labels: CSV with a header, JSON lines, or JSON; - reads standard input.

    Each names a device, an inference by its id or a time, and the true class by number or name. Exit status 1
    if any was refused. Pushing a file again queues nothing twice.
    """
    from driftpost_aggregator.labels.client import Client, Outcome  # noqa: PLC0415  # loads an HTTP client

    chosen = {"csv": CSV, "jsonl": LINES, "json": JSON}.get(kind or "") or _SUFFIXES.get(
        Path(file.name).suffix.lower(), CSV
    )
    try:
        found = read_labels(file.read(), chosen, device=device, most=MAX_LINES)
        bad = [one for one in found if isinstance(one, Refused)]
        good = [one for one in found if isinstance(one, Given)]
        outcome = Outcome()
        with Client(url, _token(token_file)) as client:
            for outcome in client.push(good, actor=_user()):  # noqa: B007  # the last one is told below
                pass
    except AggregatorError as error:
        raise click.ClickException(str(error)) from error
    outcome.lines = sorted([(one.line, one.reason) for one in bad] + outcome.lines)
    for reason, count in counted(one.reason for one in bad).items():
        outcome.refused[reason] = outcome.refused.get(reason, 0) + count
    if as_json:
        click.echo(json.dumps(outcome.__dict__, indent=2))
    else:
        _tell(outcome.queued, outcome.already, outcome.refused, outcome.lines, outcome.pushes)
    if outcome.refused:
        click.get_current_context().exit(1)


def _tell(
    queued: int, already: int, refused: dict[str, int], lines: list[tuple[int, str]], pushes: list[str]
) -> None:
    click.echo(f"queued       {queued:,}" + (f" (as {', '.join(pushes)})" if pushes else ""))
    if already:
        click.echo(f"known        {already:,} were pushed before")
    if refused:
        click.echo(f"refused      {sum(refused.values()):,}")
        for reason, count in refused.items():
            click.echo(f"  {count:,} x {reason}")
        for line, reason in lines[:_SHOWN]:
            click.echo(f"  line {line}: {reason}")
        if sum(refused.values()) > _SHOWN:
            click.echo("  ...")


@labels.command()
@click.argument("push_id", metavar="PUSH")
@_URL
@_TOKEN
def status(push_id: str, url: str, token_file: Path | None) -> None:
    """What became of a push so far, device by device."""
    from driftpost_aggregator.labels.client import Client  # noqa: PLC0415  # loads an HTTP client

    try:
        with Client(url, _token(token_file)) as client:
            found = client.outcome(push_id)
    except AggregatorError as error:
        raise click.ClickException(str(error)) from error
    for part in found["parts"]["items"]:
        counts = [(part[name], name) for name in ("counted", "twice", "unknown", "refused")]
        told = ", ".join(f"{count:,} {name}" for count, name in counts if count)
        words = f"{': ' + told if told else ''}{' (' + part['detail'] + ')' if part['detail'] else ''}"
        click.echo(f"{part['device']}  {part['labels']:,} labels  {part['state']}{words}")
    if found["parts"]["next"]:
        click.echo("... the dashboard has the rest")


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    lines = path.read_text(encoding="utf-8").split()
    if len(lines) != 1:
        raise click.ClickException(f"{path} is not one word")
    return lines[0]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        return ""
