"""Confidence sequences hold at all times at once, and shrink."""

import numpy as np
import pytest

from driftpost_sketches.labels.betting import STRENGTHS, confidence_sequence, log_evidence

LOOKS = (5, 10, 20, 40, 80, 160, 320, 640, 1280, 2000)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
def test_the_true_rate_is_missed_at_any_time_in_at_most_one_run_of_twenty(rate):
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(200):
        errors = np.cumsum(rng.random(LOOKS[-1]) < rate)
        intervals = [confidence_sequence(n, float(errors[n - 1])) for n in LOOKS]
        missed += any(not low <= rate <= high for low, high in intervals)
    # Ten are expected at most; one run in a thousand has more than 20.
    assert missed <= 20


def test_graded_losses_are_covered_too():
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(100):
        loss = np.cumsum(rng.beta(1, 4, 1000))
        missed += any(
            not low <= 0.2 <= high
            for low, high in (confidence_sequence(n, float(loss[n - 1])) for n in LOOKS[:8])
        )
    assert missed <= 11


def test_the_interval_shrinks_towards_twice_that_of_a_single_look():
    for n in (300, 3000, 100_000):
        low, high = confidence_sequence(n, 0.1 * n)
        single = 2 * 1.96 * np.sqrt(0.09 / n)
        assert low < 0.1 < high
        assert high - low < 2.4 * single


def test_clustered_errors_widen_the_interval():
    low, high = confidence_sequence(1000, 100, independent=10.0)
    assert (low, high) == pytest.approx(confidence_sequence(100, 10))


def test_no_rows_say_nothing_and_no_errors_leave_a_margin():
    assert confidence_sequence(0, 0) == (0.0, 1.0)
    low, high = confidence_sequence(50, 0)
    assert low == 0.0
    assert 0.05 < high < 0.15
    assert confidence_sequence(50, 50)[1] == 1.0


def test_a_bet_has_a_mean_of_one_where_the_mean_is_what_it_bets_against():
    for strengths in (STRENGTHS, -STRENGTHS):
        won = np.exp(log_evidence(strengths, 0.3, 1.0, 1.0))
        lost = np.exp(log_evidence(strengths, 0.3, 1.0, 0.0))
        assert 0.3 * won + 0.7 * lost == pytest.approx(np.ones(len(strengths)))
