"""A block of inferences: what probes read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from driftpost_models.probes.decimation import Positions
from driftpost_models.runtime import Array, TensorSpec


@dataclass
class Block:
    """Rows of inferences in the order in which they happened.

    Attributes:
        inputs: by tensor name, `[rows, ...]`, raw values as fed (without the batch dimension of one).
        outputs: likewise as returned; rows without an answer hold anything. A tensor that is absent is
            missing in every row.
        latency_us: `float64[rows]`, NaN where unknown.
        verdict: `int64[rows]`, codes of `driftpost_models.reasons.Reason`.
        received: `bool[rows]`, False where the inputs could not be kept (wrong shape or dtype); None for all
            True.
        answered: `bool[rows]`, False where the model gave no outputs; None for all True.
        positions: decimated images of inputs that are not in `inputs`, by tensor name.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    latency_us: npt.NDArray[np.float64]
    verdict: npt.NDArray[np.int64]
    received: npt.NDArray[np.bool_] | None = None
    answered: npt.NDArray[np.bool_] | None = None
    positions: Mapping[str, Positions] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of inferences."""
        return len(self.latency_us)


def rows_in_call(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> int:
    """How many rows one call holds: the common length of its batched inputs, else 1."""
    lengths = {inputs[spec.name].shape[0] for spec in specs if spec.batched}
    return lengths.pop() if len(lengths) == 1 else 1


def as_rows(spec: TensorSpec, value: Array, rows: int) -> Array | None:
    """One tensor of a call as `[rows, ...]`; None where it does not divide into them.

    Args:
        spec: the tensor.
        value: what was fed or returned.
        rows: what `rows_in_call` said.
    """
    if spec.batched and value.ndim and value.shape[0] == rows:
        return value
    # A state or a scalar belongs to the call as a whole.
    return value[np.newaxis] if rows == 1 else None
