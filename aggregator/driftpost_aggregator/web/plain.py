"""Rows as JSON: times as RFC 3339 text, what is not a number as null, bytes as hex."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum

from driftpost_aggregator.web.words import iso


def plain(value: object) -> object:
    """A value made of what JSON has.

    A field whose name ends in ``_ms`` becomes RFC 3339 text under the name without it.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        # A lone surrogate has no UTF-8 form.
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, bytes):
        return value.hex()
    if is_dataclass(value) and not isinstance(value, type):
        return _members({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Mapping):
        return _members({str(name): member for name, member in value.items()})
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _members(members: Mapping[str, object]) -> dict[str, object]:
    made: dict[str, object] = {}
    for name, value in members.items():
        if name.endswith("_ms") and (value is None or isinstance(value, int)):
            made[name.removesuffix("_ms")] = iso(value)
        else:
            made[name] = plain(value)
    return made
