"""Reliability counts: exact merging, honest calibration errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.labels.reliability import BINS, Reliability

answers = st.lists(st.tuples(st.floats(-0.1, 1.1), st.booleans()), max_size=60)


def counts(pairs):
    return Reliability.of(
        np.array([p for p, _ in pairs], dtype=np.float64), np.array([r for _, r in pairs], dtype=bool)
    )


def answered(rng, n, bend=0.0):
    confidence = rng.beta(5, 1.5, n)
    return np.clip(confidence + bend, 0, 1), rng.random(n) < confidence


@given(answers, answers, answers)
@settings(max_examples=60, deadline=None)
def test_merging_in_any_order_and_grouping_equals_one_pass(a, b, c):
    whole = counts(a + b + c)
    assert counts(a).merge(counts(b)).merge(counts(c)) == whole
    assert counts(c).merge(counts(a).merge(counts(b))) == whole
    assert whole.merge(Reliability.empty()) == whole


@given(answers)
@settings(max_examples=60, deadline=None)
def test_what_was_counted_passes_the_check(pairs):
    counts(pairs).check()


@given(answers)
@settings(max_examples=60, deadline=None)
def test_the_brier_score_is_the_sum_of_its_parts(pairs):
    brier = counts(pairs).brier()
    if not pairs:
        assert brier is None
        return
    parts = brier.reliability - brier.resolution + brier.uncertainty + brier.within
    assert parts == pytest.approx(brier.score, abs=1e-9)
    steps = np.rint(np.clip([p for p, _ in pairs], 0, 1) * 4096) / 4096
    assert brier.score == pytest.approx(np.mean((steps - np.array([r for _, r in pairs])) ** 2), abs=1e-9)


@pytest.mark.parametrize("n", [100, 400, 2000])
def test_a_calibrated_model_shows_no_calibration_error_but_chance(n):
    rng = np.random.default_rng(1)
    found = [Reliability.of(*answered(rng, n)).ece() for _ in range(200)]
    assert np.mean([one.raw for one in found]) > 3 * np.mean([one.value for one in found])
    assert np.mean([one.value for one in found]) < 0.15 * np.mean([one.chance for one in found]) + 0.001
    assert sum(one.low > 0 for one in found) <= 18  # ten at five percent; one in a hundred has more than 18


@pytest.mark.parametrize("n", [400, 2000])
def test_a_miscalibrated_model_shows_by_how_much(n):
    rng = np.random.default_rng(2)
    found = [Reliability.of(*answered(rng, n, bend=-0.15)).ece() for _ in range(100)]
    assert np.mean([one.value for one in found]) == pytest.approx(0.15, abs=0.02)
    assert sum(one.low <= 0.15 <= one.high for one in found) >= 90


def test_autocorrelation_widens_the_interval():
    sketch = Reliability.of(*answered(np.random.default_rng(3), 500, bend=-0.1))
    assert sketch.ece(10.0).high - sketch.ece(10.0).low > sketch.ece().high - sketch.ece().low


def test_answers_without_a_confidence_are_left_out():
    sketch = Reliability.of(np.array([np.nan, np.inf, 0.5]), np.array([True, True, False]))
    assert sketch.rows.sum() == 1
    assert sketch.table() == [(0.5, 0.55, 1, 0.5, 0.0)]


def test_nothing_counted_says_nothing():
    assert Reliability.empty().ece() is None
    assert Reliability.empty().brier() is None
    assert Reliability.empty().table() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("correct", 5), ("confidence", 10**6), ("squares", 10**12), ("right_confidence", 10**5), ("rows", -1)],
)
def test_impossible_counts_are_refused(field, value):
    parts = Reliability.of(np.array([0.5]), np.array([True])).__dict__ | {}
    broken = np.zeros(BINS, dtype=np.int64)
    broken[3] = value
    with pytest.raises(MalformedSketch):
        Reliability(**{**parts, field: broken}).check()


def test_more_rows_than_count_exactly_are_refused():
    half = np.zeros(BINS, dtype=np.int64)
    half[-1] = (1 << 38) - 1
    full = Reliability(half, half, half, half, half)
    with pytest.raises(MalformedSketch, match="at most"):
        full.merge(full)
