"""The reference's chain, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftpost_sketches.cells import ABSENT, CELLS
from driftpost_sketches.drift.bets import Margins, build_bets
from driftpost_sketches.drift.chain import PRIOR_ROWS, fit_chain, independent_chain, temper_for
from driftpost_sketches.drift.perron import principal
from driftpost_sketches.drift.scores import normal_quantiles, normal_scores, share_scores


def fitted(cells, bins=2, ordered=True):
    cells = np.asarray(cells, dtype=np.int64)
    return fit_chain(cells, np.arange(len(cells), dtype=float), ordered, bins)


def stays(rng, rows, stay):
    """Two states, each kept with this probability: lag-1 correlation 2 stay - 1."""
    return np.cumsum(rng.random(rows) >= stay) % 2


def test_shares_are_counts_with_half_a_row_in_every_cell_that_may_be_used():
    chain = fitted([0, 0, 0, 1] * 50)
    # 150 and 50 rows, and half a row each in two cells and the absent one.
    assert chain.shares[:2] == pytest.approx([150.5 / 201.5, 50.5 / 201.5])
    assert chain.shares[ABSENT] == pytest.approx(0.5 / 201.5)
    assert chain.shares.sum() == pytest.approx(1.0)


def test_categories_move_as_often_as_they_did_and_sixteen_rows_of_what_is_likely():
    """0 0 0 1 over and over: of 150 rows in state 0, 100 stay; of 49 that leave state 1 none does."""
    chain = fitted([0, 0, 0, 1] * 50, ordered=False)
    assert chain.visits[:2].tolist() == [150.0, 49.0]
    stay = 100 / 199
    chance = float((chain.shares**2).sum())
    assert stay < chance  # less than by chance, so nothing holds and the likely move is a share
    expected = (100 + PRIOR_ROWS * chain.shares[0]) / (150 + PRIOR_ROWS)
    assert chain.matrix[0, 0] == pytest.approx(expected)
    assert chain.matrix[1, 0] == pytest.approx((49 + PRIOR_ROWS * chain.shares[0]) / (49 + PRIOR_ROWS))


def test_two_states_remember_as_long_as_the_formula_says():
    """Integrated autocorrelation of a two-state chain: (1 + r) / (1 - r) with r = 2 stay - 1."""
    rng = np.random.default_rng(1)
    chain = fitted(stays(rng, 40_000, 0.75), ordered=False)
    assert chain.tau_chain[0] == pytest.approx(3.0, rel=0.05)
    assert chain.tau[0] == pytest.approx(3.0, rel=0.12)
    alternating = fitted(stays(rng, 40_000, 0.25), ordered=False)
    assert alternating.tau_chain[0] == pytest.approx(1 / 3, rel=0.05)


def test_memory_that_the_chain_misses_costs_its_share_and_a_fifth_of_the_loss_again():
    assert temper_for(np.array([1.0, 1.0]), np.array([2.0, 1.0])).tolist() == [0.5 * 0.9, 1.0]


def test_the_principal_eigenvalue_of_two_by_two_is_the_quadratics_root():
    """Trace 1.8, determinant 0.81 - 0.09: the root is 0.9 + 0.3, its right vector (2, 1)."""
    value, vector = principal(np.array([[[0.9, 0.6], [0.15, 0.9]]]))
    assert value[0] == pytest.approx(0.9 + math.sqrt(0.09))
    assert vector[0, 0] / vector[0, 1] == pytest.approx(2.0)


def test_scores_of_two_equal_halves_are_minus_one_and_one():
    shares = np.zeros(CELLS)
    shares[:2] = 0.5
    scores = normal_scores(shares)
    assert scores[0, :2] == pytest.approx([-1.0, 1.0])
    assert not scores[1:].any()  # two cells have no scale
    assert normal_quantiles(shares)[:2] == pytest.approx([-0.67449, 0.67449], abs=1e-5)


def test_a_share_scores_as_a_standardised_indicator():
    shares = np.zeros(CELLS)
    shares[:3] = [0.2, 0.3, 0.5]
    (score,) = share_scores(shares, np.array([0]))
    assert score[0] == pytest.approx(0.8 / 0.4)
    assert score[1] == pytest.approx(-0.2 / 0.4)


def test_rows_without_order_are_independent_in_their_chain():
    counts = np.zeros(CELLS, dtype=np.int64)
    counts[:2] = [30, 70]
    chain = independent_chain(counts, True, 2)
    assert (chain.matrix == chain.shares).all()
    assert chain.correlation_rows == 1.0
    assert chain.roughness is None


@given(seed=st.integers(0, 10_000), stay=st.floats(0.05, 0.95), cells=st.integers(2, 17))
@settings(max_examples=25, deadline=None)
def test_no_bet_expects_to_gain_anywhere_in_the_long_run(seed, stay, cells):
    """The largest mean growth a step of any bet, under the reference's own chain, is at most 1."""
    rng = np.random.default_rng(seed)
    fresh = rng.random(3_000) >= stay
    fresh[0] = True
    drawn = rng.integers(0, cells, size=3_000)
    chain = fitted(drawn[np.maximum.accumulate(np.where(fresh, np.arange(3_000), 0))], cells)
    margins = Margins(0.02, 3_000 / chain.correlation_rows).toward(16.0, 30)
    bets = build_bets(chain, margins, None)
    growth, _ = principal(chain.matrix[None] * np.exp(bets.table).transpose(2, 0, 1))
    assert (growth <= 1.0 + 1e-9).all()
    assert bets.weights.sum() == pytest.approx(1.0)
