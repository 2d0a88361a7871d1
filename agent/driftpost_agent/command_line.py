"""The `driftpost` command, assembled from the entry-point group `driftpost.commands`.

A device carries only the extras it needs. Each group of commands is therefore imported when it is asked for,
and a group whose extra is missing says what to install instead of showing a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points, version

import click

COMMANDS = "driftpost.commands"

# What `driftpost --help` says of our own groups without importing them: the imports behind all of them
# together take seconds on a Pi, and some of them may not be installed.
SUMMARIES: Mapping[str, str] = {
    "agent": "Guard a model on this device: run, status, windows, doctor, activate, export.",
    "aggregator": "Gather a fleet: ingest, incidents, retrain requests, dashboard.",
    "broker": "Run a small MQTT broker for demos and trials.",
    "bundle": "Build, inspect and verify the file that holds a model and its baseline.",
    "keys": "Make and show the keys that sign bundles.",
    "replay": "Run the device's detectors over recorded data, to choose a policy.",
}

# The extra that brings a package which is not part of the light install.
EXTRAS: Mapping[str, str] = {
    "ai_edge_litert": "tflite",
    "alembic": "aggregator",
    "amqtt": "broker",
    "cloudevents": "aggregator",
    "httpx": "aggregator",
    "jinja2": "aggregator",
    "matplotlib": "plots",
    "onnxruntime": "onnx",
    "PIL": "images",
    "plotly": "aggregator",
    "psycopg": "postgresql",
    "rich": "demo",
    "sqlalchemy": "aggregator",
    "standardwebhooks": "aggregator",
    "starlette": "aggregator",
    "tflite_runtime": "tflite",
    "uvicorn": "aggregator",
}

# A terminal's Ctrl-C, as shells report it.
EXIT_INTERRUPTED = 130


def _discovered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=COMMANDS)}


def missing_package_message(error: ImportError, asked_for: str) -> str:
    """Say which extra brings the package whose absence `error` reports.

    Args:
        error: what the import raised.
        asked_for: the command that needed it, as the user typed it.
    """
    package = (error.name or "").partition(".")[0]
    if package in EXTRAS:
        return (
            f"`{asked_for}` needs the Python package {package!r}, which is not installed. "
            f"Install it with: pip install 'driftpost[{EXTRAS[package]}]'"
        )
    if package.startswith("driftpost_"):
        return (
            f"`{asked_for}` is not part of this installation ({error}). "
            "Install the whole of it with: pip install --force-reinstall driftpost"
        )
    return (
        f"`{asked_for}` could not be loaded: {error}. Reinstall with: pip install --force-reinstall driftpost"
    )


class CommandLine(click.Group):
    """A click group whose subcommands are loaded from entry points when they are used."""

    def __init__(self, discover: Callable[[], Mapping[str, EntryPoint]] = _discovered) -> None:
        super().__init__(
            name="driftpost",
            help="An inference guard for edge devices: verdicts, drift checks, retrain requests.",
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
            epilog="Each command has its own --help.",
        )
        self._discover = discover
        click.version_option(version("driftpost"), prog_name="driftpost")(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all installed command groups, sorted."""
        return sorted(self._discover())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command.

        Raises:
            click.ClickException: it is there but what it needs is not; the message names the extra.
        """
        point = self._discover().get(cmd_name)
        if point is None:
            return None
        try:
            command = point.load()
        except (ImportError, AttributeError) as error:
            cause = error if isinstance(error, ImportError) else ImportError(str(error), name=point.module)
            raise click.ClickException(missing_package_message(cause, f"driftpost {cmd_name}")) from error
        if not isinstance(command, click.Command):
            raise click.ClickException(
                f"the entry point {point.value!r} of `driftpost {cmd_name}` is not a click command; "
                "uninstall the package that registers it"
            )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the groups without importing those whose summary is known."""
        rows = []
        for name in self.list_commands(ctx):
            summary = SUMMARIES.get(name)
            if summary is None:
                try:
                    command = self.get_command(ctx, name)
                    summary = command.get_short_help_str(limit=80) if command else ""
                except click.ClickException as error:
                    summary = error.message
            rows.append((name, summary))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0].startswith("driftpost_")


def run(arguments: Sequence[str], command_line: click.Group | None = None) -> int:
    """Run the command line and return its exit status.

    Errors of our own packages say what to do, so they are shown as one line; anything else is a defect and
    keeps its traceback.
    """
    try:
        outcome = (command_line or CommandLine()).main(
            args=list(arguments), prog_name="driftpost", standalone_mode=False
        )
    except click.exceptions.Abort:
        click.echo("Stopped.", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ImportError as error:
        click.echo(
            f"Error: {missing_package_message(error, 'driftpost ' + ' '.join(arguments[:2]))}", err=True
        )
        return 1
    except Exception as error:
        if not _is_ours(error):
            raise
        click.echo(f"Error: {error}", err=True)
        return 1
    return outcome if isinstance(outcome, int) else 0
