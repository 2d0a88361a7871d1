import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.joint.plan import JointPlan
from driftpost_sketches.errors import MalformedSketch, UnsupportedVersion
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema
from hanging_together import calibrated, factor_rows

REFERENCE = factor_rows(np.random.default_rng(0), 3_000, 5)
PLAN = calibrated(REFERENCE).joint
DATA = PLAN.to_bytes()


def same(a, b):
    return a.to_bytes() == b.to_bytes() and all(
        np.array_equal(x, y) for x, y in zip(a.measured, b.measured, strict=True)
    )


@pytest.mark.parametrize("streams", [2, 5, 20, 60])
def test_a_plan_comes_back_from_bytes_to_the_last_bit(streams):
    calibration = calibrated(factor_rows(np.random.default_rng(1), 2_000, streams))
    assert same(JointPlan.from_bytes(calibration.joint.to_bytes(), streams), calibration.joint)
    again = Calibration.from_bytes(calibration.to_bytes())
    assert same(again.joint, calibration.joint)


def test_a_plan_of_thirty_streams_fits_a_message():
    plan = calibrated(factor_rows(np.random.default_rng(1), 5_000, 30)).joint
    assert len(plan.to_bytes()) <= 32 << 10


@pytest.mark.parametrize("size", range(0, len(DATA), max(len(DATA) // 60, 1)))
def test_a_truncated_plan_is_refused(size):
    with pytest.raises(MalformedSketch):
        JointPlan.from_bytes(DATA[:size], 5)


@pytest.mark.parametrize("junk", [b"", b"DPJ", bytes(50), b"DPJ\1" + zlib.compress(bytes(8 << 20))])
def test_what_is_no_plan_is_refused(junk):
    with pytest.raises(MalformedSketch):
        JointPlan.from_bytes(junk, 5)


def test_a_newer_plan_says_so():
    with pytest.raises(UnsupportedVersion):
        JointPlan.from_bytes(DATA[:3] + b"\2" + DATA[4:], 5)


def test_a_plan_for_streams_that_are_not_there_is_refused():
    with pytest.raises(MalformedSketch, match="not there"):
        JointPlan.from_bytes(DATA, 4)


def test_features_that_no_window_could_hold_are_refused():
    body = bytearray(zlib.decompress(DATA[4:]))
    weights = 8 + 2 * 5 + 5 * 18 + 2 * 32 * 5
    struct.pack_into("<h", body, weights, 32_000)
    with pytest.raises(MalformedSketch, match="larger"):
        JointPlan.from_bytes(DATA[:4] + zlib.compress(bytes(body)), 5)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_plan_is_refused_or_still_a_plan(data):
    body = bytearray(zlib.decompress(DATA[4:]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        plan = JointPlan.from_bytes(DATA[:4] + zlib.compress(bytes(body), 1), 5)
    except MalformedSketch:
        return
    assert all(np.isfinite(array).all() for array in plan.measured)


def test_joint_features_are_off_unless_asked_for():
    schema = Schema([fit_numeric(f"x{i}", column, Role.INPUT) for i, column in enumerate(REFERENCE.T)])
    assert Calibration.fit(schema, REFERENCE).joint is None


def test_a_single_moving_stream_has_nothing_to_hang_together_with():
    values = np.column_stack([REFERENCE[:, 0], np.full(3_000, 7.0)])
    assert calibrated(values).joint is None


def test_categories_latency_and_health_do_not_take_part():
    rng = np.random.default_rng(2)
    values = np.column_stack([REFERENCE[:, :3], rng.integers(0, 4, 3_000)])
    roles = (Role.INPUT, Role.INPUT, Role.LATENCY)
    streams = [fit_numeric(f"x{i}", values[:, i], role) for i, role in enumerate(roles)]
    streams.append(fit_categorical("class", values[:, 3], Role.OUTPUT))
    plan = Calibration.fit(Schema(streams), values, joint=True).joint
    assert plan.features.carriers.streams.tolist() == [0, 1]


def test_a_reference_that_is_too_short_switches_the_test_off_and_says_so():
    few = calibrated(REFERENCE[:500])
    assert few.joint is None
    assert any("no joint test" in note and "1,000 are needed" in note for note in few.notes)
    slow = calibrated(factor_rows(np.random.default_rng(3), 3_000, 4, rho=0.99))
    assert slow.joint is None
    assert any("count" in note and "no joint test" in note for note in slow.notes)
