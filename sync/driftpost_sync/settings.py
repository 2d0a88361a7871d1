"""One declared table of settings: the parser, the reference page and the error messages all come from it.

TABLE = SettingsTable("agent.toml", (
    Setting("device.id", str, REQUIRED, meaning="name of this device in its fleet"),
    Setting("mqtt.port", int, 1883, meaning="port of the broker", minimum=1, maximum=65535),
    Setting("device.attributes", dict[str, str], {}, meaning="what cohorts are formed by"),
))
settings = TABLE.load(Path("agent.toml"))
settings.integer("mqtt.port")
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from driftpost_sync.errors import SettingsError, SettingsProblem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# A configuration is a page of text; anything larger is the wrong file.
MAX_FILE_BYTES = 1 << 20
# Entries of a free-form map or list: more would make every status page and presence message unreadable.
MAX_ENTRIES = 256

_T = TypeVar("_T")


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()
"""Default of a setting that has none: leaving it out is an error."""

# What a person reads for each type: (in a sentence, in the reference page).
_TYPE_NAMES: dict[object, tuple[str, str]] = {
    str: ("text", "text"),
    int: ("a whole number", "integer"),
    float: ("a number", "number"),
    bool: ("true or false", "boolean"),
    Path: ("a path", "path"),
    list[str]: ("a list of texts", "list of texts"),
    list[int]: ("a list of whole numbers", "list of integers"),
    list[float]: ("a list of numbers", "list of numbers"),
    list[Path]: ("a list of paths", "list of paths"),
    dict[str, str]: ("a table of texts", "table of texts"),
    dict[str, float]: ("a table of numbers", "table of numbers"),
    dict: ("a table", "table"),
}
_LIST_ITEMS: dict[object, type] = {list[str]: str, list[int]: int, list[float]: float, list[Path]: Path}
_MAP_VALUES: dict[object, type] = {dict[str, str]: str, dict[str, float]: float}


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: dotted path in the file, `"mqtt.port"`; the part before the last dot is its section.
        type: `str`, `int`, `float`, `bool`, `Path`, `list[...]` of str, int, float or Path,
            `dict[str, str]` or `dict[str, float]` for free-form maps, or `dict` for a table that another
            strict reader takes over as it is.
        default: value when left out; `None` makes it optional, `REQUIRED` makes leaving it out an error.
        unit: physical unit, for people.
        meaning: what it does, one sentence without a full stop.
        minimum, maximum: bounds of a number, of each number in a list or map, both inclusive.
        choices: the only texts allowed, if not empty.
    """

    name: str
    type: object
    default: object = None
    unit: str = ""
    meaning: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.type not in _TYPE_NAMES:
            raise TypeError(f"{self.name}: settings of type {self.type!r} are not supported")
        if not self.meaning:
            raise TypeError(f"{self.name}: a setting needs a meaning")

    @property
    def expected(self) -> str:
        """What is allowed, in words."""
        text = _TYPE_NAMES[self.type][0]
        if self.choices:
            text = "one of " + ", ".join(repr(choice) for choice in self.choices)
        if self.unit:
            text += f" in {self.unit}"
        if self.minimum is not None and self.maximum is not None:
            text += f" from {self.minimum:g} to {self.maximum:g}"
        elif self.minimum is not None:
            text += f" of at least {self.minimum:g}"
        elif self.maximum is not None:
            text += f" of at most {self.maximum:g}"
        return text


@dataclass(frozen=True)
class TableArray:
    """An array of tables, `[[retrain.targets]]`: each entry is a small settings table of its own.

    Attributes:
        name: dotted path of the array.
        fields: settings of one entry, their names relative to it.
        meaning: what one entry is.
        minimum: entries there must be at least.
        maximum: entries there may be at most.
    """

    name: str
    fields: tuple[Setting, ...]
    meaning: str
    minimum: int = 0
    maximum: int = MAX_ENTRIES


