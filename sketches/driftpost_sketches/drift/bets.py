"""Bets against "nothing changed": per stream, a table from steps between cells to log evidence.

Every bet is a likelihood ratio of a tilted chain over the reference chain, so its mean is at most 1 while the
reference's behaviour lasts, and its logarithm is a sum over steps. A window's evidence for all bets is
therefore one product of its transition counts with a table that is built once.

Tilts by a score h use the principal eigenvalue and eigenvector of P * diag(exp(lambda h)) (Markov exponential
family; Feigin 1981, Kontoyiannis and Meyn 2003), which makes them exact under dependence of one step. What
remains is charged to the bets: longer memory by tempering, reference error and trifles by a gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import ABSENT, CELLS
from driftpost_sketches.drift.chain import PRIOR_ROWS, Chain, tilted
from driftpost_sketches.drift.perron import principal
from driftpost_sketches.drift.roughness import Roughness, sizes, step_score
from driftpost_sketches.drift.tilts import SMALLEST_STEP, exponents, plan_tilts, steadied

FloatArray = npt.NDArray[np.float64]


class Family(IntEnum):
    """What a bet looks for; after an alarm a stream's families are held one by one."""

    LOCATION = 0
    SCALE = 1
    SHAPE = 2
    STUCK = 3
    SPIKE = 4
    ABSENT = 5
    UNSEEN = 6
    SHARE = 7


FAMILIES = len(Family)

_SCORE_FAMILIES = (Family.LOCATION, Family.SCALE, Family.SHAPE, Family.SHAPE)
# Shares bet on for values that should not come at all: a few, many, nearly all.
_RARE = (0.02, 0.3, 0.9)
SPIKE_SHARE = 0.3
SPIKE_FLOOR = 0.03  # smallest probability a cell is taken to have; bounds a spike's gain to 2.4 nats a row
RARE_FLOOR = 0.005  # share of absent or unseen values that is never news by itself
RARE_STAY = 0.5  # such values come in bursts; where the reference shows too few to tell, assume this of them
ONE_STATE = 0.98  # share of rows in one cell from which a stream counts as constant
IDLE_LOSS = 0.1  # nats a row; holds the evidence of an idle bet below 11 to 1 even in windows of one row
REPEATS_SHARE = 0.12  # exact repeats bet on
REPEATS_FLOOR = 0.0005  # share of exact repeats that is never news
MOST_REPEATS = 0.1  # a reference with more repeats is discrete: they say nothing
REFERENCE_ERRORS = 2.0  # standard errors of the reference that are always charged to it
MISLED = 0.01  # at most this probability that a reference's own error looks like drift for ever

ROUGH_WEIGHT = 0.04  # of a numeric stream's evidence; the family of scale has it beside its own
# Weights of the families within a numeric and a categorical stream; with that both sum to 1.
_NUMERIC = {Family.LOCATION: 0.62, Family.SCALE: 0.07, Family.SHAPE: 0.05, Family.STUCK: 0.13,
            Family.SPIKE: 0.05, Family.ABSENT: 0.04}  # fmt: skip
_CATEGORICAL = {Family.SHARE: 0.6, Family.STUCK: 0.1, Family.SPIKE: 0.1, Family.UNSEEN: 0.1,
                Family.ABSENT: 0.1}  # fmt: skip


