"""What is kept of a large image: pairs of neighbouring pixel rows, evenly spaced.

A pair of rows is one run of memory, so taking the pairs of a frame costs a microsecond or two where copying
the frame, or picking single pixels from it, costs ten and more. Within the pairs every so many pixels are
read, with the neighbour to the right and the one below: enough for light, colour, codes and sharpness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from driftpost_models.runtime import Array

GRID = 20
"""Positions along each side of an image: some 400 in all, which tell a mean to 5 % of its spread."""

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
        return math.ceil(self.tall / GRID)

    @cached_property
    def stride(self) -> int:
        """Pixels from one position in a row to the next."""
        return max(1, math.ceil(self.wide / GRID))

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
    def _first(self) -> int:
        """Where a pair begins in its step, in values: in the middle."""
        return (self.step - 2) // 2 * self.shape[2] // 2 if self.step > 2 else 0

    def take(self, image: Array) -> Array:
        """One image's pairs.

        Args:
            image: array of the image's shape, ones before it allowed.

        Returns:
            array[shape], a copy.
        """
        planes, pairs, run = self.shape
        if self.step == 1:
            (only,) = self.take_rows(image[np.newaxis])
            return np.asarray(only)
        whole = image.reshape(planes, self.tall, -1)
        if self.tall != pairs * self.step:
            whole = whole[:, : pairs * self.step]
        taken: Array = whole.reshape(planes, pairs, -1)[:, :, self._first : self._first + run].copy()
        return taken

    def take_rows(self, images: Array) -> Array:
        """The pairs of several images: array[rows, *shape]."""
        planes, pairs, run = self.shape
        whole = images.reshape(len(images), planes, self.tall, -1)
        if self.step == 1:
            return np.concatenate([whole[:, :, :-1], whole[:, :, 1:]], axis=3)
        whole = whole[:, :, : pairs * self.step].reshape(len(images), planes, pairs, -1)
        return np.ascontiguousarray(whole[..., self._first : self._first + run])

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


@dataclass(frozen=True)
class Decimated:
    """Rows of decimated images.

    Attributes:
        how: they were decimated.
        pairs: array[rows, *how.shape].
    """

    how: Decimation
    pairs: Array
