"""Feeding a model row by row: batches of one, states carried from output to input."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import ReferenceRefused
from driftpost_models.probes.block import Block
from driftpost_models.runtime import Array, Runtime, TensorSpec

_STATE_WORDS = ("state", "hidden", "memory", "cache")


class Feeder:
    """Calls a model with one row at a time.

    Inputs that the reference does not hold are states: they start at zero and are fed the output whose name
    begins with theirs after each call, or for inputs called a state the only output of their shape.

    Args:
        runtime: the model.
        given: names of the inputs that the reference holds.

    Raises:
        ReferenceRefused: an input is not given and no output feeds it.
    """

    def __init__(self, runtime: Runtime, given: Sequence[str]) -> None:
        self._runtime = runtime
        self.states: dict[str, str] = {}
        for spec in runtime.inputs:
            if spec.name not in given:
                self.states[spec.name] = _feedback(spec, runtime.outputs)
        self._specs = {spec.name: spec for spec in runtime.inputs}
        self._carried: dict[str, Array] = {}
        self.reset()

    def reset(self) -> None:
        """Set the states back to zero."""
        self._carried = {
            name: np.zeros([d or 1 for d in self._specs[name].shape], self._specs[name].dtype)
            for name in self.states
        }

    def call(self, rows: Mapping[str, Array], row: int) -> tuple[dict[str, Array], dict[str, Array], float]:
        """One call with one row.

        Returns:
            what was fed, what was answered (both with the batch dimension), and microseconds.
        """
        fed = dict(self._carried)
        for name, array in rows.items():
            value = array[row : row + 1] if self._specs[name].batched else array[row]
            fed[name] = np.ascontiguousarray(value).reshape(value.shape)
        begin = time.perf_counter_ns()
        answers = self._runtime.run(fed)
        elapsed = (time.perf_counter_ns() - begin) / 1000.0
        for name, output in self.states.items():
            self._carried[name] = answers[output]
        return fed, answers, elapsed

    def block(self, rows: Mapping[str, Array]) -> Block:
        """One call for each row, as a block."""
        count = len(next(iter(rows.values())))
        latency = np.empty(count)
        fed_rows: dict[str, list[Array]] = {}
        answer_rows: dict[str, list[Array]] = {}
        for row in range(count):
            fed, answers, latency[row] = self.call(rows, row)
            for spec in self._runtime.inputs:
                fed_rows.setdefault(spec.name, []).append(one_row(spec, fed[spec.name]))
            for spec in self._runtime.outputs:
                answer_rows.setdefault(spec.name, []).append(one_row(spec, answers[spec.name]))
        return Block(_stacked(fed_rows), _stacked(answer_rows), latency, np.zeros(count, np.int64))


def one_row(spec: TensorSpec, value: Array) -> Array:
    """The row in a call of one row."""
    return value[0] if spec.batched and value.ndim and value.shape[0] == 1 else value


def _stacked(rows: Mapping[str, Sequence[Array]]) -> dict[str, Array]:
    stacked = {}
    for name, arrays in rows.items():
        if len({array.shape for array in arrays}) > 1:
            raise ReferenceRefused(
                f"the tensor {name!r} changes its shape from row to row; give rows of one shape"
            )
        stacked[name] = np.stack(arrays)
    return stacked


def _feedback(spec: TensorSpec, outputs: Sequence[TensorSpec]) -> str:
    alike = [o for o in outputs if o.dtype == spec.dtype and len(o.shape) == len(spec.shape)]
    named = [o.name for o in alike if o.name.startswith(spec.name)]
    # An output of the same shape alone proves nothing: a forgotten input must not be fed with answers.
    called = any(word in spec.name.lower() for word in _STATE_WORDS)
    shaped = [o.name for o in alike if called and o.shape == spec.shape]
    for found in (named, shaped):
        if len(found) == 1:
            return found[0]
    raise ReferenceRefused(
        f"the reference holds nothing for the input {spec.name!r} ({spec.describe()}): "
        "add an array of that name to an .npz (a single value serves all rows)"
    )


def spread(rows: int, count: int) -> npt.NDArray[np.int64]:
    """Up to `count` different row numbers, spread evenly over `rows`."""
    return np.unique(np.linspace(0, rows - 1, min(count, rows)).round().astype(np.int64))


def blocks(rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Starts and stops of blocks of at most `size` rows."""
    for start in range(0, rows, size):
        yield start, min(start + size, rows)
