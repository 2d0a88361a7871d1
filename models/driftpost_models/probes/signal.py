"""What a technician would look at in a 1-D signal: level, loudness, peak, clipping, energy by octave."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, numeric, role_of, tensor_rows
from driftpost_models.runtime import TensorSpec

MAX_BANDS = 6
"""Octaves. Below the sixth a frame of usual length holds too few periods to measure."""

_SILENCE = 1e-12
"""Power added before the logarithm: -120 dB below one natural unit."""


def bands_for(length: int) -> int:
    """How many octave bands a frame of this many samples can tell apart."""
    return max(1, min(MAX_BANDS, int(math.log2(max(length, 2))) - 2))


@dataclass
class Signal(Probe):
    """A frame of samples per row, in natural units; several channels stand last and are averaged for bands.

    Band 1 is the lowest octave down to zero frequency, the last band ends at half the sampling rate; powers
    are in decibel over one squared natural unit, with the mean removed.

    Attributes:
        tensor: the signal tensor.
        side: `input` or `output`.
        prefix: put before stream names.
        channels: samples of one instant that stand side by side in the row.
        bands: number of octaves.
        low: raw value at and below which a sample is clipped.
        high: raw value at and above which a sample is clipped.
    """

    kind: ClassVar[str] = "signal"

    tensor: TensorSpec
    side: str
    prefix: str
    channels: int
    bands: int
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.channels < 1 or not 1 <= self.bands <= MAX_BANDS:
            raise ValueError(f"channels must be at least 1 and bands between 1 and {MAX_BANDS}")
        super().__post_init__()

    def streams(self) -> tuple[StreamDraft, ...]:
        """Level, loudness, peak, clipping and one stream for each band."""
        role = role_of(self.side)
        names = ["level", "rms", "peak", "clipping"]
        drafts = [numeric(self.prefix + name, role) for name in names]
        drafts += [numeric(f"{self.prefix}band{k + 1}", role, "dB") for k in range(self.bands)]
        return tuple(drafts)

    def extract(self, block: Block) -> Extract:
        """Measure every frame."""
        raw = tensor_rows(block, self.tensor, self.side)
        width = 4 + self.bands
        if raw is None or raw[:1].size < 2 * self.channels:
            return missing(block.rows, width), {}
        flat = raw.reshape(len(raw), -1)
        outside = np.less_equal(flat, self.low) | np.greater_equal(flat, self.high)
        clipped = np.count_nonzero(outside, axis=1) / flat.shape[1]
        samples = self.tensor.real(flat).astype(np.float64)
        level = samples.mean(axis=1)
        with np.errstate(all="ignore"):
            samples -= level[:, np.newaxis]
            rms = np.sqrt(np.mean(samples * samples, axis=1))
            peak = np.abs(samples).max(axis=1)
            mono = samples.reshape(len(raw), -1, self.channels).mean(axis=2) if self.channels > 1 else samples
            bands = self._bands(mono)
        return np.column_stack([level, rms, peak, clipped, bands]), {}

    def _bands(self, samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Power by octave in decibel, `[rows, bands]`, lowest first."""
        length = samples.shape[1]
        # Frames are cut from a longer signal: without a window every octave would show the cut.
        taper = np.hanning(length + 2)[1:-1]
        spectrum = np.fft.rfft(samples * taper, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2) * (2.0 / (length * float(np.sum(taper * taper))))
        count = power.shape[1]
        borders = [0, *(max(1, count >> k) for k in range(self.bands - 1, 0, -1)), count]
        sums = np.stack([power[:, a:b].sum(axis=1) for a, b in itertools.pairwise(borders)], axis=1)
        decibel: npt.NDArray[np.float64] = 10.0 * np.log10(sums + _SILENCE)
        return decibel
