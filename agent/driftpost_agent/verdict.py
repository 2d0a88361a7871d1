"""The guard's word on one inference: a status, and the reasons for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftpost_models.reasons import Reason

__all__ = ["OK", "GuardedResult", "Reason", "Status", "Verdict", "verdict_of"]


class Status(str, Enum):
    """What the guard did with the inference."""

    OK = "ok"
    FLAGGED = "flagged"
    ABSTAINED = "abstained"
    FALLBACK = "fallback"


@dataclass(frozen=True)
class Verdict:
    """Status and reasons, in the order in which they were checked; no reasons means ok."""

    status: Status
    reasons: tuple[Reason, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing at all was found."""
        return self.status is Status.OK

    @property
    def code(self) -> int:
        """The category that the stream "verdict" counts: that of the first reason."""
        return int(self.reasons[0]) if self.reasons else int(Reason.OK)


OK = Verdict(Status.OK)


def verdict_of(status: Status, reasons: Iterable[Reason]) -> Verdict:
    """Build a verdict with each reason once, the first thing that was wrong first."""
    return Verdict(status, tuple(sorted(set(reasons))))


class GuardedResult(NamedTuple):
    """What `Guard.run` returns.

    Attributes:
        outputs: the model's outputs by name; empty when the guard abstained or the model could not run.
        verdict: the guard's word on it; of several rows, the gravest status and every reason.
        inference_id: names this inference in logs and delayed labels: the caller's own id, else the guard's
            incarnation and running number.
        rows: how many rows (items of a batch) this call carried.
        detail: why the model could not be asked or gave no answer, in a sentence; empty otherwise.
    """

    outputs: Mapping[str, NDArray[Any]]
    verdict: Verdict
    inference_id: str
    rows: int = 1
    detail: str = ""

    @property
    def output(self) -> NDArray[Any]:
        """The first output, for models with a single one; an empty float32 array if there is none."""
        return next(iter(self.outputs.values()), np.empty(0, dtype=np.float32))