@dataclass(frozen=True)
class Bets:
    """All bets of one stream.

    Attributes:
        table: float64[CELLS, CELLS, N], log evidence of each bet for one step from cell i to cell j.
        repeat: float64[2, N], log evidence of a step that repeats the value exactly, then of any other.
        weights: float64[N], summing to 1.
        families: int64[N], `Family` of each bet.
    """

    table: FloatArray
    repeat: FloatArray
    weights: FloatArray
    families: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Margins:
    """What is charged to every bet of a stream before it may gain.

    Attributes:
        effect: smallest change worth knowing, reference standard deviations.
        independent: reference rows that count as independent and distinct (its effective size).
        errors: standard errors of the reference that are charged to bets on single cells, and at most to
            tilts.
        evidence: log evidence that the stream must reach before it alarms; it decides how much of the
            reference's error is charged to a tilt.
    """

    effect: float
    independent: float
    errors: float = REFERENCE_ERRORS
    evidence: float = math.inf

    def charging(self, errors: float) -> Margins:
        """The same with another number of standard errors charged."""
        return replace(self, errors=errors)

    def toward(self, log_threshold: float, streams: int) -> Margins:
        """The same for a detector of so many streams that alarms at this log evidence in all."""
        evidence = log_threshold + math.log(max(streams, 1)) - math.log(_NUMERIC[Family.LOCATION] / 6)
        return replace(self, errors=errors_needed(self, log_threshold, streams), evidence=evidence)

    def tilt_charges(self, sizes: FloatArray, errors: FloatArray, gains: FloatArray) -> FloatArray:
        """Log evidence a row that tilts lose to trifles and to the reference's own error, float64[Q].

        An error e of a tilt's cumulant raises its chance to reach evidence h without drift from exp(-h) to
        exp(-h (1 - (e - charge) / gain)) (Wald's identity). Averaged over normal errors that is exp(-h) again
        with a charge of h * variance / (2 gain): bold tilts, which gain fast, need far less than gentle ones,
        which a lasting error feeds for long.

        Args:
            sizes: float64[Q], of the tilts.
            errors: float64[Q], standard errors of their cumulants.
            gains: float64[Q], expected log evidence a row under the tilt itself.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            average = np.where(errors > 0, self.evidence * errors / (2.0 * np.maximum(gains, 1e-12)), 0.0)
        return np.abs(sizes) * self.effect + np.minimum(self.errors, average) * errors

    @property
    def gate(self) -> float:
        """Change of a score's mean, in its standard deviations, that gains nothing."""
        return self.effect + self.errors / math.sqrt(max(self.independent, 1.0))


def errors_needed(margins: Margins, log_threshold: float, streams: int) -> float:
    """Standard errors to charge so that a reference's own error hardly ever passes for drift.

    An error beyond gate + SMALLEST_STEP / 2 would feed the gentlest bet for ever. Over eight directions per
    stream that must happen with a probability of at most `MISLED`, less for a stricter budget. A long
    reference reaches this with `REFERENCE_ERRORS`; a short one is charged more, at a cost in power.
    """
    spare = (margins.effect + SMALLEST_STEP / 2) * math.sqrt(max(margins.independent, 1.0))
    return max(REFERENCE_ERRORS, _misled_errors(log_threshold, streams) - spare)


def independent_needed(effect: float, log_threshold: float, streams: int) -> float:
    """Effective reference size from which `errors_needed` charges no more than `REFERENCE_ERRORS`."""
    spare = _misled_errors(log_threshold, streams) - REFERENCE_ERRORS
    return (spare / (effect + SMALLEST_STEP / 2)) ** 2


def _misled_errors(log_threshold: float, streams: int) -> float:
    probability = min(MISLED, 30.0 * math.exp(-log_threshold)) / (8 * max(streams, 1))
    return -NormalDist().inv_cdf(max(probability, 1e-15))


def build_bets(chain: Chain, margins: Margins, unseen: int | None) -> Bets:
    """The bets of one stream.

    Args:
        chain: its reference behaviour.
        margins: what to charge.
        unseen: cell of categories that the reference's list does not have, None for numeric streams.
    """
    columns: list[tuple[FloatArray, float, Family]] = []
    weights = _NUMERIC if chain.ordered else _CATEGORICAL
    columns += _tilts(chain, margins, weights)
    if chain.roughness is not None:
        columns += _rough(chain, chain.roughness, margins)
    upper = _upper(chain, margins)
    # Bets on single cells have no score of their own; they lose what the slowest score loses to memory.
    temper = float(chain.temper.min(initial=1.0))
    stuck = temper * np.log(0.5 + 0.5 * np.eye(CELLS) / upper)
    stuck[:, ABSENT] = 0.0
    columns.append((stuck, weights[Family.STUCK] / 2, Family.STUCK))
    watched = [int(c) for c in np.flatnonzero(chain.shares > 0) if c not in (ABSENT, unseen)]
    for cell in watched:
        table = np.full((CELLS, CELLS), math.log(1.0 - SPIKE_SHARE))
        table[:, cell] = np.log(1.0 - SPIKE_SHARE + SPIKE_SHARE / upper[:, cell])
        columns.append((temper * table, weights[Family.SPIKE] / len(watched), Family.SPIKE))
    columns += _rare(chain, margins, ABSENT, Family.ABSENT, weights[Family.ABSENT])
    if unseen is not None:
        columns += _rare(chain, margins, unseen, Family.UNSEEN, weights[Family.UNSEEN])
    columns.append((np.zeros((CELLS, CELLS)), weights[Family.STUCK] / 2, Family.STUCK))
    repeat = np.zeros((2, len(columns)))
    repeat[:, -1] = _repeats(chain)
    alive = [bool(row.any() or table.any()) for (table, _, _), row in zip(columns, repeat.T, strict=True)]
    share = np.where(alive, [weight for _, weight, _ in columns], 0.0)
    tables = np.stack([table for table, _, _ in columns], axis=2)
    if float(chain.shares.max()) > ONE_STATE:
        # Bets that neither win nor lose in the one state that the reference knows would gather evidence by
        # the calendar. News is loud in such a stream: it can afford that every bet expects to lose.
        expected = np.einsum("i,ij,ijn->n", chain.shares, chain.matrix, tables)
        tables -= np.where(repeat.any(axis=0), 0.0, np.maximum(expected + IDLE_LOSS, 0.0))
    return Bets(
        table=tables,
        repeat=repeat,
        weights=share / share.sum(),
        families=np.array([int(family) for _, _, family in columns], dtype=np.int64),
    )


