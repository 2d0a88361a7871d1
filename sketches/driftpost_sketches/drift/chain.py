"""The reference as a Markov chain of drift cells, and what the chain misses of its memory.

Rows of a sensor are not independent. A chain of cells keeps most of their dependence and needs only
transition counts; batch means say how much long memory it misses, and evidence is tempered by that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import ABSENT, CELLS
from driftpost_sketches.drift.memory import MIN_TAU, batch_tau, memory
from driftpost_sketches.drift.perron import principal
from driftpost_sketches.drift.roughness import Roughness, fit_roughness
from driftpost_sketches.drift.scores import normal_scores, share_scores
from driftpost_sketches.drift.tilts import admissible, exponents, plan_tilts

FloatArray = npt.NDArray[np.float64]
PRIOR_ROWS = 16.0  # weight of the prior in every row of the transition matrix
MAX_SHARES = 8  # categories with scores of their own
MIN_SHARE = 0.005  # of the reference; rarer categories are watched by spikes alone
MORE_LOSS = 0.2  # of the share of evidence that memory beyond the chain costs
SPELL_TAILS = 1.6  # volatile spells are skewed: higher cumulants add to the second order
WORTH_CALLING = 1.25  # ratio of memories of squares up to which cells are to blame, not spells
SIGNIFICANT = 2.0  # standard errors beyond which volatile spells are believed
_NORMAL = NormalDist()
_POINTS = (np.arange(8) + 0.5) / 8  # quadrature within a cell, in probability
_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class Chain:
    """One stream's reference behaviour.

    Attributes:
        ordered: whether cells have an order (numeric) or not (categorical).
        rows: reference rows.
        shares: float64[CELLS], smoothed cell probabilities.
        matrix: float64[CELLS, CELLS], smoothed transition probabilities.
        visits: float64[CELLS], reference rows that left from each cell.
        scores: float64[K, CELLS], standardised scores that tilts bet on.
        tau_chain: float64[K], integrated autocorrelation of each score under the chain, in rows.
        tau: float64[K], the same as measured (`memory`), with its own uncertainty added; at least tau_chain.
        excess: float64[K], long-run variance of each squared score beyond what the chain has: volatile
            spells, in which tilts by large steps gain without any drift. 0 within its sampling error.
        caution: float64[Q] in (0, 1], what each tilt's log evidence is multiplied by, in the order of
            `plan_tilts`: never more than the temper of its score.
        repeats: share of rows that equal their predecessor exactly.
        repeat_tau: integrated autocorrelation of those repeats, in rows.
        roughness: of a numeric stream's steps; None where rows have no order, or values none.
    """

    ordered: bool
    rows: int
    shares: FloatArray
    matrix: FloatArray
    visits: FloatArray
    scores: FloatArray
    tau_chain: FloatArray
    tau: FloatArray
    excess: FloatArray
    caution: FloatArray
    repeats: float
    repeat_tau: float
    roughness: Roughness | None = None

    @property
    def temper(self) -> FloatArray:
        """float64[K] in (0, 1]: the part of the evidence that survives the memory which the chain misses."""
        return temper_for(self.tau_chain, self.tau)

    @property
    def correlation_rows(self) -> float:
        """Rows that carry as much as one independent row, for the slowest of location and spread."""
        return float(max(self.tau[:2].max(), 1.0)) if len(self.tau) else 1.0


def fit_chain(cells: npt.NDArray[np.int64], values: FloatArray, ordered: bool, bins: int) -> Chain:
    """Fits the chain of one stream's reference.

    Args:
        cells: int64[n], drift cells in time order.
        values: float64[n], the values themselves (for exact repeats).
        ordered: numeric (True) or categorical.
        bins: cells in use by values (the absent cell not counted).
    """
    n = len(cells)
    used = _used(bins)
    counts = np.bincount(cells, minlength=CELLS).astype(np.float64)
    shares = np.where(used, counts + 0.5, 0.0) / (n + 0.5 * used.sum())
    moves = np.zeros((CELLS, CELLS))
    np.add.at(moves, (cells[:-1], cells[1:]), 1.0)
    visits = moves.sum(1)
    if ordered:
        scores = normal_scores(shares)
        lag = scores[0][cells]
        rho = float((lag[:-1] * lag[1:]).mean()) if n > 1 else 0.0
        prior = _copula(shares, min(max(rho, -0.95), 0.99))
    else:
        scores = share_scores(shares, _frequent(shares, bins))
        prior = _sticky(shares, moves)
    matrix = (moves + PRIOR_ROWS * prior) / (visits + PRIOR_ROWS)[:, None]
    matrix = np.where(used[None, :], matrix, 0.0)
    matrix /= matrix.sum(1, keepdims=True)
    tau_chain = _chain_tau(matrix, scores)
    # A score that never varied (a constant) has shown no memory beyond the chain's.
    varied = np.array([float(score[cells].var()) > 1e-12 for score in scores])
    tau = np.where(varied, np.array([memory(score[cells]) for score in scores]), tau_chain)
    tau = np.maximum(tau, tau_chain)
    excess = _excess(matrix, shares, scores, cells)
    same = (values[1:] == values[:-1]).astype(np.float64)
    repeat_tau = batch_tau(same)[0] if same.any() else 1.0
    return Chain(
        ordered=ordered,
        rows=n,
        shares=shares,
        matrix=matrix,
        visits=visits,
        scores=scores,
        tau_chain=tau_chain,
        tau=tau,
        excess=excess,
        caution=_caution(
            ordered, matrix, shares, scores, cells=cells, tau_chain=tau_chain, tau=tau, excess=excess
        ),
        repeats=float(same.mean()) if n > 1 else 0.0,
        repeat_tau=max(repeat_tau, 1.0),
        roughness=fit_roughness(shares, matrix, cells) if ordered else None,
    )


def independent_chain(counts: npt.NDArray[np.int64], ordered: bool, bins: int) -> Chain:
    """The chain of rows without order, from cell counts alone.

    Args:
        counts: int64[CELLS].
        ordered: numeric (True) or categorical.
        bins: cells in use by values (the absent cell not counted).
    """
    used = _used(bins)
    rows = int(counts.sum())
    shares = np.where(used, counts + 0.5, 0.0) / (rows + 0.5 * used.sum())
    scores = normal_scores(shares) if ordered else share_scores(shares, _frequent(shares, bins))
    ones = np.ones(len(scores))
    return Chain(
        ordered=ordered,
        rows=rows,
        shares=shares,
        matrix=np.tile(shares, (CELLS, 1)),
        visits=counts.astype(np.float64),
        scores=scores,
        tau_chain=ones,
        tau=ones,
        excess=np.zeros(len(scores)),
        caution=np.ones(len(plan_tilts(ordered, scores, shares, ones))),
        repeats=0.0,
        repeat_tau=1.0,
    )


def _used(bins: int) -> npt.NDArray[np.bool_]:
    used = np.zeros(CELLS, dtype=bool)
    used[:bins] = used[ABSENT] = True
    return used


def _frequent(shares: FloatArray, bins: int) -> npt.NDArray[np.int64]:
    """The most frequent cells, those that get scores of their own."""
    order = np.argsort(-shares[:bins], kind="stable")[:MAX_SHARES]
    return np.sort(order[shares[order] >= MIN_SHARE])


def temper_for(tau_chain: FloatArray, tau: FloatArray) -> FloatArray:
    """Part of the evidence that survives memory which a chain misses, float64[K] in (0, 1].

    The ratio of variances makes second moments right; what is missed of them is missed of higher ones as
    well, so that much of the loss is added once more.
    """
    ratio = np.minimum(1.0, tau_chain / tau)
    return np.asarray(ratio * (1.0 - MORE_LOSS * (1.0 - ratio)), dtype=np.float64)


def _chain_tau(matrix: FloatArray, scores: FloatArray) -> FloatArray:
    if not len(scores):
        return np.ones(0)
    # A cell that is nearly empty may score thousands: the tilt must stay small there as well.
    small = np.minimum(0.05, 1.0 / np.maximum(np.abs(scores).max(axis=1), 1.0))
    signs = np.array([1.0, -1.0])
    tilts = np.exp(signs[:, None, None] * (small[:, None] * scores)[None]).reshape(-1, CELLS)
    values, _ = principal(matrix[None] * tilts[:, None, :])
    logs: FloatArray = np.log(values).reshape(2, -1).sum(0) / small**2
    # A score that is zero throughout (a constant) has no memory to speak of.
    return np.where(np.abs(scores).sum(axis=1) > 0, np.maximum(logs, MIN_TAU), 1.0)


def _excess(
    matrix: FloatArray, shares: FloatArray, scores: FloatArray, cells: npt.NDArray[np.int64]
) -> FloatArray:
    squares = scores * scores
    means = squares @ shares
    variances = (squares - means[:, None]) ** 2 @ shares
    spreads = np.sqrt(np.maximum(variances, 1e-12))
    standard = (squares - means[:, None]) / spreads[:, None]
    excess = np.zeros(len(scores))
    for k, modelled in enumerate(_chain_tau(matrix, standard)):
        measured, error = batch_tau(standard[k][cells])
        if variances[k] > 1e-6 and measured > modelled * (WORTH_CALLING + SIGNIFICANT * error):
            excess[k] = SPELL_TAILS * variances[k] * (measured * (1.0 + error) - modelled)
    return excess


def _caution(
    ordered: bool,
    matrix: FloatArray,
    shares: FloatArray,
    scores: FloatArray,
    *,
    cells: npt.NDArray[np.int64],
    tau_chain: FloatArray,
    tau: FloatArray,
    excess: FloatArray,
) -> FloatArray:
    plan = plan_tilts(ordered, scores, shares, tau_chain)
    if not plan:
        return np.ones(0)
    powers = exponents(plan, scores, tau_chain, excess)
    # `admissible` takes a series' own mean away, which is what the gate is for; the tilt's mean must stay.
    logs = np.log(tilted(matrix, powers)[0]) - powers @ shares
    tempers = temper_for(tau_chain, tau)
    return np.array(
        [
            admissible(power[cells] / tilt.size, tilt.size, float(log_rho), float(tempers[tilt.score]),
                       float(tau[tilt.score]))
            for tilt, power, log_rho in zip(plan, powers, logs, strict=True)
        ]
    )  # fmt: skip


def tilted(matrix: FloatArray, powers: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Principal eigenvalues (float64[Q]) and right eigenvectors (float64[Q, CELLS]) of the tilted chain.

    Args:
        matrix: float64[CELLS, CELLS].
        powers: float64[Q, CELLS], logarithms of the weights of each tilt.
    """
    return principal(matrix[None] * np.exp(powers)[:, None, :])


