import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.window import JOINT_LIMIT, Window
from hanging_together import accumulator_of, calibrated, closed, factor_rows

SMALL = calibrated(factor_rows(np.random.default_rng(0), 2_000, 4))
WIDE = calibrated(factor_rows(np.random.default_rng(1), 2_000, 60))
CASES = {"pairs": SMALL, "axes": WIDE}
ROWS = {name: factor_rows(np.random.default_rng(2), 300, len(c.schema)) for name, c in CASES.items()}


def window_of(calibration, rows):
    ((window, _),) = closed(calibration, rows, len(rows))
    return window


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_joint_sums_of_any_parts_in_any_order_equal_one_pass(case, data):
    calibration, rows = CASES[case], ROWS[case].copy()
    for row, column in data.draw(st.lists(st.tuples(st.integers(0, 299), st.integers(0, 3)), max_size=9)):
        rows[row, column] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e300, 0.0]))
    cuts = sorted(data.draw(st.lists(st.integers(1, 299), max_size=5, unique=True)))
    parts = [window_of(calibration, part) for part in np.split(rows, cuts)]
    pool = [parts[i] for i in data.draw(st.permutations(range(len(parts))))]
    merged = pool[0]
    for part in pool[1:]:
        merged = merged.merge(part)
    whole = window_of(calibration, rows)
    assert merged.joint.tolist() == whole.joint.tolist()
    assert merged.joint_rows == whole.joint_rows == 300
    assert Window.from_bytes(merged.to_bytes()) == merged


@pytest.mark.parametrize("case", CASES)
def test_features_are_bounded_and_what_is_summed_is_what_each_row_has(case):
    calibration, rows = CASES[case], ROWS[case]
    features = calibration.joint.features
    accumulator = accumulator_of(calibration)
    sums = np.zeros(features.count, dtype=np.int64)
    for row in rows:
        accumulator.update(row[None])
        one, _ = accumulator.take()
        assert np.abs(one.joint).max() <= JOINT_LIMIT
        sums += one.joint
    assert sums.tolist() == window_of(calibration, rows).joint.tolist()


def test_wild_and_missing_values_move_a_feature_no_further_than_any_other_row():
    rows = ROWS["pairs"][:50].copy()
    rows[:, 0] = 1e12
    rows[10:, 1] = np.nan
    assert np.abs(window_of(SMALL, rows).joint).max() <= 50 * JOINT_LIMIT
    nothing = window_of(SMALL, np.full((50, 4), np.nan))
    products = len(SMALL.joint.mean) - 10
    assert not nothing.joint[:products].any(), "missing values score 0: their products are none"


def test_windows_without_joint_features_are_as_before():
    plain = window_of(SMALL, ROWS["pairs"])
    accumulator = WindowAccumulator(SMALL.schema)
    accumulator.update(ROWS["pairs"])
    bare, _ = accumulator.take()
    assert (bare.joint.size, bare.joint_rows) == (0, 0)
    assert bare.merge(plain).joint.tolist() == plain.joint.tolist()
    assert bare.counts.tolist() == plain.counts.tolist()


@pytest.mark.parametrize("streams", [2, 10, 41, 200])
def test_a_window_of_any_number_of_streams_has_few_joint_features(streams):
    plan = calibrated(factor_rows(np.random.default_rng(3), 1_500, streams)).joint
    assert 1 <= plan.count <= 64
