"""Which evidence belongs to an alarm that stands, and which deserves one of its own."""

import numpy as np
import pytest

from driftpost_sketches.drift.bets import Bets, Family
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.drift.monitor import Monitor
from driftpost_sketches.drift.reference import Reference
from simulated_streams import alarms, autoregressive, independent, numeric_schema, windows

THRESHOLD = np.log(1e6)


@pytest.fixture(scope="module")
def reference():
    values = independent(np.random.default_rng(0), 2_000, 3)
    schema = numeric_schema(values)
    fitted = Calibration.fit(schema, values)
    return Reference(schema, fitted.baseline, fitted.chains, np.ones(3), persistence=True)


@pytest.fixture
def play(reference):
    """Alarms of three streams with one bet each, of whose evidence every window has a row."""
    bet = Bets(np.zeros((18, 18, 1)), np.zeros((2, 1)), np.ones(1), np.array([int(Family.LOCATION)]))
    values = independent(np.random.default_rng(1), 20, 3)
    sums = reference.sums(*next(windows(reference.schema, values, 20)))

    def run(evidence):
        monitor, said = Monitor(reference, [bet] * 3, THRESHOLD), []
        for at, row in enumerate(evidence):
            said += [(at, alarm) for alarm in monitor.step(np.array(row)[:, None], sums)]
        return monitor, said

    return run


def raised(said):
    return [(at, alarm.streams[0][0]) for at, alarm in said if alarm.state == "raised"]


def climb(windows, *starts_and_rates):
    """float64[windows, 3]: evidence that idles, then climbs from a window on at a rate."""
    evidence = np.full((windows, 3), -0.2)
    for stream, (start, rate) in enumerate(starts_and_rates):
        evidence[start:, stream] = rate
    return evidence


def test_streams_that_change_together_are_one_alarm_though_some_need_longer(play):
    monitor, said = play(climb(120, (50, 4.0), (50, 1.3), (50, 1.0)))
    assert raised(said) == [(53, "x0")]
    assert {name for name, _ in monitor.standing[0].alarm.streams} == {"x0", "x1", "x2"}
    assert sum(share for _, share in monitor.standing[0].alarm.streams) == pytest.approx(1.0)


def test_a_change_that_begins_well_after_an_alarm_is_another_one(play):
    _, said = play(climb(120, (20, 4.0), (40, 4.0), (70, 0.5)))
    assert [name for _, name in raised(said)] == ["x0", "x1", "x2"]


def test_a_climb_is_dated_where_it_began_and_not_where_the_bet_last_was_at_zero(play):
    evidence = climb(200, (100, 4.0), (120, 1.5))
    evidence[5:120, 1] = np.tile([1.0, -1.0], 58)[:115]  # wanders between one and two
    evidence[5, 1] = 2.0
    _, said = play(evidence)
    assert [name for _, name in raised(said)] == ["x0", "x1"]
    assert said[1][1].onset_windows_ago == pytest.approx(said[1][0] - 120, abs=2)


def test_evidence_that_grew_mostly_after_an_alarm_is_not_swallowed_by_it(play):
    _, said = play(climb(400, (50, 8.0), (49, 0.2)))
    assert [name for _, name in raised(said)] == ["x0", "x1"]


def test_a_false_alarm_that_stands_does_not_hide_a_true_one_elsewhere():
    # At the laxest threshold of all, so that something always stands.
    rng = np.random.default_rng(731)
    values = autoregressive(rng, 20_000, 12)
    schema = numeric_schema(values)
    fitted = Calibration.fit(schema, values)
    found = 0
    for trial in range(6):
        live = autoregressive(np.random.default_rng(trial), 6_000, 12)
        live[2_000:, trial] += 1.5
        said = alarms(DriftDetector(fitted, np.log(20.0)), schema, live, 20)
        assert any(row <= 2_000 and alarm.state == "raised" for row, alarm in said)
        found += any(2_000 < row <= 4_000 and f"x{trial}" in dict(alarm.streams) for row, alarm in said)
    assert found >= 5
