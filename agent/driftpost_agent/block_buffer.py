"""A preallocated block of raw rows: where one inference is copied in about a microsecond.

Each tensor has one array whose first axis counts rows. A row of a small tensor is written as bytes into a
flat view of it, which measured at less than half the cost of assigning an array to a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftpost_models.probes.decimation import Decimation

# Rows that one vectorised pass turns into streams. A pass of 30 columns takes half a millisecond and leaves
# caches cold; with this many rows that is one call in a thousand, and the 99th percentile is none of them.
MAX_ROWS = 1024
# Decimated images of one block: a pass takes 3 to 10 us an image, and stays at a millisecond or two.
MAX_IMAGES = 256
# Bytes of one block. Large frames get fewer rows, so that two blocks never hold more than 2 MiB.
MAX_BYTES = 1 << 20

Raw = bytes | memoryview


@dataclass(frozen=True)
class TensorLayout:
    """A recorded tensor.

    Attributes:
        name: of the tensor.
        row_shape: of what is kept of one row.
        dtype: of its values.
        how: one row is decimated, None where all of it is kept.
    """

    name: str
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    how: Decimation | None = None

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.row_shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class RowLayout:
    """All tensors of one inference; compared by identity, as it is on the hot path."""

    inputs: tuple[TensorLayout, ...]
    outputs: tuple[TensorLayout, ...]

    @property
    def tensors(self) -> tuple[TensorLayout, ...]:
        """Inputs, then outputs: the order in which rows are given."""
        return self.inputs + self.outputs

    @property
    def capacity(self) -> int:
        """How many rows a block holds: from 1 to MAX_ROWS, or MAX_IMAGES, within MAX_BYTES."""
        row_bytes = sum(tensor.row_bytes for tensor in self.tensors)
        most = MAX_ROWS if all(tensor.how is None for tensor in self.tensors) else MAX_IMAGES
        return max(1, min(most, MAX_BYTES // max(1, row_bytes)))


class BlockBuffer:
    """Up to `capacity` rows of inputs and outputs with their latency and verdict.

    Attributes:
        rows: how many are filled.
        inputs, outputs: name to array[capacity, *row_shape].
        targets: flat byte view of each tensor's array and the bytes of its row, inputs first.
        latency_us: float64[capacity], NaN where the model gave no answer.
        verdict: int64[capacity].
        answered: bool[capacity], False where the outputs of a row hold nothing.
    """

    def __init__(self, layout: RowLayout) -> None:
        self.layout = layout
        self.capacity = capacity = layout.capacity
        self.rows = 0
        arrays = [np.empty((capacity, *tensor.row_shape), dtype=tensor.dtype) for tensor in layout.tensors]
        self._arrays: list[NDArray[Any]] = arrays
        names = [tensor.name for tensor in layout.tensors]
        split = len(layout.inputs)
        self.inputs = dict(zip(names[:split], arrays[:split], strict=True))
        self.outputs = dict(zip(names[split:], arrays[split:], strict=True))
        self.latency_us = np.empty(capacity, dtype=np.float64)
        self.verdict = np.empty(capacity, dtype=np.int64)
        self.answered = np.ones(capacity, dtype=np.bool_)
        # Setting one number through a memoryview takes a third of what setting it in the array does.
        self._latency: Any = self.latency_us.data
        self._verdict: Any = self.verdict.data
        self.targets = [
            (array.reshape(-1).view(np.uint8).data, tensor.row_bytes)
            for array, tensor in zip(arrays, layout.tensors, strict=True)
        ]

    def append(self, raws: Sequence[Raw], latency_us: float, verdict: int) -> bool:
        """Copy one row.

        Args:
            raws: the row's bytes of every tensor, in the order of `RowLayout.tensors`.
            latency_us: how long the model took, microseconds.
            verdict: code of the verdict.

        Returns:
            Whether the block is now full.
        """
        row = self.rows
        for (view, size), raw in zip(self.targets, raws, strict=True):
            start = row * size
            view[start : start + size] = raw
        self._latency[row] = latency_us
        self._verdict[row] = verdict
        self.rows = row = row + 1
        return row == self.capacity

    def append_pair(self, given: Raw, answer: Raw, latency_us: float) -> bool:
        """`append` for one input and one output without any reason, at half the cost."""
        row = self.rows
        (inputs, given_size), (outputs, answer_size) = self.targets
        start = row * given_size
        inputs[start : start + given_size] = given
        start = row * answer_size
        outputs[start : start + answer_size] = answer
        self._latency[row] = latency_us
        self._verdict[row] = 0
        self.rows = row = row + 1
        return row == self.capacity

    def append_unanswered(self, raws: Sequence[Raw], verdict: int) -> bool:
        """Copy the inputs of a row that the model failed on; otherwise as `append`."""
        row = self.rows
        for (view, size), raw in zip(self.targets, raws, strict=False):
            view[row * size : (row + 1) * size] = raw
        self.latency_us[row] = np.nan
        self.verdict[row] = verdict
        self.answered[row] = False
        self.rows = row = row + 1
        return row == self.capacity

    def clear(self) -> None:
        """Make room for new rows."""
        self.rows = 0
        self.answered[:] = True

    def extend(
        self,
        tensors: Sequence[NDArray[Any]],
        latency_us: float,
        verdicts: NDArray[np.int64],
        first: int,
    ) -> int:
        """Copy as many rows of a batch as fit, from row `first` of it on; returns how many were copied."""
        count = min(self.capacity - self.rows, len(verdicts) - first)
        to, source = slice(self.rows, self.rows + count), slice(first, first + count)
        for array, tensor in zip(self._arrays, tensors, strict=True):
            array[to] = tensor[source]
        self.latency_us[to] = latency_us
        self.verdict[to] = verdicts[source]
        self.rows += count
        return count
