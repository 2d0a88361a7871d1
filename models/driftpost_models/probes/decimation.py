"""What is kept of a large image: evenly spaced pixels, each with a neighbour to the right and one below.

That is enough for light, colour, codes and sharpness. One call into numpy picks them, a nanosecond each, from
runs of memory that the model reads next anyway; what is kept is a hundredth of a frame, so that a block of
hundreds of frames does not push the model's weights out of the caches.
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
        kept: array[rows, *how.shape]: the pixels of up to three channels, one channel after the other, then
            their neighbours to the right and those below, in one channel (the second of three).
    """

    how: Decimation
    kept: Array

    @property
    def values(self) -> Array:
        """The pixels without their neighbours, array[rows, values]."""
        return self.kept[:, : self.how.seen * self.how.count]

    def slices(self, rows: int) -> list[Positions]:
        """The same in parts of so many rows at most."""
        return [Positions(self.how, self.kept[at : at + rows]) for at in range(0, len(self.kept), rows)]


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
        """Pixel rows from one position to the next."""
        return _spacing(self.tall)

    @cached_property
    def stride(self) -> int:
        """Pixels from one position in a row to the next."""
        return _spacing(self.wide)

    @cached_property
    def seen(self) -> int:
        """Channels that are looked at; a fourth is no colour."""
        return min(self.channels, 3)

    @cached_property
    def _places(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Pixel rows and columns of the positions, amid their steps."""
        return (
            np.arange((self.step - 1) // 2, self.tall - 1, self.step),
            np.arange((self.stride - 1) // 2, self.wide - 1, self.stride),
        )

    @cached_property
    def count(self) -> int:
        """Positions of an image."""
        return len(self._places[0]) * len(self._places[1])

    @cached_property
    def shape(self) -> tuple[int]:
        """Shape of a decimated image."""
        return ((self.seen + 2) * self.count,)

    @cached_property
    def _taken(self) -> npt.NDArray[np.intp]:
        """Where all that is kept stands in the flattened image."""
        down, across = self._places
        sharp = 1 if self.seen == 3 else 0
        parts = [self._index(channel, down, across) for channel in range(self.seen)]
        parts += [self._index(sharp, down, across + 1), self._index(sharp, down + 1, across)]
        return np.concatenate(parts)

    def _index(
        self, channel: int, down: npt.NDArray[np.intp], across: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.intp]:
        pixels = (down[:, None] * self.wide + across).reshape(-1)
        if self.layout == "nhwc":
            return pixels * self.channels + channel
        return pixels + channel * self.tall * self.wide

    def take(self, image: Array) -> Array:
        """What is kept of one image.

        Args:
            image: array of the image's shape, ones before it allowed.

        Returns:
            array[shape], a copy.
        """
        taken: Array = image.take(self._taken)
        return taken

    def take_rows(self, images: Array) -> Array:
        """What is kept of several images: array[rows, *shape]."""
        rows: Array = images.reshape(len(images), -1).take(self._taken, axis=1)
        return rows


def _spacing(side: int) -> int:
    """Pixels from one position to the next along a side."""
    return max(1, math.ceil(side / MOST), min(SPACING, side // FEWEST))
