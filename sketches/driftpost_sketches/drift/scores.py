"""Orthonormal scores on drift cells: what "location", "scale", "skew" and "tails" mean for any data."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import ABSENT, CELLS

FloatArray = npt.NDArray[np.float64]
_NORMAL = NormalDist()
_DEGENERATE = 1e-3  # variance below which there is no scale to speak of: a constant, or too few cells
_FURTHEST = 2.8  # normal quantile beyond which rare and empty cells score alike


def normal_scores(shares: FloatArray) -> FloatArray:
    """Four scores on ordered cells, orthonormal under `shares`: float64[4, CELLS].

    Powers of the normal quantile of each cell's mid-rank, orthogonalised one after the other; the absent cell
    scores 0 throughout, for it has no place on the scale.

    Args:
        shares: float64[CELLS], the reference's cell probabilities.
    """
    value = shares.copy()
    value[ABSENT] = 0.0
    on_scale = np.arange(CELLS) != ABSENT
    quantiles = normal_quantiles(shares)
    basis = [on_scale.astype(np.float64)]
    scores = np.zeros((4, CELLS))
    for power in range(1, 5):
        vector = np.where(on_scale, quantiles**power, 0.0)
        for other in basis:
            vector = vector - (value @ (vector * other)) / (value @ (other * other)) * other
        variance = float(value @ (vector * vector))
        if variance < _DEGENERATE:
            break
        scores[power - 1] = vector / variance**0.5
        basis.append(scores[power - 1])
    return scores


def normal_quantiles(shares: FloatArray) -> FloatArray:
    """Normal quantile of each cell's mid-rank, 0 for the absent cell: float64[CELLS].

    Args:
        shares: float64[CELLS], the reference's cell probabilities.
    """
    value = shares.copy()
    value[ABSENT] = 0.0
    ranks = np.clip((np.cumsum(value) - value / 2) / value.sum(), 1e-6, 1 - 1e-6)
    quantiles = np.array([_NORMAL.inv_cdf(float(rank)) for rank in ranks]).clip(-_FURTHEST, _FURTHEST)
    quantiles[ABSENT] = 0.0
    return quantiles


def share_scores(shares: FloatArray, cells: npt.NDArray[np.int64]) -> FloatArray:
    """One standardised indicator per cell: float64[len(cells), CELLS], mean 0, variance 1 under `shares`."""
    scores = np.zeros((len(cells), CELLS))
    for row, cell in enumerate(cells):
        p = float(shares[cell])
        scores[row] = -p
        scores[row, cell] = 1.0 - p
        scores[row] /= max(p * (1.0 - p), _DEGENERATE) ** 0.5
    return scores
