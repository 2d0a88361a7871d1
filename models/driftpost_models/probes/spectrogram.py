"""Frames of features over time, such as MFCCs or log-mel bands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, numeric, role_of, tensor_rows
from driftpost_models.runtime import TensorSpec

MAX_BANDS = 10
"""Groups of features. A group a feature for MFCCs (10 to 13), a few mel bands each for spectrograms."""


@dataclass
class Spectrogram(Probe):
    """A matrix of `frames x features` per row, in natural units.

    Attributes:
        tensor: the tensor; its row is reshaped to frames of `features`.
        side: `input` or `output`.
        prefix: put before stream names.
        features: values of one frame.
    """

    kind: ClassVar[str] = "spectrogram"

    tensor: TensorSpec
    side: str
    prefix: str
    features: int

    def __post_init__(self) -> None:
        if self.features < 1:
            raise ValueError("features must be at least 1")
        super().__post_init__()

    @property
    def _borders(self) -> list[int]:
        groups = min(self.features, MAX_BANDS)
        return [round(k * self.features / groups) for k in range(groups + 1)]

    def streams(self) -> tuple[StreamDraft, ...]:
        """Level, spread, peak, movement and the mean of each group of features."""
        role = role_of(self.side)
        names = ["level", "spread", "peak", "movement"]
        names += [f"feature{a}" if b == a + 1 else f"features{a}_{b - 1}" for a, b in self._groups()]
        return tuple(numeric(self.prefix + name, role) for name in names)

    def _groups(self) -> list[tuple[int, int]]:
        return list(zip(self._borders, self._borders[1:], strict=False))

    def extract(self, block: Block) -> Extract:
        """Measure every matrix."""
        raw = tensor_rows(block, self.tensor, self.side)
        groups = self._groups()
        if raw is None or raw[:1].size == 0 or raw[:1].size % self.features:
            return missing(block.rows, 4 + len(groups)), {}
        frames = self.tensor.real(raw.reshape(len(raw), -1, self.features)).astype(np.float64)
        with np.errstate(all="ignore"):
            flat = frames.reshape(len(frames), -1)
            # One frame does not move.
            moves = np.abs(np.diff(frames, axis=1)) if frames.shape[1] > 1 else np.zeros((len(frames), 1, 1))
            columns = [flat.mean(axis=1), flat.std(axis=1), np.abs(flat).max(axis=1), moves.mean(axis=(1, 2))]
            means = frames.mean(axis=1)
            columns += [means[:, a:b].mean(axis=1) for a, b in groups]
        return np.stack(columns, axis=1), {}
