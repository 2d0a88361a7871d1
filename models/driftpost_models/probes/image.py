"""What a camera's technician would look at: brightness, contrast, sharpness, saturation, colour, repeats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from driftpost_models.probes.block import Block
from driftpost_models.probes.decimation import Decimation, Positions
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, numeric, role_of, tensor_rows
from driftpost_models.probes.row_counts import row_counts
from driftpost_models.runtime import Array, TensorSpec

LAYOUTS = ("nhwc", "nchw", "hw")

SATURATED = 0.01
"""Share of the full scale next to either end that counts as saturated: 2 of 255."""

_CHUNK_VALUES = 1 << 18
"""Values of images worked on at a time: a megabyte in single precision."""

_FLAT = 1e-6
"""Contrast below which an image has no edges to be sharp."""


@dataclass
class Image(Probe):
    """Images of one input, all in shares of their full scale, so that builds with other dtypes speak alike.

    All is read at some hundred positions of the image (`Decimation`). Sharpness is the root mean square step
    between neighbours at full resolution, in the green channel of colour images, divided by the contrast:
    dimming does not change it, blur does. The frame change is the mean absolute step from the frame before;
    exactly 0 means a repeated frame. Colour shares assume red first; for BGR the two names change places.

    Attributes:
        tensor: the image tensor.
        side: `input` or `output`.
        prefix: put before stream names.
        layout: `nhwc`, `nchw` or `hw`.
        low: raw value of black.
        high: raw value of white.
    """

    kind: ClassVar[str] = "image"

    tensor: TensorSpec
    side: str
    prefix: str
    layout: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout {self.layout!r} is not one of {', '.join(LAYOUTS)}")
        if not self.high > self.low:
            raise ValueError("high must be above low")
        super().__post_init__()

    @property
    def _coloured(self) -> bool:
        shape = self.tensor.row_shape
        if self.layout == "hw" or len(shape) < 3:
            return False
        return (shape[-1] if self.layout == "nhwc" else shape[-3]) in (3, 4)

    def reset(self) -> None:
        """Forget the last frame."""
        self._last: tuple[Decimation, npt.NDArray[np.float32]] | None = None

    def streams(self) -> tuple[StreamDraft, ...]:
        """Six streams, and two for colour."""
        role = role_of(self.side)
        names = ["brightness", "contrast", "sharpness", "dark_share", "bright_share", "frame_change"]
        if self._coloured:
            names += ["red_share", "blue_share"]
        units = {"brightness": "of full scale", "contrast": "of full scale", "frame_change": "of full scale"}
        return tuple(numeric(self.prefix + name, role, units.get(name, "")) for name in names)

    def extract(self, block: Block) -> Extract:
        """Measure every image at its positions."""
        width = len(self.streams())
        found = block.positions.get(self.tensor.name) if self.side == "input" else None
        if found is None:
            raw = tensor_rows(block, self.tensor, self.side)
            how = None if raw is None or len(raw) == 0 else Decimation.of(self.layout, raw.shape[1:])
            if raw is None or how is None:
                return missing(block.rows, width), {}
            found = Positions(how, how.take_rows(raw))
        rows = max(1, _CHUNK_VALUES // found.kept.shape[1])
        parts = [self._measure(part) for part in found.slices(rows)]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)), {}

    def _measure(self, positions: Positions) -> npt.NDArray[np.float64]:
        how, raw = positions.how, positions.values
        rows, seen, count = len(raw), how.seen, how.count
        whole = np.float32(self.high - self.low)
        with np.errstate(all="ignore"):
            # Single precision throughout: rows are short, numpy sums pairwise, memory traffic is what costs.
            kept = positions.kept.astype(np.float32).reshape(rows, seen + 2, count)
            grey = kept[:, 0]
            if seen == 3:
                grey = grey + kept[:, 1]
                grey += kept[:, 2]
                grey *= np.float32(1 / 3)
            elif seen == 2:
                grey = kept[:, :2].mean(axis=1)
            change = self._change(how, grey) / whole
            level = grey.mean(axis=1)
            apart = grey - level[:, None]
            contrast = np.sqrt(_mean_square(apart)) / whole
            steps = kept[:, seen:] - kept[:, 1 if seen == 3 else 0][:, None]
            edges = np.sqrt(_mean_square(steps.reshape(rows, -1))) / whole
            sharpness = np.where(contrast > _FLAT, edges / np.maximum(contrast, _FLAT), contrast * 0.0)
            dark, bright = self._ends(raw)
            brightness = (level - np.float32(self.low)) / whole
            columns = [brightness, contrast, sharpness, dark, bright, change]
            if self._coloured:
                colour = (kept[:, :seen].mean(axis=2) - np.float32(self.low)) / whole
                total = colour.sum(axis=1)
                # A black image has no colour: its balance is neutral, not missing.
                neutral = ~(np.abs(total) > _FLAT) & np.isfinite(total)
                columns += [np.where(neutral, 1 / 3, colour[:, c] / total) for c in (0, 2)]
        return np.stack(columns, axis=1).astype(np.float64)

    def _ends(self, flat: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Shares of values next to black and to white."""
        margin = SATURATED * (self.high - self.low)
        low, high = self.low + margin, self.high - margin
        if flat.dtype.kind in "iu":
            # Compared as they are: 8-bit codes are compared 64 at a time.
            darkest, brightest = _code(math.floor(low), flat.dtype), _code(math.ceil(high), flat.dtype)
        else:
            darkest, brightest = np.array(low, flat.dtype), np.array(high, flat.dtype)
        size = flat.shape[1]
        return row_counts(np.less_equal(flat, darkest)) / size, row_counts(
            np.greater_equal(flat, brightest)
        ) / size

    def _change(self, how: Decimation, grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Mean absolute step from the frame before, across the borders of blocks."""
        steps = np.empty_like(grey)
        np.subtract(grey[1:], grey[:-1], out=steps[1:])
        if self._last is not None and self._last[0] == how:
            np.subtract(grey[0], self._last[1], out=steps[0])
        else:
            steps[0] = np.nan
        np.abs(steps, out=steps)
        self._last = how, grey[-1].copy()
        change: npt.NDArray[np.float32] = steps.mean(axis=1)
        return change


def _mean_square(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    squares: npt.NDArray[np.float32] = np.einsum("ij,ij->i", rows, rows)
    squares /= np.float32(rows.shape[1])
    return squares


def _code(value: int, dtype: np.dtype[np.generic]) -> Array:
    info = np.iinfo(dtype.str)
    return np.array(min(max(value, info.min), info.max), dtype)
