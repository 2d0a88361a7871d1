"""Tests for independent rows break on every real sensor."""

import numpy as np
import pytest

from driftpost_sketches.drift.detector import DriftDetector
from simulated_streams import alarms, autoregressive, numeric_schema
from single_windows import LEVEL, Judge, at_most, kolmogorov_distance, kolmogorov_p

TRIALS = 150
ROWS = 500


@pytest.fixture(scope="module", params=[0.5, 0.9, 0.98], ids=lambda rho: f"AR(1) {rho}")
def slow(request):
    rho = request.param
    reference = autoregressive(np.random.default_rng(0), 30_000, 1, rho)
    return rho, reference, Judge(numeric_schema(reference), reference)


def test_rows_that_resemble_their_neighbours_do_not_alarm(slow):
    rho, reference, judge = slow
    rng = np.random.default_rng(1)
    naive = device = fleet = 0
    for _ in range(TRIALS):
        live = autoregressive(rng, ROWS, 1, rho)
        distance = kolmogorov_distance(reference[:, 0], live[:, 0])
        naive += kolmogorov_p(distance, len(reference), ROWS) < LEVEL
        device += bool(judge.on_device(live))
        fleet += bool(judge.in_fleet(live))
    assert naive > {0.5: 0.15, 0.9: 0.5, 0.98: 0.9}[rho] * TRIALS
    assert device <= at_most(TRIALS)
    assert fleet <= at_most(TRIALS)


def test_a_shift_is_found_all_the_same(slow):
    rho, _, judge = slow
    live = autoregressive(np.random.default_rng(2), 40_000, 1, rho)
    live[10_000:] += 2.0
    said = alarms(DriftDetector(judge.calibration, np.log(1e5)), judge.schema, live, 50)
    first, alarm = said[0]
    assert 10_000 < first <= {0.5: 10_100, 0.9: 10_500, 0.98: 13_000}[rho]
    assert (alarm.kind, alarm.direction) == ("shift", "up")
