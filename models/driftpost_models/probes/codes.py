"""Exact counts of every code of an 8-bit tensor: a lossless sketch of what a quantized model sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, role_of, values_of
from driftpost_models.runtime import TensorSpec
from driftpost_sketches.schema import StreamKind

MAX_ELEMENTS = 4096
"""Codes counted per row; of a larger tensor every n-th is taken, of a decimated image those of its positions:
counting every one would outweigh all else."""


@dataclass
class Codes(Probe):
    """Codes of one int8 or uint8 tensor.

    Attributes:
        tensor: the tensor.
        side: `input` or `output`.
        name: the stream's name.
    """

    kind: ClassVar[str] = "codes"

    tensor: TensorSpec
    side: str
    name: str

    def __post_init__(self) -> None:
        if self.tensor.dtype.kind not in "iu" or self.tensor.dtype.itemsize != 1:
            raise ValueError("only int8 and uint8 tensors have 256 codes")
        super().__post_init__()

    def streams(self) -> tuple[StreamDraft, ...]:
        """One codes stream; not tracked, as a row holds many dependent codes."""
        return (
            StreamDraft(
                self.name,
                StreamKind.CODES,
                role_of(self.side),
                tracked=False,
                lowest_code=-128 if self.tensor.dtype.kind == "i" else 0,
            ),
        )

    def extract(self, block: Block) -> Extract:
        """Hand the codes over."""
        raw = values_of(block, self.tensor, self.side)
        none = missing(block.rows, 0)
        if raw is None:
            return none, {self.name: np.empty((0, 0), self.tensor.dtype)}
        flat = raw.reshape(len(raw), -1)
        stride = max(1, math.ceil(flat.shape[1] / MAX_ELEMENTS))
        # Odd strides do not fall into step with rows of pixels or interleaved channels.
        return none, {self.name: flat[:, :: stride | 1 if stride > 1 else 1]}
