"""Images from files as the model is fed: resized, and scaled as the owner says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import ReferenceRefused
from driftpost_models.probes.guesses import image_layout
from driftpost_models.reference import quantize
from driftpost_models.runtime import Array, TensorSpec

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

MAX_PIXELS = 64_000_000
"""Pixels of one file. Above any camera on these boards; a small file can unpack to far more."""


@dataclass(frozen=True)
class ImageScale:
    """What pixel values 0 and 255 become, in the model's natural units; `None` for both: codes as they are.

    Attributes:
        black: natural value of pixel 0.
        white: natural value of pixel 255.
    """

    black: float | None = None
    white: float | None = None

    @classmethod
    def parse(cls, text: str) -> ImageScale:
        """Read `0..1`, `-1..1`, `0..255` or `codes`.

        Raises:
            ReferenceRefused: it is none of these.
        """
        if text.strip().lower() == "codes":
            return cls()
        low, separator, high = text.partition("..")
        try:
            scale = cls(float(low), float(high))
        except ValueError:
            separator = ""
        if not separator or scale.black == scale.white:
            raise ReferenceRefused(
                f"--image-scale {text}: write what black and white are fed as, such as 0..1, -1..1 or "
                "0..255, or `codes` for an int8 or uint8 input"
            )
        return scale

    def apply(self, spec: TensorSpec, pixels: Array, steps: list[str]) -> Array:
        """Pixels as the model is fed.

        Args:
            spec: the input.
            pixels: uint8 of any shape.
            steps: what was done is added here, in words.

        Raises:
            ReferenceRefused: `codes` for an input that has none.
        """
        if self.black is None or self.white is None:
            if spec.dtype not in (np.dtype(np.uint8), np.dtype(np.int8)):
                raise ReferenceRefused(
                    f"--image-scale codes: the input {spec.name!r} is {spec.dtype}, not 8 bits"
                )
            if spec.dtype == np.uint8:
                _add(steps, "pixels fed as they are, 0 to 255")
                return pixels
            _add(steps, "128 subtracted from pixels, -128 to 127")
            codes: Array = np.bitwise_xor(pixels.view(np.uint8), np.uint8(128)).view(np.int8)
            return codes
        step = np.float32((self.white - self.black) / 255.0)
        real: npt.NDArray[np.float32] = pixels.astype(np.float32) * step + np.float32(self.black)
        _add(steps, f"pixels 0 to 255 scaled to {self.black:g} to {self.white:g}")
        if spec.quantized:
            _add(steps, f"quantized by the input's scale {spec.scale:g} and zero point {spec.zero_point}")
            return quantize(spec, real)
        if spec.dtype.kind == "f":
            floats: Array = real.astype(spec.dtype)
            return floats
        whole: Array = np.rint(real).astype(spec.dtype)
        return whole


class ImageReader:
    """Decodes image files on demand.

    Args:
        files: in time order.
        spec: the input that they feed.
        scale: how pixels are scaled; needed for float inputs.
        layout: `nhwc`, `nchw` or `hw`; None to tell by shape.
        steps: the preprocessing in words is added here.

    Raises:
        ReferenceRefused: Pillow is missing, the input is no image, or the scale was not said.
    """

    def __init__(
        self,
        files: Sequence[Path],
        spec: TensorSpec,
        scale: ImageScale | None,
        layout: str | None,
        steps: list[str],
    ) -> None:
        try:
            from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise ReferenceRefused(
                "images are read with Pillow, which is not installed: pip install 'driftpost[images]'"
            ) from error
        self._image = Image
        self._unidentified = UnidentifiedImageError
        shape = spec.row_shape
        if None in shape:
            raise ReferenceRefused(
                f"the input {spec.name!r} has no fixed size ({spec.describe()}): "
                "give an .npz with images of one size"
            )
        fixed = [d or 0 for d in shape]
        self._layout = layout or image_layout(fixed)
        if self._layout is None:
            raise ReferenceRefused(
                f"the input {spec.name!r} ({spec.describe()}) is not an image: give an .npz, or its layout "
                f'in a --config file, [probes.inputs."{spec.name}"] layout'
            )
        if scale is None and spec.dtype.kind == "f":
            raise ReferenceRefused(
                f"the input {spec.name!r} is float: say what black and white are fed as, with --image-scale "
                "0..1, -1..1 or 0..255 (a wrong scale ruins the answers without any error)"
            )
        self._scale = scale or ImageScale()
        self._files = files
        self._spec = spec
        self._shape = fixed
        axes = {"nhwc": (-3, -2, -1), "nchw": (-2, -1, -3), "hw": (-2, -1, None)}[self._layout]
        self._height, self._width = fixed[axes[0] or 0], fixed[axes[1] or 0]
        channels = 1 if axes[2] is None else fixed[axes[2]]
        self._mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels, "")
        if not self._mode:
            raise ReferenceRefused(f"the input {spec.name!r} has {channels} channels; images have 1, 3 or 4")
        colour = {"L": "grey", "RGB": "RGB", "RGBA": "RGBA"}[self._mode]
        steps.append(f"images decoded to {colour}, resized to {self._width}x{self._height} (bilinear)")
        self._steps = steps
        self.read(0, 1)

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """Rows by input name."""
        pixels = np.stack([self._decode(file) for file in self._files[start:stop]])
        return {self._spec.name: np.ascontiguousarray(self._scale.apply(self._spec, pixels, self._steps))}

    def _decode(self, file: Path) -> Array:
        try:
            with self._image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ReferenceRefused(
                        f"{file.name} has {image.width}x{image.height} pixels, more than is read"
                    )
                converted = image.convert(self._mode)
                if converted.size != (self._width, self._height):
                    converted = converted.resize((self._width, self._height), self._image.Resampling.BILINEAR)
                pixels = np.asarray(converted, np.uint8)
        except (OSError, self._unidentified, self._image.DecompressionBombError, SyntaxError) as error:
            raise ReferenceRefused(f"{file} can not be read as an image: {error}") from error
        if self._layout == "nchw":
            pixels = pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        return pixels.reshape(self._shape)


def _add(steps: list[str], step: str) -> None:
    if step not in steps:
        steps.append(step)
