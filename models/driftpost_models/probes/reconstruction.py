"""Answers of an autoencoder: how far they are from what went in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, numeric, tensor_rows
from driftpost_models.runtime import TensorSpec
from driftpost_sketches.schema import Role


@dataclass
class Reconstruction(Probe):
    """Root mean square and largest error between an output and the input it repeats, in natural units.

    Attributes:
        original: the input.
        tensor: the output of the same row shape.
        prefix: put before stream names.
    """

    kind: ClassVar[str] = "reconstruction"

    original: TensorSpec
    tensor: TensorSpec
    prefix: str

    def streams(self) -> tuple[StreamDraft, ...]:
        """Two streams."""
        return (
            numeric(f"{self.prefix}reconstruction_error", Role.OUTPUT),
            numeric(f"{self.prefix}reconstruction_peak", Role.OUTPUT),
        )

    def extract(self, block: Block) -> Extract:
        """Compare every row."""
        before = tensor_rows(block, self.original, "input")
        after = tensor_rows(block, self.tensor, "output")
        if before is None or after is None or before[:1].size != after[:1].size or before[:1].size == 0:
            return missing(block.rows, 2), {}
        with np.errstate(all="ignore"):
            error = self.tensor.real(after.reshape(len(after), -1)).astype(np.float64)
            error -= self.original.real(before.reshape(len(before), -1))
            rms = np.sqrt(np.mean(error * error, axis=1))
            return np.stack([rms, np.abs(error).max(axis=1)], axis=1), {}
