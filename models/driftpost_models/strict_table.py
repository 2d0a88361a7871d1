"""Reading TOML tables in which every key must be known.

A misspelled key that is silently ignored is a guard that silently does something else.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from driftpost_models.errors import ConfigError

MAX_CONFIG_BYTES = 1 << 20
"""Bytes. A policy or probes file that names thousands of columns has a tenth of it."""


def read_toml(path: Path) -> dict[str, object]:
    """Parse a file.

    Raises:
        ConfigError: not readable, too large, or not TOML.
    """
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise ConfigError(str(path), f"has {size} bytes; at most {MAX_CONFIG_BYTES} are read")
        return parse_toml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"can not be read: {error}") from error


def parse_toml(text: str, where: str) -> dict[str, object]:
    """Parse text.

    Raises:
        ConfigError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(where, f"is not TOML: {error}") from error


class StrictTable:
    """One table whose values are taken by type and whose remaining keys are errors.

    Args:
        plain: the parsed table.
        where: its dotted path, for messages; empty at the top.
    """

    def __init__(self, plain: object, where: str = "") -> None:
        if not isinstance(plain, Mapping):
            raise ConfigError(where or "file", f"must be a table, not {type(plain).__name__}")
        self._plain = plain
        self._where = where
        self._known: list[str] = []

    def path(self, key: str) -> str:
        """Dotted path of a key."""
        return f"{self._where}.{key}" if self._where else key

    def names(self) -> list[str]:
        """Keys that are present."""
        return [str(key) for key in self._plain]

    def raw(self, key: str) -> object:
        """The value as parsed, None where it is missing."""
        self._known.append(key)
        return self._plain.get(key)

    def text(self, key: str, default: str | None = None, *, choices: Sequence[str] = ()) -> str | None:
        """A string, or the default."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise ConfigError(self.path(key), f"must be a text, not {value!r}")
        if choices and value not in choices:
            raise ConfigError(
                self.path(key), f"{value!r} is not one of {', '.join(choices)}{nearest(value, choices)}"
            )
        return value

    def number(
        self, key: str, default: float | None = None, *, low: float = -math.inf, high: float = math.inf
    ) -> float | None:
        """A finite number within its bounds, or the default."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(self.path(key), f"must be a number, not {value!r}")
        if not low <= value <= high:
            raise ConfigError(self.path(key), f"must lie between {low:g} and {high:g}, not {value!r}")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool | None:
        """True or false, or the default."""
        value = self.raw(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        raise ConfigError(self.path(key), f"must be true or false, not {value!r}")

    def texts(self, key: str) -> list[str] | None:
        """A list of strings, None where it is missing."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise ConfigError(self.path(key), "must be a list of texts")
        return list(value)

    def integers(self, key: str) -> list[int] | None:
        """A list of integers, None where it is missing."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or not all(type(item) is int for item in value):
            raise ConfigError(self.path(key), "must be a list of whole numbers")
        return list(value)

    def table(self, key: str) -> StrictTable | None:
        """A table below this one, None where it is missing."""
        value = self.raw(key)
        return None if value is None else StrictTable(value, self.path(key))

    def done(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            ConfigError: naming the key and the nearest known one.
        """
        for key in self._plain:
            if key not in self._known:
                hint = nearest(str(key), self._known) or f" (known: {', '.join(sorted(set(self._known)))})"
                raise ConfigError(self.path(str(key)), f"unknown key{hint}")


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean ...?` for a misspelled word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
