"""Writes the small TOML files of the demo; the standard library only reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

Value = str | int | float | bool | Path | Sequence[str | Path] | Mapping[str, str]
Section = Mapping[str, Value]


def toml_text(sections: Mapping[str, Section | Sequence[Section]]) -> str:
    """A TOML document of sections, or of arrays of sections, one level deep.

    Args:
        sections: By name; "" is the top level.
    """
    lines: list[str] = []
    for name, section in sections.items():
        if isinstance(section, Mapping):
            lines += [f"[{name}]"] if name else []
            lines += _entries(section)
        else:
            for one in section:
                lines += [f"[[{name}]]", *_entries(one)]
        lines.append("")
    return "\n".join(lines)


def _entries(section: Section) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in section.items()]


def _value(value: Value) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, str | Path):
        # JSON's strings are TOML's, as long as nothing is escaped beyond the basic plane.
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return json.dumps(value)
