"""Columns of a small tensor as numeric streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, numeric, role_of, tensor_rows
from driftpost_models.runtime import TensorSpec


@dataclass
class NumericColumns(Probe):
    """Some elements of a row, each in natural units (dequantized).

    Attributes:
        tensor: an input or output of few elements.
        side: `input` or `output`.
        indices: which elements of the flattened row.
        names: stream names, one for each index.
        units: their units, one for each index.
    """

    kind: ClassVar[str] = "numeric_columns"

    tensor: TensorSpec
    side: str
    indices: tuple[int, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.indices) == len(self.names) == len(self.units):
            raise ValueError("indices, names and units differ in length")
        super().__post_init__()

    def streams(self) -> tuple[StreamDraft, ...]:
        """One for each column."""
        role = role_of(self.side)
        return tuple(numeric(name, role, unit) for name, unit in zip(self.names, self.units, strict=True))

    def extract(self, block: Block) -> Extract:
        """Take the columns."""
        raw = tensor_rows(block, self.tensor, self.side)
        if raw is None or raw[:1].size <= max(self.indices, default=0):
            return missing(block.rows, len(self.indices)), {}
        columns = raw.reshape(len(raw), -1)[:, list(self.indices)]
        return self.tensor.real(columns).astype(np.float64), {}
