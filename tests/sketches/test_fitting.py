import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from driftpost_sketches.errors import CalibrationError
from driftpost_sketches.fitting import MAX_EDGES, fit_categorical, fit_codes, fit_numeric
from driftpost_sketches.schema import Role, StreamKind


def counts(stream, column):
    return np.bincount(np.searchsorted(stream.edges, column, side="right"), minlength=stream.n_bins)


def test_continuous_bins_hold_one_percent_at_the_ends_and_seven_between():
    column = np.random.default_rng(0).lognormal(size=10_000)
    stream = fit_numeric("x", column, Role.INPUT)
    shares = counts(stream, column) / 10_000
    assert stream.n_bins == 16
    assert shares[[0, -1]] == pytest.approx([0.01, 0.01], abs=1e-3)
    assert shares[1:14] == pytest.approx([0.07] * 13, abs=1e-3)


def test_one_wild_value_moves_no_edge_noticeably():
    column = np.random.default_rng(0).normal(size=10_000)
    wild = column.copy()
    wild[0] = 1e6
    a, b = fit_numeric("x", column, Role.INPUT), fit_numeric("x", wild, Role.INPUT)
    assert np.array(a.edges) == pytest.approx(np.array(b.edges), abs=0.05)
    assert b.scale == pytest.approx(a.scale, rel=0.01)


@pytest.mark.parametrize("factor", [1e-3, 1e3, -1.0])
def test_edges_scale_with_the_data(factor):
    column = np.random.default_rng(1).normal(size=5_000)
    a, b = fit_numeric("x", column, Role.INPUT), fit_numeric("x", factor * column, Role.INPUT)
    expected = np.sort(factor * np.array(a.edges))
    # Quantiles of an even number of rows are not exactly symmetric: one order statistic of slack.
    assert np.array(b.edges) == pytest.approx(expected, abs=0.01 * abs(factor))
    assert b.scale == pytest.approx(abs(factor) * a.scale)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-9, 1e12, 255.0])
def test_a_constant_has_bins_below_and_above_it(value):
    stream = fit_numeric("x", np.full(100, value), Role.INPUT)
    assert stream.n_bins == 3
    assert counts(stream, np.array([value])).tolist() == [0, 1, 0]
    step = abs(value) * 0.01 or 1e-6
    assert counts(stream, np.array([value - step, value + step])).tolist() == [1, 0, 1]


def test_few_values_get_a_bin_each_and_one_beyond_either_end():
    column = np.random.default_rng(0).integers(0, 4, 1000).astype(float)
    stream = fit_numeric("x", column, Role.INPUT)
    assert counts(stream, np.array([-1.0, 0, 1, 2, 3, 4])).tolist() == [1] * 6


def test_a_heavy_tie_has_a_bin_of_its_own_and_news_beyond_a_floor_show():
    rng = np.random.default_rng(0)
    column = np.maximum(rng.normal(size=5_000), 0.0)
    stream = fit_numeric("x", column, Role.INPUT)
    zero = int(np.searchsorted(stream.edges, 0.0, side="right"))
    assert counts(stream, column)[zero] == (column == 0).sum()
    assert counts(stream, np.array([-0.1]))[:zero].sum() == 1


def test_nothing_finite_leaves_a_single_bin():
    stream = fit_numeric("x", np.array([np.nan, np.inf]), Role.INPUT)
    assert (stream.n_bins, stream.center, stream.scale) == (1, 0.0, 1.0)


@given(
    arrays(np.float64, st.integers(1, 300), elements=st.floats(-1e12, 1e12) | st.integers(-3, 3).map(float))
)
@settings(max_examples=200, deadline=None)
def test_edges_are_ascending_few_and_cut_no_tie(column):
    stream = fit_numeric("x", column, Role.INPUT)
    edges = np.array(stream.edges)
    assert len(edges) <= MAX_EDGES
    assert (np.diff(edges) > 0).all()
    assert stream.scale > 0
    binned = np.searchsorted(edges, column, side="right")
    for value in np.unique(column):
        assert len(set(binned[column == value].tolist())) == 1
    if 1 < len(np.unique(column)) < MAX_EDGES:
        assert len(set(binned.tolist())) == len(np.unique(column))


def test_few_categories_stand_in_ascending_order_and_many_by_frequency():
    rng = np.random.default_rng(0)
    few = fit_categorical("c", rng.choice([3.0, 1.0, 2.0], p=[0.6, 0.3, 0.1], size=500), Role.OUTPUT)
    assert few.categories == (1, 2, 3)
    column = np.repeat(np.arange(40.0), np.arange(40) + 1)
    many = fit_categorical("c", column, Role.OUTPUT, max_categories=20)
    assert many.categories == tuple(range(39, 19, -1))


def test_labels_follow_their_categories():
    column = np.array([2.0, 0.0, 2.0])
    assert fit_categorical("c", column, Role.OUTPUT, ["zero", "one", "two"]).labels == ("zero", "two")
    assert fit_categorical("c", column, Role.OUTPUT, {2: "two"}).labels == ("0", "two")
    fixed = fit_categorical("c", column, Role.OUTPUT, ["no", "yes"], categories=[0, 1])
    assert (fixed.categories, fixed.labels) == ((0, 1), ("no", "yes"))


def test_fractions_are_no_categories():
    with pytest.raises(CalibrationError, match="whole numbers"):
        fit_categorical("c", np.array([0.5]), Role.OUTPUT)


def test_codes_know_their_lowest_code_and_are_never_tracked():
    signed = fit_codes("t", np.zeros((4, 3), np.int8), Role.INPUT)
    assert (signed.kind, signed.lowest_code, signed.tracked, signed.n_bins) == (
        StreamKind.CODES,
        -128,
        False,
        256,
    )
    assert fit_codes("t", np.zeros(4, np.uint8), Role.INPUT).lowest_code == 0
    with pytest.raises(CalibrationError, match="int8 or uint8"):
        fit_codes("t", np.zeros(4), Role.INPUT)