def marginal_bets(chain: Chain, margins: Margins, unseen: int | None) -> Bets:
    """The same bets for rows without order: as if the reference were independent.

    Counts must then be given in effective rows. Bets on persistence do not exist here and weigh nothing.
    """
    ones = np.ones(len(chain.scores))
    free = replace(
        chain, matrix=np.tile(chain.shares, (CELLS, 1)), tau_chain=ones, tau=ones, excess=0.0 * ones,
        caution=np.ones(len(plan_tilts(chain.ordered, chain.scores, chain.shares, ones))),
        visits=np.full(CELLS, margins.independent), roughness=None,
    )  # fmt: skip
    bets = build_bets(free, margins, unseen)
    kept = np.where(bets.families == Family.STUCK, 0.0, bets.weights)
    return replace(bets, weights=kept / kept.sum())


def _tilts(
    chain: Chain, margins: Margins, weights: dict[Family, float]
) -> list[tuple[FloatArray, float, Family]]:
    plan = plan_tilts(chain.ordered, chain.scores, chain.shares, chain.tau_chain)
    if not plan:
        return []
    which = [tilt.score for tilt in plan]
    families = [_SCORE_FAMILIES[k] if chain.ordered else Family.SHARE for k in which]
    sizes = np.array([tilt.size for tilt in plan])
    # Sums of squares have exponential tails: where memory is longer than the chain's, second moments alone
    # allow too much. Skew and tails are ruled by few rows, which bunch when anything does.
    slow = {
        Family.LOCATION: 1.0,
        Family.SCALE: float(chain.temper[:2].min()),
        Family.SHAPE: float(chain.temper.min()),
    }
    temper = np.array([c * slow.get(f, 1.0) for c, f in zip(chain.caution, families, strict=True)])
    # A tilt gains size**2 / 2 times the local variance. Where that varies in spells the chain does not know,
    # the cumulant grows by size**4 / 8 times their long-run variance (second order).
    spells = sizes**4 / 8.0 * chain.excess[which]
    spells[[steadied(tilt, chain.excess) for tilt in plan]] = 0.0
    powers = exponents(plan, chain.scores, chain.tau_chain, chain.excess)
    values, vectors = tilted(chain.matrix, powers)
    logs = np.log(vectors)
    rows = margins.independent * chain.correlation_rows
    errors, gains = _precision(chain, powers[:, None, :], values=values, vectors=vectors, rows=rows)
    errors *= np.sqrt((chain.tau / chain.tau_chain)[which])
    charges = np.log(values) + margins.tilt_charges(sizes, errors, gains) + spells
    gain = powers - charges[:, None]
    tables = temper[:, None, None] * (gain[:, None, :] + logs[:, None, :] - logs[:, :, None])
    whole = {
        family: sum(t.weight for t, f in zip(plan, families, strict=True) if f == family)
        for family in families
    }
    return [
        (table, weights[family] * tilt.weight / whole[family], family)
        for table, tilt, family in zip(tables, plan, families, strict=True)
    ]


def _rough(chain: Chain, rough: Roughness, margins: Margins) -> list[tuple[FloatArray, float, Family]]:
    """Tilts by the length of steps, up and down."""
    steps = sizes(rough.tau_chain)
    powers = steps[:, None, None] * step_score(chain.shares, chain.matrix)
    values, vectors = principal(chain.matrix[None] * np.exp(powers))
    logs = np.log(vectors)
    rows = margins.independent * chain.correlation_rows
    errors, gains = _precision(chain, powers, values=values, vectors=vectors, rows=rows)
    errors *= math.sqrt(rough.tau / rough.tau_chain)
    charges = np.log(values) + margins.tilt_charges(steps, errors, gains)
    gain = powers - charges[:, None, None] + logs[:, None, :] - logs[:, :, None]
    return [
        (caution * table, ROUGH_WEIGHT / len(steps), Family.SCALE)
        for caution, table in zip(rough.caution, gain, strict=True)
    ]