class Settings(Mapping[str, object]):
    """Values by dotted name, every declared setting present, each of its declared type.

    Use the typed accessors; asking for a name that is not declared, or by the wrong accessor, is a mistake
    in the program and raises `KeyError` or `TypeError`.
    """

    def __init__(self, values: Mapping[str, object], given: frozenset[str], source: Path | str) -> None:
        self._values = dict(values)
        self._given = given
        self.source = source

    def __getitem__(self, name: str) -> object:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def given(self, name: str) -> bool:
        """Whether the file (or an override) set it, rather than the default."""
        return name in self._given

    def _typed(self, name: str, kind: type[_T]) -> _T:
        value = self._values[name]
        if not isinstance(value, kind):
            raise TypeError(f"setting {name} is {type(value).__name__}, asked for as {kind.__name__}")
        return value

    def text(self, name: str) -> str:
        """A `str` setting."""
        return self._typed(name, str)

    def integer(self, name: str) -> int:
        """An `int` setting."""
        return self._typed(name, int)

    def number(self, name: str) -> float:
        """A `float` setting."""
        return self._typed(name, float)

    def flag(self, name: str) -> bool:
        """A `bool` setting."""
        return self._typed(name, bool)

    def path(self, name: str) -> Path:
        """A `Path` setting; relative paths are already resolved against the file's folder."""
        return self._typed(name, Path)

    def optional(self, name: str, kind: type[_T]) -> _T | None:
        """A setting whose default is None: its value as `kind`, or None."""
        return None if self._values[name] is None else self._typed(name, kind)

    def items_of(self, name: str, kind: type[_T]) -> tuple[_T, ...]:
        """A list setting as a tuple of `kind`."""
        values = self._typed(name, tuple)
        for value in values:
            if not isinstance(value, kind):
                raise TypeError(f"setting {name} holds {type(value).__name__}, asked for {kind.__name__}")
        return values

    def texts(self, name: str) -> tuple[str, ...]:
        """A `list[str]` setting."""
        return self.items_of(name, str)

    def paths(self, name: str) -> tuple[Path, ...]:
        """A `list[Path]` setting."""
        return self.items_of(name, Path)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A `list[float]` setting."""
        return self.items_of(name, float)

    def text_map(self, name: str) -> dict[str, str]:
        """A `dict[str, str]` setting, as a copy."""
        return {str(key): str(value) for key, value in self._typed(name, dict).items()}

    def number_map(self, name: str) -> dict[str, float]:
        """A `dict[str, float]` setting, as a copy."""
        return {str(key): float(value) for key, value in self._typed(name, dict).items()}

    def table(self, name: str) -> dict[str, object]:
        """A `dict` setting as it stood in the file, as a copy, for the reader that knows its keys."""
        return dict(self._typed(name, dict))

    def tables(self, name: str) -> tuple[Settings, ...]:
        """The entries of a `TableArray`."""
        return self.items_of(name, Settings)


class SettingsTable:
    """All settings of one configuration file.

    Args:
        title: what the file is called, for messages and the reference page (`"agent.toml"`).
        entries: settings and arrays of tables, in the order of the reference page.
    """

    def __init__(self, title: str, entries: Sequence[Setting | TableArray]) -> None:
        self.title = title
        self.entries = tuple(entries)
        self._by_name = {entry.name: entry for entry in self.entries}
        if len(self._by_name) != len(self.entries):
            raise TypeError(f"{title}: a setting is declared twice")
        self._sections = {
            ".".join(name.split(".")[:depth])
            for name in self._by_name
            for depth in range(1, name.count(".") + 1)
        }
        if self._sections & set(self._by_name):
            raise TypeError(f"{title}: {sorted(self._sections & set(self._by_name))} is a section and a key")

    def load(self, path: Path, overrides: Mapping[str, object] | None = None) -> Settings:
        """Read a TOML file.

        Args:
            path: the file; relative path settings are resolved against its folder.
            overrides: dotted name to value, laid over the file (command-line options); None values are
                options that were not given.

        Raises:
            SettingsError: the file cannot be read, is not TOML, or breaks the table; every problem listed.
        """
        try:
            size = path.stat().st_size
            raw = path.read_bytes() if size <= MAX_FILE_BYTES else b""
        except OSError as error:
            text = f"it cannot be read ({error.strerror or error}); give the right path with --config"
            raise SettingsError(path, (SettingsProblem("", text),)) from error
        if size > MAX_FILE_BYTES:
            text = f"it is {size} bytes, more than the {MAX_FILE_BYTES} of any configuration; wrong file?"
            raise SettingsError(path, (SettingsProblem("", text),))
        try:
            values = tomllib.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            text = f"byte {error.start} is not UTF-8; save it as UTF-8 text"
            raise SettingsError(path, (SettingsProblem("", text),)) from error
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise SettingsError(path, (SettingsProblem("", f"it is not TOML: {error}"),)) from error
        return self.parse(values, source=path, folder=path.resolve().parent, overrides=overrides)

    def parse(
        self,
        values: Mapping[str, object],
        *,
        source: Path | str = "settings",
        folder: Path | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> Settings:
        """Check nested values (as TOML gives them) against the table.

        Raises:
            SettingsError: with every problem found.
        """
        problems: list[SettingsProblem] = []
        found: dict[str, object] = {}
        self._flatten(values, "", found, problems)
        for name, value in (overrides or {}).items():
            if value is None:
                continue
            if name not in self._by_name:
                problems.append(SettingsProblem(name, self._unknown(name)))
            else:
                found[name] = value
        checked: dict[str, object] = {}
        for entry in self.entries:
            if isinstance(entry, TableArray):
                checked[entry.name] = _check_array(entry, found.get(entry.name, []), source, folder, problems)
            elif entry.name in found:
                try:
                    checked[entry.name] = _check(entry, found[entry.name], folder)
                except ValueError as error:
                    problems.append(SettingsProblem(entry.name, f"{error} ({entry.meaning})"))
            elif entry.default is REQUIRED:
                text = f"missing; needs {entry.expected} ({entry.meaning})"
                problems.append(SettingsProblem(entry.name, text))
            else:
                checked[entry.name] = _check(entry, entry.default, folder)
        if problems:
            raise SettingsError(source, tuple(problems))
        return Settings(checked, frozenset(found), source)

    def _flatten(
        self,
        values: Mapping[str, object],
        prefix: str,
        found: dict[str, object],
        problems: list[SettingsProblem],
    ) -> None:
        for key, value in values.items():
            name = prefix + key
            if name in self._by_name:
                found[name] = value
            elif name not in self._sections:
                problems.append(SettingsProblem(name, self._unknown(name)))
            elif isinstance(value, Mapping):
                self._flatten(value, name + ".", found, problems)
            else:
                problems.append(SettingsProblem(name, f"is a section; write it as [{name}]"))

    def _unknown(self, name: str) -> str:
        known = [*self._by_name, *sorted(self._sections)]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        if not near:
            # A right key in the wrong section is the usual slip that edit distance does not see.
            last = name.rsplit(".", 1)[-1]
            near = [known_name for known_name in known if known_name.rsplit(".", 1)[-1] == last][:1]
        return f"unknown setting; did you mean {near[0]}?" if near else "unknown setting"

    def reference_page(self) -> str:
        """All settings as a Markdown page."""
        lines = [f"# {self.title}", ""]
        for section, entries in self._grouped().items():
            lines += [f"## [{section}]" if section else "## Top level", ""]
            lines += _markdown_table([entry for entry in entries if isinstance(entry, Setting)], section)
            for entry in entries:
                if isinstance(entry, TableArray):
                    lines += [f"### [[{entry.name}]]", "", f"{_sentence(entry.meaning)}", ""]
                    lines += _markdown_table(entry.fields, "")
        return "\n".join(lines).rstrip() + "\n"

    def _grouped(self) -> dict[str, list[Setting | TableArray]]:
        sections: dict[str, list[Setting | TableArray]] = {}
        for entry in self.entries:
            sections.setdefault(entry.name.rpartition(".")[0], []).append(entry)
        return sections


def _check_array(
    entry: TableArray,
    value: object,
    source: Path | str,
    folder: Path | None,
    problems: list[SettingsProblem],
) -> tuple[Settings, ...]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        problems.append(
            SettingsProblem(entry.name, f"must be an array of tables, [[{entry.name}]] ({entry.meaning})")
        )
        return ()
    if not entry.minimum <= len(value) <= entry.maximum:
        text = f"has {len(value)} entries; {entry.minimum} to {entry.maximum} are allowed ({entry.meaning})"
        problems.append(SettingsProblem(entry.name, text))
        return ()
    table = SettingsTable(entry.name, entry.fields)
    parsed: list[Settings] = []
    for index, item in enumerate(value):
        try:
            parsed.append(table.parse(item, source=source, folder=folder))
        except SettingsError as error:
            problems += [
                SettingsProblem(f"{entry.name}[{index}].{problem.key}", problem.text)
                for problem in error.problems
            ]
    return tuple(parsed)


def _check(setting: Setting, value: object, folder: Path | None) -> object:
    """The value as its declared type, or ValueError saying what was expected instead."""
    if value is None and setting.default is None:
        return None
    if setting.type in _LIST_ITEMS:
        item = _LIST_ITEMS[setting.type]
        if not isinstance(value, list | tuple) or len(value) > MAX_ENTRIES:
            raise ValueError(f"must be {setting.expected}, at most {MAX_ENTRIES}, not {_shown(value)}")
        return tuple(_check_one(setting, item, element, folder) for element in value)
    if setting.type in _MAP_VALUES:
        item = _MAP_VALUES[setting.type]
        if not isinstance(value, Mapping) or len(value) > MAX_ENTRIES:
            raise ValueError(f"must be {setting.expected}, at most {MAX_ENTRIES}, not {_shown(value)}")
        return {str(key): _check_one(setting, item, element, folder) for key, element in value.items()}
    if setting.type is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"must be {setting.expected}, not {_shown(value)}")
        return dict(value)
    return _check_one(setting, setting.type, value, folder)


def _check_one(setting: Setting, kind: object, value: object, folder: Path | None) -> object:
    wrong = ValueError(f"must be {setting.expected}, not {_shown(value)}")
    if kind is bool:
        if not isinstance(value, bool):
            raise wrong
        return value
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong
        if kind is int and not isinstance(value, int):
            raise wrong
        if not math.isfinite(value):
            raise wrong
        if setting.minimum is not None and value < setting.minimum:
            raise wrong
        if setting.maximum is not None and value > setting.maximum:
            raise wrong
        return float(value) if kind is float else value
    if kind is Path:
        if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
            raise wrong
        path = Path(value).expanduser()
        return path if folder is None else folder / path
    if not isinstance(value, str) or (setting.choices and value not in setting.choices):
        raise wrong
    return value


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a table"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _markdown_table(settings: Sequence[Setting], section: str) -> list[str]:
    if not settings:
        return []
    lines = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for setting in settings:
        key = setting.name[len(section) + 1 :] if section else setting.name
        kind = _TYPE_NAMES[setting.type][1] + (f", {setting.unit}" if setting.unit else "")
        if setting.default is REQUIRED:
            default = "required"
        elif setting.default is None:
            default = "none"
        else:
            default = f"`{_toml(setting.default)}`"
        limits = ""
        if setting.choices:
            limits = " One of " + ", ".join(f"`{choice}`" for choice in setting.choices) + "."
        elif setting.minimum is not None or setting.maximum is not None:
            low = "" if setting.minimum is None else f"{setting.minimum:g}"
            high = "" if setting.maximum is None else f"{setting.maximum:g}"
            limits = f" From {low} to {high}." if low and high else f" At least {low}." if low else ""
            limits = limits or f" At most {high}."
        meaning = (_sentence(setting.meaning) + limits).replace("|", "\\|")
        lines.append(f"| `{key}` | {kind} | {default} | {meaning} |")
    return [*lines, ""]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str | Path):
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
