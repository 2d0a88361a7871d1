"""What a camera's technician would look at: brightness, contrast, sharpness, saturation, colour, repeats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft, missing, numeric, role_of, tensor_rows
from driftpost_models.runtime import Array, TensorSpec

LAYOUTS = ("nhwc", "nchw", "hw")

THUMBNAIL = 48
"""Pixels along the geometric mean side of the decimated copy: 2,300 tell a mean to 2 % of its spread."""

SATURATED = 0.01
"""Share of the full scale next to either end that counts as saturated: 2 of 255."""

_CHUNK_VALUES = 1 << 20
"""Values worked on at a time: 4 MB of float32, whatever the block of large images."""

_FLAT = 1e-6
"""Contrast below which an image has no edges to be sharp."""


@dataclass
class Image(Probe):
    """Images of one input, all in shares of their full scale, so that builds with other dtypes speak alike.

    Sharpness is the root mean square step between neighbours at full resolution divided by the contrast:
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
        self._last: npt.NDArray[np.float32] | None = None

    def streams(self) -> tuple[StreamDraft, ...]:
        """Six streams, and two for colour."""
        role = role_of(self.side)
        names = ["brightness", "contrast", "sharpness", "dark_share", "bright_share", "frame_change"]
        if self._coloured:
            names += ["red_share", "blue_share"]
        units = {"brightness": "of full scale", "contrast": "of full scale", "frame_change": "of full scale"}
        return tuple(numeric(self.prefix + name, role, units.get(name, "")) for name in names)

    def extract(self, block: Block) -> Extract:
        """Measure every image on a decimated copy."""
        width = len(self.streams())
        raw = tensor_rows(block, self.tensor, self.side)
        if raw is None or len(raw) == 0:
            return missing(block.rows, width), {}
        planes = self._planes(raw)
        _, channels, tall, wide = planes.shape
        if tall < 2 or wide < 2:
            return missing(block.rows, width), {}
        stride = max(1, math.ceil(math.sqrt(tall * wide) / THUMBNAIL))
        positions = channels * math.ceil((tall - 1) / stride) * math.ceil((wide - 1) / stride)
        step = max(1, _CHUNK_VALUES // positions)
        with np.errstate(all="ignore"):
            parts = [self._measure(planes[at : at + step], stride) for at in range(0, len(planes), step)]
        return np.concatenate(parts), {}

    def _planes(self, raw: Array) -> Array:
        """View as `[rows, channels, height, width]` without an alpha channel."""
        if self.layout == "hw":
            return raw.reshape(len(raw), 1, *raw.shape[-2:])
        if self.layout == "nhwc":
            raw = np.moveaxis(raw.reshape(len(raw), *raw.shape[-3:]), -1, 1)
        else:
            raw = raw.reshape(len(raw), *raw.shape[-3:])
        return raw[:, :3]

    def _scaled(self, view: Array) -> npt.NDArray[np.float32]:
        scaled = np.ascontiguousarray(view, dtype=np.float32)
        if scaled is view:
            scaled = scaled.copy()
        scaled -= np.float32(self.low)
        scaled *= np.float32(1.0 / (self.high - self.low))
        return scaled

    def _measure(self, planes: Array, stride: int) -> npt.NDArray[np.float64]:
        rows, channels, tall, wide = planes.shape
        here = self._scaled(planes[:, :, : tall - 1 : stride, : wide - 1 : stride])
        right = self._scaled(planes[:, :, : tall - 1 : stride, 1::stride])
        below = self._scaled(planes[:, :, 1::stride, : wide - 1 : stride])
        flat = here.reshape(rows, -1)
        grey = here.mean(axis=1).reshape(rows, -1) if channels > 1 else flat
        brightness, contrast = grey.mean(axis=1), grey.std(axis=1)
        right -= here
        below -= here
        # Single precision throughout: rows are short, numpy sums pairwise, and memory traffic is what costs.
        across, down = right.reshape(rows, -1), below.reshape(rows, -1)
        steps = np.einsum("ij,ij->i", across, across) + np.einsum("ij,ij->i", down, down)
        edges = np.sqrt(steps / (2 * flat.shape[1]))
        sharpness = np.where(contrast > _FLAT, edges / np.maximum(contrast, _FLAT), contrast * 0.0)
        dark = np.count_nonzero(flat <= SATURATED, axis=1) / flat.shape[1]
        bright = np.count_nonzero(flat >= 1 - SATURATED, axis=1) / flat.shape[1]
        columns = [brightness, contrast, sharpness, dark, bright, self._change(flat, across)]
        if self._coloured:
            colour = here.reshape(rows, channels, -1).mean(axis=2)
            total = colour.sum(axis=1)
            # A black image has no colour: its balance is neutral, not missing.
            neutral = ~(np.abs(total) > _FLAT) & np.isfinite(total)
            columns += [np.where(neutral, 1 / 3, colour[:, c] / total) for c in (0, 2)]
        return np.stack(columns, axis=1).astype(np.float64)

    def _change(
        self, flat: npt.NDArray[np.float32], scratch: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Mean absolute step from the frame before, across the borders of blocks."""
        np.subtract(flat[1:], flat[:-1], out=scratch[1:])
        if self._last is not None and self._last.shape == flat[0].shape:
            np.subtract(flat[0], self._last, out=scratch[0])
        else:
            scratch[0] = np.nan
        np.abs(scratch, out=scratch)
        self._last = flat[-1].copy()
        change: npt.NDArray[np.float32] = scratch.mean(axis=1)
        return change
