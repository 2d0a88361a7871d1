"""What one look at a device found: good, doubtful or wrong, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Grade(str, Enum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at.

    Attributes:
        about: what: "configuration", "clock", "disk", ...
        grade: how it is.
        text: what was found.
        remedy: what a person should do, "" where nothing has to be done.
    """

    about: str
    grade: Grade
    text: str
    remedy: str = ""

    def to_plain(self) -> dict[str, Any]:
        """For `--json`."""
        return {"check": self.about, "grade": self.grade.value, "text": self.text, "remedy": self.remedy}


def ok(about: str, text: str) -> Diagnosis:
    """It is as it should be."""
    return Diagnosis(about, Grade.OK, text)


def warning(about: str, text: str, remedy: str) -> Diagnosis:
    """It works, and not for long or not as meant."""
    return Diagnosis(about, Grade.WARNING, text, remedy)


def failed(about: str, text: str, remedy: str) -> Diagnosis:
    """It does not work."""
    return Diagnosis(about, Grade.FAILED, text, remedy)


def skipped(about: str, text: str) -> Diagnosis:
    """It could not be looked at, or was not wanted."""
    return Diagnosis(about, Grade.SKIPPED, text)
