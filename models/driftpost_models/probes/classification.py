"""Answers of a classifier: class, confidence, margin, entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, numeric, tensor_rows
from driftpost_models.runtime import TensorSpec
from driftpost_sketches.schema import Role, StreamKind

SCORES = ("probabilities", "logits", "binary")

MAX_FIXED_CLASSES = 64
"""Classes that all become categories; of more, the reference's most frequent ones do."""

_Float = TypeVar("_Float", bound=np.floating[Any])


@dataclass
class Classification(Probe):
    """Scores of one output, one for each class.

    Attributes:
        tensor: the output; its row holds one score for each class, or a single probability.
        prefix: put before stream names.
        scores: `probabilities` (softmax already applied), `logits`, or `binary` (one probability of class 1).
        classes: display names, empty where unknown.
    """

    kind: ClassVar[str] = "classification"

    tensor: TensorSpec
    prefix: str
    scores: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.scores not in SCORES:
            raise ValueError(f"scores {self.scores!r} is not one of {', '.join(SCORES)}")
        super().__post_init__()

    @property
    def count(self) -> int:
        """Number of classes."""
        if self.scores == "binary":
            return 2
        size = 1
        for d in self.tensor.row_shape:
            size *= d or 1
        return max(size, len(self.classes))

    @property
    def answers(self) -> str:
        """Name of the stream of answers."""
        return f"{self.prefix}class"

    def streams(self) -> tuple[StreamDraft, ...]:
        """Four streams."""
        fixed = self.count <= MAX_FIXED_CLASSES
        categories = tuple(range(self.count)) if fixed else ()
        labels = self.classes or (tuple(str(c) for c in categories))
        return (
            StreamDraft(
                f"{self.prefix}class",
                StreamKind.CATEGORICAL,
                Role.OUTPUT,
                labels=tuple(labels),
                categories=categories,
            ),
            numeric(f"{self.prefix}confidence", Role.OUTPUT),
            numeric(f"{self.prefix}margin", Role.OUTPUT),
            numeric(f"{self.prefix}entropy", Role.OUTPUT, "bits"),
        )

    def extract(self, block: Block) -> Extract:
        """Read every answer."""
        raw = tensor_rows(block, self.tensor, "output")
        if raw is None or raw[:1].size == 0:
            return missing(block.rows, 4), {}
        # Single precision tells shares and bits to seven digits, at a tenth of the cost.
        scores = self.tensor.real(raw.reshape(len(raw), -1)).astype(np.float32, copy=False)
        return self.measure(self._probabilities(scores)), {}

    def probabilities(self, raw: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        """Probabilities by class.

        Args:
            raw: `[rows, ...]` as the model returned them.

        Returns:
            `float64[rows, classes]`. Those of a quantized softmax keep its grid and sum to 1 only nearly.
        """
        return self._probabilities(self.tensor.real(raw.reshape(len(raw), -1)).astype(np.float64))

    def _probabilities(self, scores: npt.NDArray[_Float]) -> npt.NDArray[_Float]:
        with np.errstate(all="ignore"):
            if self.scores == "binary":
                return np.column_stack([1 - scores[:, 0], scores[:, 0]])
            if self.scores == "logits":
                powers = np.exp(scores - scores.max(axis=1, keepdims=True))
                probabilities: npt.NDArray[_Float] = powers / powers.sum(axis=1, keepdims=True)
                return probabilities
        return scores

    @staticmethod
    def measure(probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Class, confidence, margin and entropy, `float64[rows, 4]`; NaN where a score is not finite."""
        rows, classes = probabilities.shape
        every, best = np.arange(rows), probabilities.argmax(axis=1)
        # A few classes stand first, as numpy then goes through all rows at once; many stand in a row each.
        # A row's sum depends in neither case on how many rows there are.
        few = classes <= MAX_FIXED_CLASSES
        scores, axis = (np.ascontiguousarray(probabilities.T), 0) if few else (probabilities, 1)
        with np.errstate(all="ignore"):
            confidence = margin = probabilities[every, best]
            if classes > 1:
                rest = scores.copy()
                rest[(best, every) if few else (every, best)] = -np.inf
                margin = confidence - rest.max(axis=axis)
            positive = np.maximum(scores, 0)
            total = positive.sum(axis=axis)
            # Normalised only here: a quantized softmax sums to 1 within its grid.
            positive /= np.expand_dims(total, axis)
            logarithms = np.maximum(positive, np.finfo(positive.dtype).tiny)
            np.log(logarithms, out=logarithms)
            logarithms *= positive
            entropy = logarithms.sum(axis=axis).astype(np.float64) / -math.log(2)
        # Rounding may leave a hair below zero.
        entropy = np.where(total > 0, np.maximum(entropy, 0.0) + 0.0, np.nan)
        measured = np.stack([best.astype(np.float64), confidence, margin, entropy], axis=1)
        measured[~np.isfinite(scores).all(axis=axis)] = np.nan
        return measured
