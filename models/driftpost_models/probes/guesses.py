"""What shapes and values of tensors tell about their meaning."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from driftpost_models.runtime import Array, TensorSpec

MAX_CATEGORIES = 10
"""Distinct whole numbers in the reference up to which a column is taken for categories."""

_ENOUGH_ROWS = 50
"""Rows of the sample below which few distinct values say nothing."""

SMALLEST_IMAGE = 8
"""Pixels along a side. Digits of 8x8 are images; 3x40 and 49x10 are features over time."""

_CLEAR_WINNER = 0.7
"""Median confidence from which numbers are taken for logits; three random numbers reach 0.55."""

# Conventional scales of float images, narrowest first, with the tolerance that interpolation needs.
_IMAGE_SCALES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-128.0, 127.0))


def image_layout(shape: Sequence[int]) -> str | None:
    """Layout of an image's row, None where the shape is not one of an image."""
    shape = list(shape)
    # A dimension of one before the image, as in frames of video.
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    candidates = []
    if len(shape) == 2:
        candidates.append(("hw", shape[0], shape[1]))
    if len(shape) == 3:
        if shape[2] in (1, 3, 4):
            candidates.append(("nhwc", shape[0], shape[1]))
        if shape[0] in (1, 3, 4):
            candidates.append(("nchw", shape[1], shape[2]))
    for layout, tall, wide in candidates:
        # Longer than 3:1 is a spectrogram, not a photograph.
        if min(tall, wide) >= SMALLEST_IMAGE and max(tall, wide) <= 3 * min(tall, wide):
            return layout
    return None


def few_whole_numbers(column: npt.NDArray[np.floating]) -> bool:
    """Whether a column looks like categories."""
    finite = column[np.isfinite(column)]
    if len(finite) < _ENOUGH_ROWS:
        return False
    distinct = np.unique(finite)
    return len(distinct) <= MAX_CATEGORIES and bool((distinct == np.rint(distinct)).all())


def confident(real: npt.NDArray[np.float64]) -> bool:
    """Whether numbers behave like a trained classifier's logits: the softmax mostly has a clear winner."""
    finite = real[np.isfinite(real).all(axis=1)]
    if len(finite) == 0:
        return False
    powers = np.exp(finite - finite.max(axis=1, keepdims=True))
    best = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    winners = np.unique(finite.argmax(axis=1))
    return bool(np.median(best) >= _CLEAR_WINNER) and len(winners) >= 2


def score_kind(spec: TensorSpec, real: npt.NDArray[np.float64], *, two_classes: bool) -> str:
    """What the numbers of an answer are, as far as their values tell."""
    finite = real[np.isfinite(real).all(axis=1)]
    if len(finite) == 0:
        return "logits"
    within = bool((finite >= -0.01).all() and (finite <= 1.01).all())
    if real.shape[1] == 1:
        # A sigmoid's quantization is always 1/256; a lone float between 0 and 1 might be anything.
        sigmoid = (
            spec.quantized and spec.scale is not None and math.isclose(spec.scale, 1 / 256, rel_tol=0.01)
        )
        return "binary" if within and (sigmoid or two_classes) else "logits"
    # The sum of n rounded probabilities is off by up to half a step each, mostly far less.
    step = spec.scale or 0.0 if spec.quantized else 0.0
    slack = 0.02 + step * math.sqrt(real.shape[1])
    sums = finite.sum(axis=1)
    return "probabilities" if within and bool((np.abs(sums - 1) <= slack).mean() > 0.95) else "logits"


def image_scale(raw: Array) -> tuple[float, float, bool]:
    """Values of black and white in float images.

    Args:
        raw: `[rows, ...]`, a sample.

    Returns:
        black, white, and whether this is one of the usual scales; else they are the extremes of the sample.
    """
    finite = raw[np.isfinite(raw)] if raw.dtype.kind == "f" else raw
    if finite.size == 0:
        return 0.0, 1.0, False
    low, high = float(finite.min()), float(finite.max())
    for floor, ceiling in _IMAGE_SCALES:
        slack = 0.02 * (ceiling - floor)
        # A scale is plausible if it holds all values and they use some of it.
        if floor - slack <= low and high <= ceiling + slack and high - low >= 0.25 * (ceiling - floor):
            return floor, ceiling, True
    return (low, high, False) if high > low else (low, low + 1.0, False)
