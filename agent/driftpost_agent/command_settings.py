"""How the commands of `driftpost agent` find and read their configuration."""

from __future__ import annotations

from pathlib import Path

import click

from driftpost_agent.settings import TABLE
from driftpost_sync.settings import Settings

config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("agent.toml"),
    show_default=True,
    help="The agent's configuration.",
)


def read_settings(config: Path) -> Settings:
    """The settings in a file.

    Raises:
        click.ClickException: there is no such file.
        SettingsError: it breaks the table.
    """
    if not config.exists():
        raise click.ClickException(
            f"there is no {config}: write one with `driftpost agent init {config}`, "
            "or give the right path with --config"
        )
    return TABLE.load(config)
