"""Answers that are vectors without meaning of their own: length and a few fixed directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, numeric, role_of, tensor_rows
from driftpost_models.runtime import TensorSpec

MAX_DIRECTIONS = 16

MAX_ELEMENTS = 1 << 20
"""Elements of a vector. The directions' matrix is held in memory, 8 bytes for each element and direction."""


def directions(elements: int, count: int, seed: int) -> npt.NDArray[np.float64]:
    """Random unit vectors, `float64[elements, count]`, the same on every machine.

    The legacy generator is used because numpy promises (NEP 19) that its numbers never change.
    """
    drawn: npt.NDArray[np.float64] = np.random.RandomState(seed).standard_normal((elements, count))
    drawn /= np.sqrt(np.sum(drawn * drawn, axis=0, keepdims=True))
    return drawn


@dataclass
class Embedding(Probe):
    """Norm and projections of one vector per row, in natural units.

    Attributes:
        tensor: the tensor.
        side: `input` or `output`.
        prefix: put before stream names.
        elements: length of the vector.
        count: number of directions.
        seed: which directions.
    """

    kind: ClassVar[str] = "embedding"

    tensor: TensorSpec
    side: str
    prefix: str
    elements: int
    count: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= MAX_DIRECTIONS or not 1 <= self.elements <= MAX_ELEMENTS:
            raise ValueError(f"at most {MAX_DIRECTIONS} directions and {MAX_ELEMENTS} elements")
        self._directions = directions(self.elements, self.count, self.seed % (1 << 32))
        super().__post_init__()

    def streams(self) -> tuple[StreamDraft, ...]:
        """The norm and one stream for each direction."""
        role = role_of(self.side)
        names = ["norm", *(f"direction{k + 1}" for k in range(self.count))]
        return tuple(numeric(self.prefix + name, role) for name in names)

    def extract(self, block: Block) -> Extract:
        """Measure and project every vector."""
        raw = tensor_rows(block, self.tensor, self.side)
        if raw is None or raw[:1].size != self.elements:
            return missing(block.rows, 1 + self.count), {}
        vectors = self.tensor.real(raw.reshape(len(raw), -1)).astype(np.float64)
        with np.errstate(all="ignore"):
            norm = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
            return np.column_stack([norm, vectors @ self._directions]), {}