def _precision(
    chain: Chain, powers: FloatArray, *, values: FloatArray, vectors: FloatArray, rows: float
) -> tuple[FloatArray, FloatArray]:
    """Standard errors of the tilts' cumulants in a reference of so many rows, and their gains a row.

    `powers` are of cells, float64[Q, 1, CELLS], or of moves, float64[Q, CELLS, CELLS].

    By the delta method: an error in row i of the transition matrix moves the cumulant by its effect on the
    mean evidence of a step from i, weighted by how often the tilted chain is there.
    """
    tilts = np.exp(powers)
    _, left = principal((chain.matrix[None] * tilts).transpose(0, 2, 1))
    visited = left * vectors
    visited /= visited.sum(axis=1, keepdims=True)
    steps = tilts * vectors[:, None, :] / (values[:, None, None] * vectors[:, :, None])
    tilted_matrix = chain.matrix[None] * steps
    variances = np.maximum((tilted_matrix * steps).sum(axis=2) - 1.0, 0.0)
    seen = np.maximum(rows * chain.shares, 1.0)
    errors = np.sqrt((visited * visited * variances / seen).sum(axis=1))
    means = np.einsum("qi,qij,qij->q", visited, tilted_matrix, np.broadcast_to(powers, tilted_matrix.shape))
    return errors, np.maximum(means - np.log(values), 0.0)


def _upper(chain: Chain, margins: Margins) -> FloatArray:
    """What the chain's transition probabilities may be without news, float64[CELLS, CELLS].

    Above the fitted ones by their own sampling error, and by the change of the cell's share that is a trifle
    or the reference's error: a single cell must not alarm where its indicator moves less than the gate.
    """
    spread = np.sqrt(chain.matrix * (1.0 - chain.matrix))
    error = spread / np.sqrt(chain.visits + PRIOR_ROWS)[:, None]
    bound = chain.matrix + REFERENCE_ERRORS * error + margins.gate * spread
    return np.clip(bound, SPIKE_FLOOR, 1.0)


def _rare(
    chain: Chain, margins: Margins, cell: int, family: Family, weight: float
) -> list[tuple[FloatArray, float, Family]]:
    """Bets on a cell that should stay (nearly) empty: from a few per cent of rows to nearly all."""
    visits = chain.visits + 1.0
    error = np.sqrt(chain.matrix[:, cell] * (1.0 - chain.matrix[:, cell]) / visits)
    bound = chain.matrix[:, cell] + REFERENCE_ERRORS * error + 3.0 / visits
    share = float(chain.shares[cell])
    spread = math.sqrt(share * (1.0 - share))
    common = share + margins.gate * spread + 3.0 / max(margins.independent, 1.0)
    # Rows of the chain that the reference hardly visits say nothing of their own: take the stream's share.
    bound = np.where(chain.visits >= PRIOR_ROWS, np.maximum(bound, common), max(common, RARE_FLOOR))
    bound = np.clip(bound, RARE_FLOOR, 1.0)
    if chain.visits[cell] < PRIOR_ROWS:
        bound[cell] = max(float(bound[cell]), RARE_STAY)
    columns = []
    for fraction in _RARE:
        table = np.full((CELLS, CELLS), math.log(1.0 - fraction))
        table[:, cell] = np.log(1.0 - fraction + fraction / bound)
        columns.append((table, weight / len(_RARE), family))
    return columns


def _repeats(chain: Chain) -> tuple[float, float]:
    """Log evidence of an exact repeat and of none; zeros where the reference repeats itself anyway."""
    errors = REFERENCE_ERRORS * math.sqrt(chain.repeats * chain.repeat_tau / max(chain.rows, 1))
    bound = max(chain.repeats + errors + 3.0 / max(chain.rows, 1), REPEATS_FLOOR)
    if bound >= MOST_REPEATS:
        return 0.0, 0.0
    temper = 1.0 / chain.repeat_tau
    return (
        temper * math.log(REPEATS_SHARE / bound),
        temper * math.log((1.0 - REPEATS_SHARE) / (1.0 - bound)),
    )
