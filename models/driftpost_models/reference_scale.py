"""Whether reference data stand on the scale that a quantized input was trained with.

Quantizing clips what the input has no code for. On the right scale that is a tail; where most values are
clipped, the model was calibrated on something else, and everything learned from the data would be of no use.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from driftpost_models.runtime import Array, TensorSpec

MANY_CLIPPED = 0.2
"""Share of values without a code from which the owner is asked. Calibrated ranges leave out a percent."""

MAX_VALUES = 1 << 20
"""Values that are looked at, evenly spread: enough for a share, whatever the size of the data."""


def range_of(spec: TensorSpec) -> tuple[float, float]:
    """Lowest and highest real value that a quantized input can hold."""
    info = np.iinfo(spec.dtype.str)
    ends = [(end - (spec.zero_point or 0)) * (spec.scale or 1.0) for end in (info.min, info.max)]
    return min(ends), max(ends)


def scale_note(spec: TensorSpec, real: Array, name: str) -> str | None:
    """What to tell the owner of real values that most likely stand on another scale; None where all is well.

    Args:
        spec: the input.
        real: what was given for it, any shape.
        name: what to call the array.
    """
    if not spec.quantized or real.dtype.kind != "f" or not real.size:
        return None
    flat = real.reshape(-1)
    values: npt.NDArray[np.float64] = flat[:: -(-flat.size // MAX_VALUES)].astype(np.float64)
    low, high = range_of(spec)
    step = abs(spec.scale or 1.0)
    clipped = float(np.mean((values < low - step) | (values > high + step)))
    if clipped < MANY_CLIPPED:
        return None
    return (
        f"{clipped:.0%} of the values of {name} lie outside what the input {spec.name!r} can hold "
        f"({low:.4g} to {high:.4g}) and were clipped, so the baseline says little: {_cause(spec, values)}"
    )


def image_scale_note(spec: TensorSpec, black: float | None, white: float | None) -> str | None:
    """The same for image files that `--image-scale` scales; None where all is well."""
    if not spec.quantized or black is None or white is None:
        return None
    shades = np.linspace(black, white, 256)
    low, high = range_of(spec)
    step = abs(spec.scale or 1.0)
    clipped = float(np.mean((shades < low - step) | (shades > high + step)))
    if clipped < MANY_CLIPPED:
        return None
    return (
        f"{clipped:.0%} of the shades from {black:g} to {white:g} lie outside what the input {spec.name!r} "
        f"can hold ({low:.4g} to {high:.4g}) and are clipped: --image-scale seems wrong; give what black and "
        "white were in training"
    )


def _cause(spec: TensorSpec, values: npt.NDArray[np.float64]) -> str:
    whole = bool(np.array_equal(np.rint(values), values))
    info = np.iinfo(spec.dtype.str)
    least, most = float(values.min()), float(values.max())
    if whole and least >= info.min and most <= info.max:
        return (
            f"they look like {spec.dtype} codes that were saved as floats; save them as they are fed, with "
            f".astype(np.{spec.dtype})"
        )
    if whole and least >= 0 and most <= 255:
        return (
            "they look like pixels from 0 to 255; save them as uint8 and say what black and white are fed as "
            "with --image-scale, or scale them as in training"
        )
    return f"they reach from {least:.4g} to {most:.4g}; scale them as in training"
