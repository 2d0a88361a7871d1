"""Answers that are numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, numeric, tensor_rows
from driftpost_models.runtime import TensorSpec
from driftpost_sketches.schema import Role


@dataclass
class Regression(Probe):
    """Every element of one output in natural units.

    Attributes:
        tensor: an output of few elements.
        names: stream names, one for each element.
        units: their units, one for each element.
    """

    kind: ClassVar[str] = "regression"

    tensor: TensorSpec
    names: tuple[str, ...]
    units: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.units):
            raise ValueError("names and units differ in length")
        super().__post_init__()

    def streams(self) -> tuple[StreamDraft, ...]:
        """One for each element."""
        return tuple(
            numeric(name, Role.OUTPUT, unit) for name, unit in zip(self.names, self.units, strict=True)
        )

    def extract(self, block: Block) -> Extract:
        """Take the elements."""
        raw = tensor_rows(block, self.tensor, "output")
        if raw is None or raw[:1].size != len(self.names):
            return missing(block.rows, len(self.names)), {}
        return self.tensor.real(raw.reshape(len(raw), -1)).astype(np.float64), {}