def _sticky(shares: FloatArray, moves: FloatArray) -> FloatArray:
    stay = float(np.trace(moves)) / max(moves.sum(), 1.0)
    by_chance = float((shares * shares).sum())
    hold = min(max((stay - by_chance) / max(1.0 - by_chance, 1e-9), 0.0), 0.99)
    prior: FloatArray = (1.0 - hold) * np.tile(shares, (CELLS, 1)) + hold * np.eye(CELLS)
    return prior


def _copula(shares: FloatArray, rho: float) -> FloatArray:
    """Transition matrix of a Gaussian AR(1) with lag-1 correlation `rho` cut into cells of these shares."""
    absent = shares[ABSENT]
    value = shares.copy()
    value[ABSENT] = 0.0
    value /= value.sum()
    cumulative = np.concatenate([[0.0], np.cumsum(value)])
    inner = np.clip(cumulative[1:ABSENT], 1e-9, 1 - 1e-9)
    borders = np.array([_NORMAL.inv_cdf(float(c)) for c in inner])
    prior = np.tile(value, (CELLS, 1))
    spread = math.sqrt(1.0 - rho * rho)
    for cell in np.flatnonzero(value):
        at = np.clip(cumulative[cell] + _POINTS * value[cell], 1e-9, 1 - 1e-9)
        start = np.array([_NORMAL.inv_cdf(float(u)) for u in at])
        below = 0.5 * (1.0 + _erf((borders[None] - rho * start[:, None]) / spread / math.sqrt(2.0)))
        cdf = np.hstack([np.zeros((len(start), 1)), below, np.ones((len(start), 1))])
        prior[cell, :ABSENT] = np.diff(cdf, axis=1).mean(0)
    prior[:, ABSENT] = 0.0
    prior = np.where(shares[None] > 0, np.maximum(prior, 1e-9), 0.0)
    prior[:, ABSENT] = absent
    prior /= prior.sum(1, keepdims=True)
    return prior
