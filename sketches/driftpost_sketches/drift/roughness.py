"""How far a stream moves from row to row: what "wider" means where level or spread wander by themselves.

The spread around one level can not be told from the level's own course over a day, and sums of squares are
ruled by volatile spells. The logarithm of a step between neighbours feels neither: a slow level drops out of
the difference, and a spell moves a logarithm little. Steps between cells are what the device counts anyway,
so a tilt by them is a bet like any other, with a score of moves instead of cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import ABSENT, CELLS
from driftpost_sketches.drift.memory import batch_tau, memory
from driftpost_sketches.drift.perron import principal
from driftpost_sketches.drift.scores import normal_quantiles
from driftpost_sketches.drift.tilts import admissible

FloatArray = npt.NDArray[np.float64]

# In deviations of the score; a spread that changes by half is about 0.45 of them.
STEPS = (0.2, 0.5)
TILTS = 2 * len(STEPS)
OFFSET = 0.3  # of a usual step, added to every one: the logarithm of none at all
# Of the share of evidence that memory beyond the chain costs, once more: second moments make it right on
# average, but what is remembered are spells, and a spell widens steps further than calm narrows them.
LOSS_WIDER, LOSS_NARROWER = 0.5, 0.2
_SMALL = 0.05  # size of the tilt at which the chain's memory of the score is measured
_DEGENERATE = 1e-3  # variance of the score below which steps say nothing


def _loss(size: float) -> float:
    return LOSS_WIDER if size > 0 else LOSS_NARROWER


@dataclass(frozen=True)
class Roughness:
    """What the reference shows of its steps.

    Attributes:
        tau_chain: integrated autocorrelation of their score under the chain, in rows.
        tau: the same as measured, at least `tau_chain`.
        caution: float64[TILTS] in [0, 1], what each tilt's log evidence is multiplied by; 0 where steps say
            nothing.
    """

    tau_chain: float
    tau: float
    caution: FloatArray


def step_score(shares: FloatArray, matrix: FloatArray) -> FloatArray:
    """Logarithm of a step's length, of mean 0 and variance 1 under the chain: float64[CELLS, CELLS].

    Zeros where steps say nothing, as in a stream that hardly ever moves.

    Args:
        shares: float64[CELLS], cell probabilities of a numeric stream.
        matrix: float64[CELLS, CELLS], transition probabilities.
    """
    place = normal_quantiles(shares)
    length = np.abs(place[:, None] - place[None, :])
    weight = shares[:, None] * matrix
    weight[ABSENT] = weight[:, ABSENT] = 0.0
    total = float(weight.sum())
    usual = float((weight * length).sum()) / total if total > 0 else 0.0
    score = np.zeros((CELLS, CELLS))
    if usual < _DEGENERATE:
        return score
    logs = np.log(length / usual + OFFSET)
    logs -= float((weight * logs).sum()) / total
    variance = float((weight * logs * logs).sum()) / total
    if variance < _DEGENERATE:
        return score
    score = logs / math.sqrt(variance)
    score[ABSENT] = score[:, ABSENT] = 0.0
    return score


def sizes(tau_chain: float) -> FloatArray:
    """Signed sizes of all tilts: float64[TILTS]."""
    return np.array([sign * step / max(tau_chain, 1.0) for step in STEPS for sign in (1.0, -1.0)])


def fit_roughness(shares: FloatArray, matrix: FloatArray, cells: npt.NDArray[np.int64]) -> Roughness:
    """Measures the memory of a reference's steps, and how boldly they may be bet on.

    Args:
        shares: float64[CELLS].
        matrix: float64[CELLS, CELLS].
        cells: int64[n] in time order.
    """
    score = step_score(shares, matrix)
    series = score[cells[:-1], cells[1:]]
    if not score.any() or len(series) < 2 or float(series.var()) < _DEGENERATE:
        return Roughness(1.0, 1.0, np.zeros(TILTS))
    both, _ = principal(matrix[None] * np.exp(np.array([_SMALL, -_SMALL])[:, None, None] * score))
    tau_chain = max(float(np.log(both).sum()) / _SMALL**2, 0.05)
    # Spells come and go slowly: neither way to measure memory is trusted to see all of it.
    long, error = batch_tau(series)
    tau = max(memory(series), long * (1.0 + error), tau_chain)
    ratio = tau_chain / tau
    steps = sizes(tau_chain)
    rho, _ = principal(matrix[None] * np.exp(steps[:, None, None] * score))
    # `admissible` takes the series' own mean away; under the chain the score has none.
    caution = [
        admissible(series, float(size), float(log_rho), ratio * (1.0 - _loss(size) * (1.0 - ratio)), tau)
        for size, log_rho in zip(steps, np.log(rho), strict=True)
    ]
    return Roughness(tau_chain, tau, np.array(caution))
