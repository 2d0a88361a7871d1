"""Paths on the command line that say what to do when nothing is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class FileArgument(click.Path):
    """A path that must exist.

    Args:
        remedy: what to do when it doesn't, in a sentence.
        folder: whether a folder will do as well.
    """

    def __init__(self, remedy: str, *, folder: bool = False) -> None:
        super().__init__(exists=True, dir_okay=folder, path_type=Path)
        self._remedy = remedy

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As the base class, with the remedy added to what it refuses."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            raise click.BadParameter(f"{error.message} {self._remedy}", ctx, param) from error
