"""The command `driftpost simulate`."""

from __future__ import annotations

import json
import logging
import random
import signal
import threading
import time
from pathlib import Path

import click

from driftpost_aggregator.errors import AggregatorError
from driftpost_aggregator.registry import from_plain
from driftpost_aggregator.simulation.feed import Feed
from driftpost_aggregator.simulation.fleet import SimulatedFleet
from driftpost_aggregator.simulation.script import Script, load
from driftpost_aggregator.simulation.world import paper_bundle
from driftpost_aggregator.times import wall_ms
from driftpost_sync.clock import SystemClock
from driftpost_sync.errors import SyncError
from driftpost_sync.messages import DescribeBody
from driftpost_sync.mqtt_settings import MqttSettings

# Streams of the bundle that is made up where none is given: forty inputs and a class.
_STREAMS = 41


@click.command()
@click.option("--devices", type=click.IntRange(1, 1_000_000), default=100, show_default=True)
@click.option("--windows", type=click.IntRange(1), default=12, show_default=True, help="That each sends.")
@click.option(
    "--bundle",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Whose streams are played; without one, a made-up one of 41 streams.",
)
@click.option(
    "--script",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Attributes, drifts and faults (TOML).",
)
@click.option("--fleet", default="default", show_default=True, help="Name in the topics.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Of the broker.")
@click.option("--port", type=int, default=1883, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--pace",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Windows that each device sends in a minute; 0: as fast as they are acknowledged.",
)
@click.option(
    "--counts", type=click.Path(dir_okay=False, path_type=Path), help="Where to write what was sent, as JSON."
)
@click.option("--streams", type=click.IntRange(2, 4_000), default=_STREAMS, show_default=True, hidden=True)
def simulate(
    *,
    devices: int,
    windows: int,
    bundle: Path | None,
    script: Path | None,
    fleet: str,
    host: str,
    port: int,
    seed: int,
    pace: float,
    counts: Path | None,
    streams: int,
) -> None:
    """Play a fleet: real bundles and wire format, through a real broker, to the last acknowledgement.

    Its windows end now: the first ones lie in the past. It ends with what must stand in the database.
    """
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
    exit_event = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: exit_event.set())
    try:
        chosen = Script() if script is None else load(script)
        describe = _described(bundle, streams, chosen, seed)
        length_ms = round((chosen.window_s or describe.window_s) * 1000)
        now_ms = wall_ms()
        played = SimulatedFleet(
            describe,
            chosen,
            devices=devices,
            fleet=fleet,
            seed=seed,
            start_ms=now_ms - (0 if pace else windows * length_ms),
            # Of every play another one, or the next would be taken for repetitions of this one.
            incarnation=now_ms,
        )
        feed = Feed(
            MqttSettings(host=host, port=port),
            played,
            fleet,
            clock=SystemClock(),
            random=random.SystemRandom(),
            exit_event=exit_event,
        )
    except (AggregatorError, SyncError) as error:
        raise click.ClickException(str(error)) from error
    began = time.monotonic()
    try:
        feed.send(played.births())
        for window in range(windows):
            if exit_event.is_set():
                break
            feed.send(played.round(window))
            if pace:
                exit_event.wait(max(began + (window + 1) * 60.0 / pace - time.monotonic(), 0.0))
        feed.send(played.rest())
        feed.settle()
    finally:
        feed.close()
    took = time.monotonic() - began
    books = {**played.books.to_dict(), "resent": feed.resent, "refused": feed.refused}
    if counts is not None:
        counts.write_text(json.dumps(books, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    click.echo(
        f"{played.books.windows:,} windows of {played.books.rows:,} rows from {devices:,} devices in "
        f"{took:.1f} s, {played.books.windows / max(took, 1e-9):,.0f} a second; {feed.resent:,} sent again, "
        f"{feed.refused:,} refused, {feed.waiting:,} not acknowledged"
    )
    if exit_event.is_set():
        click.echo("stopped before all of it was sent", err=True)
    if feed.waiting or feed.refused or exit_event.is_set():
        raise click.exceptions.Exit(1)


def _described(bundle: Path | None, streams: int, script: Script, seed: int) -> DescribeBody:
    if bundle is None:
        return paper_bundle(streams, window_s=script.window_s or 300.0, seed=seed)
    # A bundle file needs the models package; nothing else here opens one.
    from driftpost_models.bundle import Bundle, describe  # noqa: PLC0415
    from driftpost_models.errors import ModelError  # noqa: PLC0415

    try:
        return from_plain(describe(Bundle.open(bundle, None)))
    except ModelError as error:
        raise click.ClickException(str(error)) from error
