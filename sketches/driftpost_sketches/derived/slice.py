"""Slices: a stream where a categorical stream has one value, such as the confidence of one class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from driftpost_sketches.errors import MalformedSketch


@dataclass(frozen=True)
class Slice:
    """One stream in one state of another.

    Attributes:
        stream: which is sliced; may be a seasonal one.
        by: the categorical stream that says which rows belong to it.
        value: the category whose rows do.
        name: of the slice, to be read in a sentence: "confidence where top_class is 3".
    """

    stream: str
    by: str
    value: int
    name: str

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise MalformedSketch(f"a slice's value is a category, not {self.value!r:.40}")

    def to_dict(self) -> dict[str, Any]:
        """Plain types; `from_dict` reads it back."""
        return {"stream": self.stream, "by": self.by, "value": self.value, "name": self.name}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Slice:
        """Reads `to_dict`'s form; raises KeyError, TypeError or ValueError where it is none."""
        return cls(str(plain["stream"]), str(plain["by"]), plain["value"], str(plain["name"]))
