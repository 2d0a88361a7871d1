"""`driftpost agent windows` and `export`: the store, read beside a running agent or without one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

from driftpost_agent.client import fetch_status
from driftpost_agent.command_settings import config_option, read_settings
from driftpost_agent.errors import DaemonUnreachable
from driftpost_models.bundle import Bundle
from driftpost_models.errors import BundleError
from driftpost_sync.settings import Settings

# Windows that the table shows unless told otherwise: what fits beside the names on 80 columns.
DEFAULT_SHOWN = 24


@click.command()
@config_option
@click.option(
    "--last", default=DEFAULT_SHOWN, show_default=True, type=click.IntRange(1, 200), help="Windows."
)
@click.option("--stream", "pattern", default="*", help="Only streams whose names match, such as 'feature*'.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def windows(config: Path, last: int, pattern: str, as_json: bool) -> None:
    """Show the latest windows of every stream against the baseline."""
    from driftpost_agent.local_history import LocalHistory  # noqa: PLC0415 - help needs no numpy
    from driftpost_agent.window_table import render, render_board, window_lines  # noqa: PLC0415

    settings = read_settings(config)
    with LocalHistory(settings.path("store.path")) as history:
        bundle_id = history.latest_bundle()
        if bundle_id is None:
            raise click.ClickException("no window was recorded yet; see `driftpost agent status`")
        found = []
        for stored in history.windows(bundle_id, newest_first=True):
            found.append(stored)
            if len(found) == last:
                break
        found.reverse()
        bundle = _installed(settings, bundle_id)
        if bundle is None:
            raise click.ClickException(
                f"bundle {bundle_id[:12]} of the latest window is not installed here any more, "
                "so nobody knows what its streams are; `driftpost agent export` still gives the findings"
            )
        lines = window_lines(
            bundle.schema,
            bundle.calibration.baseline,
            [stored.window for stored in found],
            standing=history.standing_streams(),
            pattern=pattern,
        )
    board = _board(settings)
    if as_json:
        plain: dict[str, Any] = {
            "bundle": bundle.id,
            "windows": len(found),
            "streams": [line.to_plain() for line in lines],
            "board": board,
        }
        click.echo(json.dumps(plain, indent=2))
        return
    rows = sum(stored.window.rows for stored in found)
    title = (
        f"{bundle.name} {bundle.version}: the latest {len(found)} windows, {rows} rows, against the baseline"
    )
    click.echo(render(lines, title))
    if board and pattern == "*":
        click.echo("\n" + render_board(board))


@click.command()
@config_option
@click.option(
    "--what",
    type=click.Choice(["windows", "findings", "ledger"]),
    default="windows",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv", "npz"]),
    default=None,
    help="JSON lines, CSV, or arrays of one bundle's windows.  [default: by the file's name, or jsonl]",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    default=Path("-"),
    help="File to write; - for standard output.  [default: -]",
)
@click.option("--counts", is_flag=True, help="With the counts of every bin, in JSON lines.")
@click.option(
    "--bundle", "wanted", default=None, help="For arrays: id, or its beginning.  [default: the latest]"
)
def export(  # noqa: PLR0917 - one for each option
    config: Path, what: str, form: str | None, output: Path, counts: bool, wanted: str | None
) -> None:
    """Write windows, findings or the ledger for other programs.

    Times are milliseconds: since the device booted (mono), or Unix time where the clock was known to be good
    (wall). A file appears under its name only once it is whole.
    """
    from driftpost_agent import export as writing  # noqa: PLC0415 - as above
    from driftpost_agent.local_history import LocalHistory  # noqa: PLC0415

    form = form or {".csv": "csv", ".npz": "npz"}.get(output.suffix, "jsonl")
    if form == "npz" and what != "windows":
        raise click.ClickException("arrays are for windows; write findings and the ledger as jsonl or csv")
    if counts and form == "csv":
        raise click.ClickException("a table has no place for bins: use --format jsonl or npz with --counts")
    settings = read_settings(config)
    with LocalHistory(settings.path("store.path")) as history:
        if form == "npz":
            bundle_id = _chosen(settings, history.latest_bundle(), wanted)
            bundle = _installed(settings, bundle_id)
            if bundle is None:
                raise click.ClickException(f"bundle {bundle_id[:12]} is not installed here")
            with _target(output) as binary, _progress(history.count_windows(bundle_id), output) as step:
                writing.windows_as_arrays(history, bundle_id, bundle.schema, binary, step)
        else:
            schemas = {bundle.id: bundle.schema for bundle in _all_installed(settings)}
            rows: Any
            if what == "windows":
                total = history.count_windows()
                if form == "csv":
                    rows = writing.windows_as_rows(history, schemas)
                    # A row a stream: the bar counts what it can know beforehand.
                    total *= max((len(schema) for schema in schemas.values()), default=1)
                else:
                    rows = writing.windows_as_objects(history, schemas, counts=counts)
            else:
                rows = history.findings() if what == "findings" else history.ledger()
                total = 0
            write = writing.csv_rows if form == "csv" else writing.json_lines
            with _text_target(output) as text, _progress(total, output) as step:
                write(rows, text, step)
        if history.unreadable:
            click.echo(f"{history.unreadable} windows could not be read and were passed over", err=True)


def _installed(settings: Settings, bundle_id: str) -> Bundle | None:
    """The bundle as it was verified when it was installed; reading its schema runs nothing of it."""
    path = settings.path("store.path").parent / "bundles" / f"{bundle_id}.bundle"
    try:
        return Bundle.open(path, None) if path.is_file() else None
    except BundleError as error:
        raise click.ClickException(str(error)) from error


def _all_installed(settings: Settings) -> Iterator[Bundle]:
    for path in sorted((settings.path("store.path").parent / "bundles").glob("*.bundle")):
        bundle = _installed(settings, path.stem)
        if bundle is not None:
            yield bundle


def _chosen(settings: Settings, latest: str | None, wanted: str | None) -> str:
    if wanted is None:
        if latest is None:
            raise click.ClickException("no window was recorded yet")
        return latest
    found = [bundle.id for bundle in _all_installed(settings) if bundle.id.startswith(wanted)]
    if len(found) != 1:
        raise click.ClickException(f"{len(found)} installed bundles have ids that begin with {wanted!r}")
    return found[0]


def _board(settings: Settings) -> dict[str, Any]:
    try:
        document = fetch_status(settings.text("server.host"), settings.integer("server.port"))
    except DaemonUnreachable:
        return {}
    board = document.get("board", {})
    return board if isinstance(board, dict) else {}


@contextmanager
def _target(output: Path) -> Iterator[IO[bytes]]:
    """The file's place: whole or not at all."""
    if str(output) == "-":
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    draft = output.with_name(f".{output.name}.part")
    try:
        with draft.open("wb") as file:
            yield file
        draft.replace(output)
    except OSError as error:
        raise click.ClickException(f"{output} can't be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _text_target(output: Path) -> Iterator[IO[str]]:
    if str(output) == "-":
        yield sys.stdout
        return
    import io  # noqa: PLC0415 - only here

    with _target(output) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        yield text
        text.flush()
        text.detach()


@contextmanager
def _progress(total: int, output: Path) -> Iterator[Any]:
    """A bar on standard error where somebody watches a file being written."""
    if str(output) == "-" or not total or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=total, label="export", file=sys.stderr) as bar:
        yield bar.update
