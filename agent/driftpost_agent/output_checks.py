"""Is this answer one to act on? Finite, and as confident as the policy asks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftpost_models.probes.classification import Classification
from driftpost_models.reasons import Reason
from driftpost_models.runtime import TensorSpec

# Elements up to which comparing bytes beats a reduction.
SMALL = 1024


class OutputCheck:
    """Checks a call's outputs.

    Args:
        specs: of the outputs.
        scores: the probe that knows which output holds class scores, if there is one.
        min_confidence: least confidence of the best class, from 0 to 1; None asks for none.
    """

    def __init__(
        self, specs: Sequence[TensorSpec], scores: Classification | None, min_confidence: float | None
    ) -> None:
        self._floating = tuple(spec.name for spec in specs if spec.dtype.kind == "f")
        self._scores = scores if min_confidence is not None else None
        self._least = min_confidence or 0.0

    @property
    def scored(self) -> bool:
        """Whether more is asked of an answer than to be finite."""
        return self._scores is not None

    @staticmethod
    def range_of(shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lowest and highest finite float32, for each value of an answer."""
        largest = np.finfo(np.float32).max
        size = math.prod(shape)
        return np.full(size, -largest, np.float32), np.full(size, largest, np.float32)

    def examine(self, outputs: Mapping[str, NDArray[Any]], rows: int) -> list[set[Reason]] | None:
        """What is wrong with each row; None when nothing is.

        Args:
            outputs: as the model returned them.
            rows: of the call.
        """
        reasons: list[set[Reason]] | None = None
        for name in self._floating:
            finite = np.isfinite(outputs[name])
            if finite.size <= SMALL:
                if 0 not in finite.tobytes():
                    continue
            elif finite.all():
                continue
            reasons = reasons or [set() for _ in range(rows)]
            for row in _rows_with(~finite, rows):
                reasons[row].add(Reason.NONFINITE_OUTPUT)
        if self._scores is not None:
            unsure = self._confidence(self._scores, outputs, rows) < self._least
            if unsure.any():
                reasons = reasons or [set() for _ in range(rows)]
                for row in np.flatnonzero(unsure):
                    reasons[row].add(Reason.LOW_CONFIDENCE)
        return reasons

    @staticmethod
    def _confidence(
        scores: Classification, outputs: Mapping[str, NDArray[Any]], rows: int
    ) -> NDArray[np.floating[Any]]:
        """Confidence of the best class, float[rows]; NaN (never unsure) where it is not finite."""
        raw = outputs[scores.tensor.name].reshape(rows, -1)
        if scores.scores == "probabilities":
            # Dequantizing keeps the order, so only the largest code is turned into a share.
            return scores.tensor.real(raw.max(axis=1))
        confidence: NDArray[np.floating[Any]] = scores.probabilities(raw).max(axis=1)
        return confidence


def _rows_with(bad: NDArray[np.bool_], rows: int) -> NDArray[np.int64]:
    """Indices of the rows in which anything is bad; all of them where an output belongs to the whole call."""
    if bad.ndim and bad.shape[0] == rows:
        return np.flatnonzero(bad.reshape(rows, -1).any(axis=1))
    return np.arange(rows)
