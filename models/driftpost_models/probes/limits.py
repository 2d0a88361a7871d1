"""Share of a quantized tensor's values that stand at either limit of its codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, numeric, role_of, values_of
from driftpost_models.probes.row_counts import row_counts
from driftpost_models.runtime import TensorSpec
from driftpost_sketches.drift.describe import LIMITS_UNIT


@dataclass
class Limits(Probe):
    """A wrong scale or a saturated sensor shows here before anywhere else.

    Attributes:
        tensor: an integer tensor of 8 or 16 bits.
        side: `input` or `output`.
        name: the stream's name.
    """

    kind: ClassVar[str] = "limits"

    tensor: TensorSpec
    side: str
    name: str

    def __post_init__(self) -> None:
        if self.tensor.dtype.kind not in "iu":
            raise ValueError("only integer tensors have limits")
        super().__post_init__()

    def streams(self) -> tuple[StreamDraft, ...]:
        """One stream."""
        return (numeric(self.name, role_of(self.side), LIMITS_UNIT),)

    def extract(self, block: Block) -> Extract:
        """Count in every row."""
        raw = values_of(block, self.tensor, self.side)
        if raw is None or raw[:1].size == 0:
            return missing(block.rows, 1), {}
        flat = raw.reshape(len(raw), -1)
        # One comparison instead of two: this shift brings both limits to 0 and 1, and all else above.
        unsigned = flat.view(f"u{self.tensor.dtype.itemsize}")
        shift = 1 if self.tensor.dtype.kind == "u" else (1 << (8 * self.tensor.dtype.itemsize - 1)) + 1
        at_limit = unsigned + unsigned.dtype.type(shift) <= 1
        counts = row_counts(at_limit)
        return counts[:, np.newaxis] / flat.shape[1], {}
