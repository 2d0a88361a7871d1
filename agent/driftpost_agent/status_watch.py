"""The status page again and again, with what changed from one time to the next."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from driftpost_agent.errors import DaemonUnreachable
from driftpost_agent.status_table import render


def follow(
    fetch: Callable[[], Mapping[str, Any]],
    every_s: float,
    *,
    as_json: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    times: int | None = None,
) -> None:
    """Show the document until Ctrl-C; an agent that is away is waited for.

    Args:
        fetch: the status document.
        every_s: seconds between two looks.
        as_json: a document a line, for programs; nothing is cleared.
        sleep: waits.
        times: looks; None for as many as there is patience for.
    """
    before: Mapping[str, Any] | None = None
    looks = 0
    while times is None or looks < times:
        if looks:
            sleep(every_s)
        looks += 1
        try:
            document = fetch()
        except DaemonUnreachable as error:
            before = None
            if as_json:
                click.echo(json.dumps({"error": str(error)}))
            else:
                click.clear()
                click.echo(str(error))
            continue
        if as_json:
            click.echo(json.dumps(document, separators=(",", ":")))
            continue
        # Text is made first, so that the screen is never empty for longer than it takes to print.
        page = render(document)
        news = "\n".join(_changes(before, document))
        click.clear()
        click.echo(page)
        if news:
            click.echo("\n" + news)
        click.echo(f"\nevery {every_s:g} s; Ctrl-C ends")
        before = document


def _changes(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Iterator[str]:
    """What went on since the last look, a second."""
    if before is None or before["incarnation"] != now["incarnation"]:
        return
    seconds = now["uptime_s"] - before["uptime_s"]
    if seconds <= 0:
        return
    calls = now["inferences"]["calls"] - before["inferences"]["calls"]
    rows = now["inferences"]["rows"] - before["inferences"]["rows"]
    windows = now["windows"]["recorded"] - before["windows"]["recorded"]
    pace = f"{calls / seconds:.1f} calls/s, {rows / seconds:.1f} rows/s"
    yield f"since the last look: {pace}, {windows} windows"
