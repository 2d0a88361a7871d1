"""A simulated meter camera: handwriting goes in, small grey frames come out.

The digits are dark-field (bright figure on a dark wheel), sampled at 16x16. Every frame has its own exposure
and its own sensor noise; `Effect` is what can go wrong with the camera. Everything is vectorised over frames,
and random numbers come from the generator passed in, so that a seed repeats a stream of frames exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from digits import Pool

SIDE = 16  # pixels; twice the source's 8 cells, the least that shows blur as a camera would
FULL_INK = 16.0  # the source counts 4x4 black pixels in each cell
BACKGROUND = 0.10  # reflectance of the wheel
FIGURE = 0.80  # reflectance of the painted figure
EXPOSURE_JITTER = 0.05  # standard deviation of a frame's log exposure
SENSOR_NOISE = 0.015  # standard deviation of a pixel, in units of full scale
INT8_OFFSET = 128  # the models take pixel - 128 with scale 1/255


@dataclass(frozen=True)
class Effect:
    """What happens to a camera's picture.

    Attributes:
        exposure: Factor on the light that reaches the sensor; 1 is normal.
        blur: Standard deviation of the optical blur in pixels; 0 is sharp.
        frozen: The sensor repeats its last frame, bit by bit.
    """

    exposure: float = 1.0
    blur: float = 0.0
    frozen: bool = False


NORMAL = Effect()


def _upsampling(cells: int, side: int) -> NDArray[np.float64]:
    """Linear interpolation from cell centres to pixel centres as a ``[side, cells]`` matrix."""
    centres = np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
    left = np.minimum(centres.astype(int), cells - 2)
    matrix = np.zeros((side, cells))
    matrix[np.arange(side), left] = 1 - (centres - left)
    matrix[np.arange(side), left + 1] = centres - left
    return matrix


def _blurring(side: int, sigma: float) -> NDArray[np.float64]:
    """Gaussian blur along one axis as a ``[side, side]`` matrix; rows sum to 1, so flat areas keep level."""
    if sigma <= 0:
        return np.eye(side)
    distance = np.arange(side)[:, None] - np.arange(side)[None, :]
    matrix = np.exp(-0.5 * (distance / sigma) ** 2)
    normalised: NDArray[np.float64] = matrix / matrix.sum(axis=1, keepdims=True)
    return normalised


def expose(images: NDArray[np.uint8], rng: np.random.Generator, effect: Effect = NORMAL) -> NDArray[np.uint8]:
    """Take one picture of each image.

    Args:
        images: ``uint8[n, 8, 8]`` of ink from 0 to 16.
        rng: Source of exposure jitter and sensor noise.
        effect: Fault of the optics; `Effect.frozen` is a matter of time and ignored here.

    Returns:
        ``uint8[n, 16, 16]`` frames.
    """
    optics = _blurring(SIDE, effect.blur) @ _upsampling(images.shape[1], SIDE)
    ink = optics @ (images / FULL_INK) @ optics.T
    scene = BACKGROUND + (FIGURE - BACKGROUND) * ink
    jitter = np.exp(rng.normal(0.0, EXPOSURE_JITTER, (len(images), 1, 1)))
    noise = rng.normal(0.0, SENSOR_NOISE, scene.shape)
    frames: NDArray[np.uint8] = np.rint(np.clip(scene * jitter * effect.exposure + noise, 0, 1) * 255).astype(
        np.uint8
    )
    return frames


def to_model_input(frames: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Frames ``uint8[n, 16, 16]`` as the models take them: ``int8[n, 16, 16, 1]``, pixel - 128."""
    shifted: NDArray[np.int8] = (frames.astype(np.int16) - INT8_OFFSET).astype(np.int8)
    return shifted[..., np.newaxis]


@dataclass(frozen=True)
class Frame:
    """One picture and what was really in front of the camera: ``uint8[16, 16]`` and the digit."""

    pixels: NDArray[np.uint8]
    label: int


class Camera:
    """Endless frames of a pool's digits in random order.

    Args:
        pool: What the camera may see.
        rng: Source of the order, the jitter and the noise.
    """

    def __init__(self, pool: Pool, rng: np.random.Generator) -> None:
        self._pool = pool
        self._rng = rng
        self._last: Frame | None = None

    def shoot(self, effect: Effect = NORMAL) -> Frame:
        """Take the next frame; a frozen camera repeats its last picture while the digits move on."""
        index = int(self._rng.integers(len(self._pool)))
        label = int(self._pool.labels[index])
        if effect.frozen and self._last is not None:
            return Frame(self._last.pixels, label)
        pixels = expose(self._pool.images[index : index + 1], self._rng, effect)[0]
        self._last = Frame(pixels, label)
        return self._last

    def frames(self, count: int, effect: Effect = NORMAL) -> Iterator[Frame]:
        """The next `count` frames."""
        for _ in range(count):
            yield self.shoot(effect)


def record(pool: Pool, count: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A healthy camera's recording, as `Camera.shoot` would make it but all at once.

    Returns:
        ``uint8[count, 16, 16]`` frames in time order, and ``uint8[count]`` labels.
    """
    order = rng.integers(len(pool), size=count)
    return expose(pool.images[order], rng), pool.labels[order]
