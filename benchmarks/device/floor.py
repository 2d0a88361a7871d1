"""The floor: what observing a model costs plain numpy when nothing is checked, merged, stored or explained.

A ring of 256 raw rows in one preallocated buffer; once it is full, one pass: histograms of every input with
edges of its own, moments, extremes, a random-feature mean, and class, confidence and entropy of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

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
        self._answers(p)
        self.rows += ROWS

    def _answers(self, p: NDArray[np.float32]) -> None:
        self.classes += np.bincount(p.argmax(axis=1), minlength=p.shape[1])
        self.answers[0] += p.max(axis=1).sum()
        self.answers[1] -= float((p * np.log2(p + np.float32(1e-12))).sum())


class CodesObserver(NumpyObserver):
    """Observes a model of int8 rows: how often each input showed each code, and the same of the answers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(np.zeros((1, inputs), np.float32), outputs)
        self._row_bytes = inputs + 4 * outputs
        self._buffer = bytearray(ROWS * self._row_bytes)
        self._view = memoryview(self._buffer)
        self._bytes = np.frombuffer(self._buffer, np.uint8).reshape(ROWS, self._row_bytes)
        self._places = (np.arange(inputs) * 256).astype(np.int32)
        self.codes = np.zeros(inputs * 256, np.int64)

    def _pass(self) -> None:
        codes = self._bytes[:, : self._inputs] + self._places
        self.codes += np.bincount(codes.ravel(), minlength=len(self.codes))
        p = np.ascontiguousarray(self._bytes[:, self._inputs :]).view(np.float32)
        self._answers(p)
        self.rows += ROWS


class ImageObserver:
    """Observes a model of images: keeps every 8th pixel; takes light, contrast and codes of 32 at a time."""

    EVERY, IMAGES = 8, 32

    def __init__(self, row_shape: Sequence[int]) -> None:
        across = -(-row_shape[-1] // self.EVERY)
        self._kept = np.empty((self.IMAGES, row_shape[0], -(-row_shape[1] // self.EVERY), across), np.int8)
        self._at = 0
        self.codes = np.zeros(256, np.int64)
        self.sums = np.zeros(2)

    def observe(self, inputs: NDArray[Any], answer: NDArray[Any]) -> None:
        """One image; its answer is left alone."""
        self._kept[self._at] = inputs[0, :, :: self.EVERY, :: self.EVERY]
        self._at += 1
        if self._at == self.IMAGES:
            self._at = 0
            flat = self._kept.reshape(self.IMAGES, -1)
            self.codes += np.bincount(flat.view(np.uint8).ravel(), minlength=256)
            values = flat.astype(np.float32)
            self.sums += values.mean(axis=1).sum(), values.std(axis=1).sum()


class Observer(Protocol):
    """What sees every row and its answer."""

    def observe(self, inputs: NDArray[Any], answer: NDArray[Any]) -> None:
        """One row and its answer."""


def observed(call: Call, observer: Observer) -> Call:
    """The model's call with the observer around it."""

    def run(row: NDArray[Any]) -> NDArray[Any]:
        answer = call(row)
        observer.observe(row, answer)
        return answer

    return run
