"""Why an inference got its verdict: the codes of the `verdict` stream and their names in policy files."""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """The first thing that was wrong with an inference; 0 when nothing was."""

    OK = 0
    SHAPE = 1
    DTYPE = 2
    NONFINITE_INPUT = 3
    OUT_OF_RANGE = 4
    FROZEN = 5
    SATURATED = 6
    NONFINITE_OUTPUT = 7
    LOW_CONFIDENCE = 8
    MODEL_FAILED = 9

    @property
    def label(self) -> str:
        """The name in policy files, in windows and on pages."""
        return self.name.lower()


REASON_NAMES = tuple(reason.label for reason in Reason if reason is not Reason.OK)
"""Names that a policy's `reasons` table may use."""
