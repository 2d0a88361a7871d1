"""Columns of a small tensor as categorical streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, role_of, tensor_rows
from driftpost_models.runtime import TensorSpec
from driftpost_sketches.schema import StreamKind


@dataclass
class CategoricalColumns(Probe):
    """Some elements of a row whose values are whole numbers that stand for categories.

    Attributes:
        tensor: an input or output of few elements.
        side: `input` or `output`.
        indices: which elements of the flattened row.
        names: stream names, one for each index.
    """

    kind: ClassVar[str] = "categorical_columns"

    tensor: TensorSpec
    side: str
    indices: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.indices) != len(self.names):
            raise ValueError("indices and names differ in length")
        super().__post_init__()

    def streams(self) -> tuple[StreamDraft, ...]:
        """One for each column."""
        role = role_of(self.side)
        return tuple(StreamDraft(name, StreamKind.CATEGORICAL, role) for name in self.names)

    def extract(self, block: Block) -> Extract:
        """Take the columns and round them to their category."""
        raw = tensor_rows(block, self.tensor, self.side)
        if raw is None or raw[:1].size <= max(self.indices, default=0):
            return missing(block.rows, len(self.indices)), {}
        columns = raw.reshape(len(raw), -1)[:, list(self.indices)]
        return np.rint(self.tensor.real(columns).astype(np.float64)), {}
