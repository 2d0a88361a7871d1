"""Logarithms of sums of exponentials, without overflow."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def log_sum(logs: FloatArray) -> float:
    """log(sum(exp(logs))) of the whole array; -inf of nothing or of nothing but -inf."""
    top = float(logs.max(initial=-math.inf))
    if top == -math.inf:
        return top
    return top + math.log(float(np.exp(logs - top).sum()))


def log_sums(logs: FloatArray) -> FloatArray:
    """The same along the last axis: float64[..., N] to float64[...]."""
    top = logs.max(axis=-1, initial=-math.inf)
    least = np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        return np.asarray(least + np.log(np.exp(logs - least[..., None]).sum(axis=-1)))
