"""Any tensor at all: its mean, spread, lowest and highest value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, numeric, role_of, tensor_rows
from driftpost_models.runtime import TensorSpec


@dataclass
class Summary(Probe):
    """Four numbers per row in natural units, for tensors that no other probe understands.

    Attributes:
        tensor: the tensor.
        side: `input` or `output`.
        prefix: put before stream names.
        watched: whether detectors watch the streams; a recurrent state wanders by design.
    """

    kind: ClassVar[str] = "summary"

    tensor: TensorSpec
    side: str
    prefix: str
    watched: bool

    def streams(self) -> tuple[StreamDraft, ...]:
        """Four streams."""
        role = role_of(self.side)
        names = ("mean", "spread", "lowest", "highest")
        return tuple(numeric(self.prefix + name, role, tracked=self.watched) for name in names)

    def extract(self, block: Block) -> Extract:
        """Measure every row."""
        raw = tensor_rows(block, self.tensor, self.side)
        if raw is None or raw[:1].size == 0:
            return missing(block.rows, 4), {}
        values = self.tensor.real(raw.reshape(len(raw), -1))
        with np.errstate(all="ignore"):
            columns = [
                values.mean(axis=1, dtype=np.float64),
                values.std(axis=1, dtype=np.float64),
                values.min(axis=1).astype(np.float64),
                values.max(axis=1).astype(np.float64),
            ]
        return np.stack(columns, axis=1), {}
