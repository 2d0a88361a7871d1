"""A constant column has no deviation to divide by."""

import math

import numpy as np
import pytest

from driftpost_sketches.drift.effect import effect_sizes
from simulated_streams import numeric_schema, windows
from single_windows import Judge


@pytest.mark.parametrize("value", [0.0, 7.0, -1e-9, 1e12])
def test_a_constant_stays_silent_and_finite(value):
    reference, live = np.full((2_000, 1), value), np.full((50_000, 1), value)
    with np.errstate(invalid="ignore"):
        deviations = (live.mean() - reference.mean()) / reference.std()
    assert not math.isfinite(deviations) or reference.std() > 0
    schema = numeric_schema(reference)
    judge = Judge(schema, reference)
    assert judge.says(live) == []
    ((window, _),) = windows(schema, live, len(live))
    (effect,) = effect_sizes(schema, judge.calibration.baseline, window)
    assert (effect.sd_shift, effect.std_ratio, effect.psi, effect.direction) == (0.0, 1.0, 0.0, "none")


@pytest.mark.parametrize("value", [0.0, 7.0, 1e12])
def test_a_constant_that_moves_is_an_alarm_of_finite_size(value):
    reference = np.full((2_000, 1), value)
    judge = Judge(numeric_schema(reference), reference)
    moved = np.full((200, 1), value + max(abs(value), 1.0) * 0.01)
    for said in (judge.on_device(moved), judge.in_fleet(moved)):
        (alarm,) = said
        assert (alarm.kind, alarm.direction) == ("shift", "up")
        assert math.isfinite(alarm.effect)
        assert alarm.effect_natural == pytest.approx(max(abs(value), 1.0) * 0.01, rel=0.02)


def test_a_live_window_that_became_constant_is_finite_too():
    reference = np.random.default_rng(0).normal(size=(5_000, 1))
    judge = Judge(numeric_schema(reference), reference)
    (alarm,) = judge.on_device(np.full((200, 1), 0.3))
    assert alarm.kind == "stuck"
    assert math.isfinite(alarm.log_e)
