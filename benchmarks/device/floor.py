"""The floor: what observing a model costs plain numpy when nothing is checked, merged, stored or explained.

A ring of 256 raw rows in one preallocated buffer; once it is full, one pass: histograms of every input with
edges of its own, moments, extremes, a random-feature mean, and class, confidence and entropy of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 256
BINS = 20
FEATURE_PAIRS = 32

Call = Callable[[NDArray[Any]], NDArray[Any]]


class NumpyObserver:
    """Observes a model of float32 rows.

    Args:
        reference: float32[rows, inputs], for the edges.
        outputs: numbers in an answer.
    """

    def __init__(self, reference: NDArray[np.float32], outputs: int) -> None:
        inputs = reference.shape[1]
        shares = np.arange(1, BINS) / BINS
        self._edges = np.quantile(reference, shares, axis=0).astype(np.float32)
        self._row_bytes = 4 * (inputs + outputs)
        self._buffer = bytearray(ROWS * self._row_bytes)
        self._view = memoryview(self._buffer)
        self._rows = np.frombuffer(self._buffer, np.float32).reshape(ROWS, inputs + outputs)
        self._inputs = inputs
        self._at = 0
        rng = np.random.default_rng(0)
        self._directions = rng.normal(size=(inputs, FEATURE_PAIRS)).astype(np.float32) / np.float32(
            inputs**0.5
        )
        self.counts = np.zeros((inputs, BINS), np.int64)
        self.sums = np.zeros((2, inputs))
        self.low, self.high = np.full(inputs, np.inf), np.full(inputs, -np.inf)
        self.mean = np.zeros(2 * FEATURE_PAIRS)
        self.classes = np.zeros(outputs, np.int64)
        self.answers = np.zeros(2)
        self.rows = 0

    def observe(self, inputs: NDArray[Any], answer: NDArray[Any]) -> None:
        """One row and its answer."""
        at = self._at
        end = at + self._row_bytes
        self._view[at:end] = inputs.tobytes() + answer.tobytes()
        if end == len(self._buffer):
            self._pass()
            end = 0
        self._at = end

    def _pass(self) -> None:
        x, p = self._rows[:, : self._inputs], self._rows[:, self._inputs :]
        ordered = np.sort(x.T, axis=1)
        for i, column in enumerate(ordered):
            below = np.searchsorted(column, self._edges[:, i])
            self.counts[i] += np.diff(below, prepend=0, append=ROWS)
        self.low = np.minimum(self.low, ordered[:, 0])
        self.high = np.maximum(self.high, ordered[:, -1])
        self.sums[0] += x.sum(axis=0)
        self.sums[1] += np.einsum("ij,ij->j", x, x)
        phases = x @ self._directions
        self.mean[:FEATURE_PAIRS] += np.cos(phases).sum(axis=0)
        self.mean[FEATURE_PAIRS:] += np.sin(phases).sum(axis=0)
        self.classes += np.bincount(p.argmax(axis=1), minlength=p.shape[1])
        self.answers[0] += p.max(axis=1).sum()
        self.answers[1] -= float((p * np.log2(p + np.float32(1e-12))).sum())
        self.rows += ROWS


def observed(call: Call, observer: NumpyObserver) -> Call:
    """The model's call with the observer around it."""

    def run(row: NDArray[Any]) -> NDArray[Any]:
        answer = call(row)
        observer.observe(row, answer)
        return answer

    return run


def warm(observer: NumpyObserver, rows: Sequence[NDArray[Any]], answer: NDArray[Any]) -> None:
    """One block, so that numpy's first-use costs are paid."""
    for row in rows[:ROWS]:
        observer.observe(row, answer)
