"""The guard's word on one inference: a status, and the reasons for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Status(str, Enum):
    """What the guard did with the inference."""

    OK = "ok"
    FLAGGED = "flagged"
    ABSTAINED = "abstained"
    FALLBACK = "fallback"


class Reason(str, Enum):
    """Why an inference is not ok, most disqualifying first."""

    SHAPE = "shape"
    DTYPE = "dtype"
    MODEL_FAILED = "model_failed"
    NONFINITE_INPUT = "nonfinite_input"
    NONFINITE_OUTPUT = "nonfinite_output"
    OUT_OF_RANGE = "out_of_range"
    FROZEN = "frozen"
    SATURATED = "saturated"
    LOW_CONFIDENCE = "low_confidence"


# The integer that the categorical stream "verdict" counts. The numbers are in bundles and windows already
# sent: they are only ever added to.
VERDICT_CODES: Mapping[Reason | None, int] = {
    None: 0,
    Reason.SHAPE: 1,
    Reason.DTYPE: 2,
    Reason.NONFINITE_INPUT: 3,
    Reason.OUT_OF_RANGE: 4,
    Reason.FROZEN: 5,
    Reason.SATURATED: 6,
    Reason.NONFINITE_OUTPUT: 7,
    Reason.LOW_CONFIDENCE: 8,
    Reason.MODEL_FAILED: 9,
}

_SEVERITY = {reason: position for position, reason in enumerate(Reason)}


@dataclass(frozen=True)
class Verdict:
    """Status and reasons, the most disqualifying reason first; no reasons means ok."""

    status: Status
    reasons: tuple[Reason, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing at all was found."""
        return self.status is Status.OK

    @property
    def code(self) -> int:
        """The category that the stream "verdict" counts: that of the worst reason."""
        return VERDICT_CODES[self.reasons[0] if self.reasons else None]


OK = Verdict(Status.OK)


def verdict_of(status: Status, reasons: set[Reason]) -> Verdict:
    """Build a verdict with its reasons in order of severity."""
    return Verdict(status, tuple(sorted(reasons, key=_SEVERITY.__getitem__)))


@dataclass(frozen=True)
class GuardedResult:
    """What `Guard.run` returns.

    Attributes:
        outputs: the model's outputs by name; empty when the guard abstained or the model could not run.
        verdict: the guard's word on it; of several rows, the worst status and every reason.
        inference_id: names this inference in logs and delayed labels: incarnation and row number, or the
            caller's own id.
        rows: how many rows (items of a batch) this call carried.
    """

    outputs: Mapping[str, NDArray[Any]]
    verdict: Verdict
    inference_id: str
    rows: int = 1

    @property
    def output(self) -> NDArray[Any]:
        """The first output, for models with a single one; an empty float32 array if there is none."""
        return next(iter(self.outputs.values()), np.empty(0, dtype=np.float32))
