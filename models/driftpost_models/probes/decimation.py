"""What is kept of a large image: pairs of neighbouring pixel rows, evenly spaced.

Pixel rows are runs of memory, so taking some of a frame costs a microsecond where copying all of it, or
picking single pixels from it, costs ten and more. Within the pairs every so many pixels are read, with the
neighbour to the right and the one below: enough for light, colour, codes and sharpness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from driftpost_models.runtime import Array

SPACING = 8
"""Pixels between positions: what is next to each other looks alike."""

FEWEST, MOST = 12, 24
"""Positions along a side: 12 tell a mean to 8 % of its spread, 24 to 4 %. Large images have slow models."""

DECIMATED_BYTES = 4096
"""Bytes of a row above which an image is decimated: below, copying all of it costs no more."""


@dataclass(frozen=True)
class Positions:
    """Pixels of decimated images.

    Attributes:
        how: they were decimated.
        here: array[rows, channels, pairs, positions] in one piece, of up to three channels.
        right: array[rows, pairs, positions], neighbours to the right in one channel (the second of three).
        below: array[rows, pairs, positions], neighbours below in that channel.
    """

    how: Decimation
    here: Array
    right: Array
    below: Array

    @property
    def values(self) -> Array:
        """The pixels without their neighbours, array[rows, values]."""
        return self.here.reshape(len(self.here), -1)

    def slices(self, rows: int) -> list[Positions]:
        """The same in parts of so many rows at most."""
        return [
            Positions(self.how, self.here[at:end], self.right[at:end], self.below[at:end])
            for at in range(0, len(self.here), rows)
            for end in (at + rows,)
        ]

    @classmethod
    def joined(cls, parts: Sequence[Positions]) -> Positions:
        """Inverse of `slices`."""
        return cls(
            parts[0].how,
            np.concatenate([part.here for part in parts]),
            np.concatenate([part.right for part in parts]),
            np.concatenate([part.below for part in parts]),
        )


@dataclass(frozen=True)
class Decimation:
    """How images of one shape are decimated.

    Attributes:
        layout: `nhwc`, `nchw` or `hw`.
        channels: of the image, an alpha channel included.
        tall: pixel rows.
        wide: pixels in a row.
    """

    layout: str
    channels: int
    tall: int
    wide: int

    @classmethod
    def of(cls, layout: str, row_shape: Sequence[int]) -> Decimation | None:
        """For images of a shape; None where that has no two neighbouring rows and pixels."""
        if len(row_shape) < (2 if layout == "hw" else 3):
            return None
        if layout == "hw":
            channels, tall, wide = 1, row_shape[-2], row_shape[-1]
        elif layout == "nhwc":
            tall, wide, channels = row_shape[-3:]
        else:
            channels, tall, wide = row_shape[-3:]
        if tall < 2 or wide < 2 or channels < 1 or math.prod(row_shape) != channels * tall * wide:
            return None
        return cls(layout, channels, tall, wide)

    @cached_property
    def step(self) -> int:
        """Pixel rows from one pair to the next."""
        return _spacing(self.tall)

    @cached_property
    def stride(self) -> int:
        """Pixels from one position in a row to the next."""
        return _spacing(self.wide)

    @cached_property
    def pairs(self) -> int:
        """Pairs of rows."""
        return self.tall // self.step if self.step > 1 else self.tall - 1

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a decimated image: planes, pairs, values of a pair. Interleaved channels are one plane."""
        if self.layout == "nhwc":
            return 1, self.pairs, 2 * self.wide * self.channels
        return self.channels, self.pairs, 2 * self.wide

    @cached_property
    def _line(self) -> int:
        """Values of a pixel row."""
        return self.shape[2] // 2

    @cached_property
    def _lines(self) -> npt.NDArray[np.intp]:
        """Numbers of the pixel rows that are kept, counted through the planes; pairs lie amid their step."""
        first = np.arange(self.pairs) * self.step + max(0, self.step - 2) // 2
        lines = np.arange(self.shape[0])[:, None, None] * self.tall + first[:, None] + np.arange(2)
        return lines.reshape(-1).astype(np.intp)

    def take(self, image: Array) -> Array:
        """One image's pairs.

        Args:
            image: array of the image's shape, ones before it allowed.

        Returns:
            array[shape], a copy.
        """
        # Whole pixel rows by number: no view of the frame has to be made for that.
        rows: Array = image.reshape(-1, self._line).take(self._lines, axis=0)
        return rows.reshape(self.shape)

    def take_rows(self, images: Array) -> Array:
        """The pairs of several images: array[rows, *shape]."""
        rows: Array = images.reshape(len(images), -1, self._line).take(self._lines, axis=1)
        return rows.reshape(len(images), *self.shape)

    def positions(self, pairs: Array) -> Positions:
        """Read the positions from `array[rows, *shape]`."""
        at = slice((self.stride - 1) // 2, self.wide - 1, self.stride)
        beside = slice(at.start + 1, self.wide, self.stride)
        seen = min(self.channels, 3)
        sharp = 1 if seen == 3 else 0
        if self.layout == "nhwc":
            pixels = pairs.reshape(len(pairs), self.pairs, 2, self.wide, self.channels)
            here = np.moveaxis(pixels[:, :, 0, at, :seen], -1, 1)
            right, below = pixels[:, :, 0, beside, sharp], pixels[:, :, 1, at, sharp]
        else:
            lines = pairs.reshape(len(pairs), self.channels, self.pairs, 2, self.wide)
            here = lines[:, :seen, :, 0, at]
            right, below = lines[:, sharp, :, 0, beside], lines[:, sharp, :, 1, at]
        return Positions(self, np.ascontiguousarray(here), right, below)


def _spacing(side: int) -> int:
    """Pixels from one position to the next along a side."""
    return max(1, math.ceil(side / MOST), min(SPACING, side // FEWEST))


@dataclass(frozen=True)
class Decimated:
    """Rows of decimated images.

    Attributes:
        how: they were decimated.
        pairs: array[rows, *how.shape].
    """

    how: Decimation
    pairs: Array
