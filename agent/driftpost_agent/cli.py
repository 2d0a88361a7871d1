"""The command group `driftpost agent`."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import click

from driftpost_agent.client import fetch_status
from driftpost_agent.command_settings import config_option, read_settings
from driftpost_agent.doctor_command import doctor
from driftpost_agent.errors import DaemonUnreachable
from driftpost_agent.history_commands import export, windows
from driftpost_agent.settings import TABLE, starter_file
from driftpost_models.file_argument import FileArgument
from driftpost_sync.clock import SystemClock
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.settings import Settings
from driftpost_sync.systemd import Notifier
from driftpost_sync.topics import check_name

# Seconds that `agent activate` waits for the running daemon to serve the new bundle: two starts of a model.
ACTIVATION_WAIT_S = 60.0


@click.group()
def agent() -> None:
    """Guard a model on this device: run, status, windows, doctor, activate, export."""


agent.add_command(doctor)
agent.add_command(export)
agent.add_command(windows)


@agent.command()
@config_option
def run(config: Path) -> None:
    """Run the agent until it is stopped (SIGTERM or Ctrl-C)."""
    from driftpost_agent import logs  # noqa: PLC0415 - `status` and `settings` start faster without the rest
    from driftpost_agent.daemon import Daemon  # noqa: PLC0415

    settings = read_settings(config)
    # systemd sets this when stderr is connected to the journal.
    logs.set_up(settings.text("log.level"), journal="JOURNAL_STREAM" in os.environ)
    exit_event = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: exit_event.set())
    Daemon(
        settings,
        clock=SystemClock(trust_wall=settings.flag("clock.trust_wall")),
        exit_event=exit_event,
        notifier=Notifier(),
    ).run()


@agent.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="The whole status document, for programs.")
@click.option("--watch", is_flag=True, help="Show it again and again until Ctrl-C; with --json, a line each.")
@click.option(
    "--every", default=2.0, show_default=True, type=click.FloatRange(0.2, 3600), help="Seconds between."
)
def status(config: Path, as_json: bool, watch: bool, every: float) -> None:
    """Show how the running agent is."""
    from driftpost_agent.status_table import render  # noqa: PLC0415

    settings = read_settings(config)
    if watch:
        from driftpost_agent.status_watch import follow  # noqa: PLC0415

        follow(lambda: _status(settings), every, as_json=as_json)
        return
    document = _status(settings)
    click.echo(json.dumps(document, indent=2) if as_json else render(document))


@agent.command()
@click.argument("bundle", type=FileArgument("Check the path; `driftpost bundle build` makes a bundle."))
@config_option
def activate(bundle: Path, config: Path) -> None:
    """Verify BUNDLE, test it on this device and make it the active one.

    A running agent changes over without losing a request and goes back by itself when the new bundle does not
    start. Without one, the bundle serves from the next start on.
    """
    from driftpost_agent.activation import Activation  # noqa: PLC0415
    from driftpost_agent.loading import loader, trusted_keys  # noqa: PLC0415

    settings = read_settings(config)
    activation = Activation(
        settings.path("store.path").parent / "bundles",
        trusted_keys(settings),
        allow_unsigned=settings.flag("model.allow_unsigned"),
        start=loader(settings),
    )
    # An earlier attempt with the same bundle has its line in the history as well.
    history = _status_if_running(settings).get("activations", [])
    before = history[0].get("number", 0) if history else 0
    activated = activation.activate(bundle)
    click.echo(f"verified and tested: {activated.name} {activated.version} ({activated.id[:12]})")
    try:
        _status(settings)
    except DaemonUnreachable:
        click.echo("No agent is running; it serves from the next start on.")
        return
    deadline = time.monotonic() + ACTIVATION_WAIT_S
    while time.monotonic() < deadline:
        document = _status(settings)
        if document["model"].get("bundle") == activated.id:
            click.echo("The running agent serves it now.")
            return
        for entry in document["activations"]:
            if (
                entry.get("number", 0) > before
                and entry["bundle"] == activated.id
                and entry["outcome"] == "rolled back"
            ):
                raise click.ClickException(f"the agent went back to the bundle before: {entry['detail']}")
        time.sleep(0.2)
    raise click.ClickException(
        f"the agent did not change over within {ACTIVATION_WAIT_S:.0f} s; "
        "see its log and `driftpost agent status`"
    )


@agent.group()
def site() -> None:
    """What this device has learnt of its own normal, and a person's word on it."""


@site.command()
@config_option
def show(config: Path) -> None:
    """Show how far the learning is, and how this device differs from the training data."""
    from driftpost_agent.status_table import render_site  # noqa: PLC0415

    click.echo(render_site(_status(read_settings(config))["site"]))


@site.command()
@config_option
def accept(config: Path) -> None:
    """Accept the change that stands: it is this device's normal, learnt anew from now on."""
    _leave(config, "accept")


@site.command()
@config_option
def again(config: Path) -> None:
    """Forget what this device has learnt and begin anew, after it was moved or mended."""
    _leave(config, "again")


def _leave(config: Path, decision: str) -> None:
    from driftpost_agent import site_request  # noqa: PLC0415

    settings = read_settings(config)
    running = _status_if_running(settings)
    if running.get("site", {}).get("mode") == "off":
        raise click.ClickException(
            "the policy of the active bundle has no site baseline: "
            "set site.baseline = true there and build it again"
        )
    folder = settings.path("store.path").parent
    try:
        site_request.leave(folder, decision)
    except OSError as error:
        raise click.ClickException(f"{folder} can't be written: {error.strerror}") from error
    click.echo("The running agent takes it up now." if running else "The agent takes it up when it starts.")


@agent.command()
def settings() -> None:
    """Print the reference of all settings in agent.toml."""
    click.echo(TABLE.reference_page(), nl=False)


@agent.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), default=Path("agent.toml"))
@click.option("--id", "device", default=None, help="Name of this device.  [default: the host's name]")
@click.option("--bundle", type=click.Path(dir_okay=False, path_type=Path), default=Path("model.bundle"))
@click.option(
    "--key", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Public key to trust."
)
@click.option("--broker", default="127.0.0.1", show_default=True, help="Host of the MQTT broker.")
def init(path: Path, device: str | None, bundle: Path, key: Path | None, broker: str) -> None:
    """Write a commented agent.toml to start from."""
    if device is not None:
        try:
            check_name(device, "--id")
        except MalformedMessage as error:
            raise click.ClickException(str(error)) from error
    text = starter_file(device=device, bundle=bundle, key=key, broker=broker)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise click.ClickException(f"{path} exists already and is left as it is") from None
    except OSError as error:
        raise click.ClickException(f"{path} can't be written: {error.strerror}") from error
    click.echo(f"Wrote {path}. Next: driftpost agent run --config {path}")
    # Settings are often written before the files are there; a mistyped name should still be seen now.
    for option, named in (("--bundle", bundle), ("--key", key)):
        if named is not None and not (path.parent / named).exists():
            click.echo(f"{option} {named}: there is no such file beside {path.name} yet", err=True)


def _status(settings: Settings) -> dict[str, Any]:
    return fetch_status(settings.text("server.host"), settings.integer("server.port"))


def _status_if_running(settings: Settings) -> dict[str, Any]:
    try:
        return _status(settings)
    except DaemonUnreachable:
        return {}
