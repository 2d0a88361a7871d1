import math

import numpy as np
import pytest
from benchmarks.drift import product, table
from benchmarks.drift.changes import CHANGES, WORDS
from benchmarks.drift.peers import chi_square_alarms, cusum_alarms, ks_alarms, psi_alarms
from benchmarks.drift.screen import highest_evidence, stays_silent
from benchmarks.drift.streams import DAY_ROWS, SOURCES, live

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.detector import DriftDetector


@pytest.mark.parametrize("source", SOURCES)
def test_every_stream_has_zero_mean_and_unit_variance(source):
    values = SOURCES[source].simulate(np.random.default_rng(1), 2 * DAY_ROWS, 8)
    assert values.shape == (2 * DAY_ROWS, 8)
    assert abs(values.mean()) < 0.05
    assert values.std() == pytest.approx(1.0, abs=0.05)


def test_a_device_sees_the_same_rows_whoever_asks_and_another_device_others():
    assert np.array_equal(live(1, "iid", 0, "null", 50), live(1, "iid", 0, "null", 50))
    assert not np.array_equal(live(1, "iid", 0, "null", 50), live(1, "iid", 1, "null", 50))
    assert not np.array_equal(live(1, "iid", 0, "null", 50), live(2, "iid", 0, "null", 50))


def test_every_change_has_words_and_keeps_the_number_of_rows():
    assert list(CHANGES) == list(WORDS)
    assert all(change(np.zeros(7), 0.5).shape == (7,) for change in CHANGES.values())


def test_poisson_bounds_are_the_textbook_ones():
    assert table.upper_bound(0, 1.0) == pytest.approx(math.log(20), rel=1e-6)
    assert table.upper_bound(3, 1.0) == pytest.approx(7.754, abs=1e-3)
    assert table.lower_bound(3, 1.0) == pytest.approx(0.8177, abs=1e-4)
    assert table.lower_bound(0, 1.0) == 0.0


def test_a_verdict_needs_enough_device_days():
    assert table.verdict(0, 40, 10) == "open"
    assert table.verdict(0, 400, 10) == "kept"
    assert table.verdict(12, 400, 10) == "BROKEN"


def test_delays_that_were_missed_count_as_beyond_the_horizon():
    assert table.rows_in_words([20.0, 40.0, math.inf]) == "40 / >40,000"
    assert table.median([math.inf, math.inf, 20.0]) == 40_000


def test_the_windowed_tests_keep_their_level_and_find_a_shift():
    rng = np.random.default_rng(2)
    known, quiet = rng.normal(size=10_000), rng.normal(size=200_000)
    assert 0.03 < len(ks_alarms(known, quiet, 0.05)) / 2_000 < 0.07
    assert ks_alarms(known, quiet + 1.0, 1e-3)[0] == 100
    assert psi_alarms(known, quiet + 1.0, 0.3)[0] == 100
    assert 0.03 < len(chi_square_alarms(known, quiet, 0.05)) / 2_000 < 0.07
    assert chi_square_alarms(known, quiet + 1.0, 1e-6)[0] == 100


def test_the_cusum_finds_shifts_up_and_down_and_begins_anew():
    rng = np.random.default_rng(2)
    known = 5.0 + 2.0 * rng.normal(size=10_000)
    for shift in (2.0, -2.0):
        rows = cusum_alarms(known, known[:2_000] + shift, 5.0)
        assert rows[0] < 40
        assert len(rows) > 50


def test_false_alarms_are_counted_at_every_budget():
    raised = product.false_alarms(1, "iidshort", 0, 1, *product.BUDGETS)
    assert list(raised) == [1000, 100, 10]
    assert raised[1000] >= raised[100] >= raised[10]


@pytest.mark.parametrize("source", ["iid", "ar9", "garch"])
def test_the_screen_sees_the_evidence_that_the_device_gathers(source):
    calibration = product.calibrate(1, source, 0, "null")
    values = live(1, source, 0, "null", 12_345)
    # A threshold that is never reached, so that both go on to the end.
    detector = DriftDetector(calibration, 60.0)
    seen = highest_evidence(calibration.schema, detector, values, product.WINDOW_ROWS)
    most = -np.inf
    for window, transitions in product.windows(WindowAccumulator(calibration.schema), values):
        assert detector.step(transitions, window) == []
        streams = detector.evidence().astype(float)
        most = max(most, float(np.logaddexp.reduce(streams)) - math.log(len(streams)))
    assert seen == pytest.approx(most, abs=1e-3)
    assert stays_silent(calibration.schema, DriftDetector(calibration, 60.0), values, 20, seen + 0.02)
    assert not stays_silent(calibration.schema, DriftDetector(calibration, 60.0), values, 20, seen + 0.005)


@pytest.mark.parametrize("source", ["ar5", "iidshort"])
def test_the_screen_silences_no_device_that_would_have_alarmed(source):
    budget = 100_000
    calibration = product.calibrate(2, source, 0, "null")
    values = live(2, source, 0, "null", DAY_ROWS)
    detector = product.detector_for(calibration, budget)
    raised = 0
    for window, transitions in product.windows(WindowAccumulator(calibration.schema), values):
        raised += sum(alarm.state == "raised" for alarm in detector.step(transitions, window))
    assert raised
    assert product.false_alarms(2, source, 0, 1, budget) == {budget: raised}
