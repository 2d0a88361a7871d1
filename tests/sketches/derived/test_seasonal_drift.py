"""What detectors do on seasonal streams and slices: quiet by day and by night, and quick when it counts."""

import numpy as np
import pytest

from driftpost_sketches.derived.fit import fit_derived
from driftpost_sketches.derived.wishes import SeasonWish, SliceWish
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema
from simulated_streams import alarms, numeric_schema
from sketches.derived.seasonal_streams import DAY_S, daily

ROWS_A_DAY = 4_000
WINDOW = 20


def learnt(rng, streams, days=6.0, **course):
    values, seconds = daily(rng, days, ROWS_A_DAY, streams, **course)
    derived = fit_derived(numeric_schema(values), values, seconds=seconds, season=SeasonWish("hour-of-day"))
    return derived, Calibration.fit(derived.schema, derived.values, ceiling=derived.ceiling)


def detector(calibration, words):
    return DriftDetector(calibration, Budget.parse(words).log_threshold(WINDOW / ROWS_A_DAY * DAY_S))


def test_days_without_change_stay_within_the_budget():
    rng = np.random.default_rng(0)
    raised = 0
    for _ in range(3):
        derived, calibration = learnt(rng, 5)
        live, seconds = daily(rng, 6, ROWS_A_DAY, 5, first_day=6)
        wide = derived.plan.apply(live, seconds)
        said = alarms(detector(calibration, "100 per 1,000 device-days"), derived.schema, wide, WINDOW)
        raised += sum(alarm.state == "raised" for _, alarm in said)
    # 18 device-days may have 1.8 alarms; seven come with a chance of 1 in 400 then.
    assert raised < 7


@pytest.mark.parametrize(("shift", "latest"), [(0.5, 1_200), (1.0, 300)])
def test_a_shift_is_found_as_soon_as_without_a_daily_course(shift, latest):
    rng = np.random.default_rng(1)
    derived, calibration = learnt(rng, 5, amplitude=2.0)
    found = []
    for trial in range(5):
        live, seconds = daily(rng, 0.7, ROWS_A_DAY, 5, first_day=6 + trial / 5, amplitude=2.0)
        live[400:, 2] += shift
        wide = derived.plan.apply(live, seconds)
        said = alarms(detector(calibration, "1 per 1,000 device-days"), derived.schema, wide, WINDOW)
        rows = [row - 400 for row, a in said if a.state == "raised" and a.streams[0][0].startswith("x2")]
        found.append(rows[0] if rows else np.inf)
    assert min(found) > 0
    assert np.median(found) <= latest


def test_without_a_season_the_same_shift_takes_far_longer():
    rng = np.random.default_rng(2)
    values, _ = daily(rng, 6, ROWS_A_DAY, 1, amplitude=2.0)
    schema = numeric_schema(values)
    watching = detector(Calibration.fit(schema, values), "1 per 1,000 device-days")
    live, _ = daily(rng, 0.5, ROWS_A_DAY, 1, first_day=6, amplitude=2.0)
    live[400:] += 0.5
    assert [a for row, a in alarms(watching, schema, live, WINDOW) if row < 400 + 1_200] == []


def test_a_stuck_sensor_is_still_told_from_a_quiet_one():
    rng = np.random.default_rng(7)
    derived, calibration = learnt(rng, 2)
    live, seconds = daily(rng, 0.2, ROWS_A_DAY, 2, first_day=6)
    live[200:, 1] = live[199, 1]
    wide = derived.plan.apply(live, seconds)
    said = alarms(detector(calibration, "1 per device-year"), derived.schema, wide, WINDOW)
    row, alarm = said[0]
    assert (alarm.kind, alarm.streams[0][0]) == ("stuck", "x1 for its hour of day")
    assert row <= 260


def test_the_size_of_a_shift_is_told_in_the_streams_own_unit():
    rng = np.random.default_rng(3)
    derived, calibration = learnt(rng, 1, amplitude=5.0)
    live, seconds = daily(rng, 0.5, ROWS_A_DAY, 1, first_day=6, amplitude=5.0)
    wide = derived.plan.apply(live + 2.0, seconds)
    said = alarms(detector(calibration, "1 per device-year"), derived.schema, wide, WINDOW)
    assert said[0][1].effect_natural == pytest.approx(2.0, abs=0.6)
    assert said[0][1].unit == "lx"
    assert said[0][1].text.startswith("x0 for its hour of day is")


def test_an_unknown_clock_says_nothing_and_is_no_missing_sensor():
    rng = np.random.default_rng(4)
    derived, calibration = learnt(rng, 2)
    live, _ = daily(rng, 1, ROWS_A_DAY, 2, first_day=6)
    wide = derived.plan.apply(live + 3.0, None)
    assert alarms(detector(calibration, "1 per device-year"), derived.schema, wide, WINDOW) == []


def test_a_sensor_that_falls_silent_is_missing_all_the_same():
    rng = np.random.default_rng(5)
    derived, calibration = learnt(rng, 2)
    live, seconds = daily(rng, 0.2, ROWS_A_DAY, 2, first_day=6)
    live[200:, 1] = np.nan
    wide = derived.plan.apply(live, seconds)
    said = alarms(detector(calibration, "1 per device-year"), derived.schema, wide, WINDOW)
    assert (said[0][1].kind, said[0][1].streams[0][0]) == ("missing", "x1 for its hour of day")
    assert said[0][0] <= 240


def test_drift_within_one_class_is_found_in_its_slice_and_named_in_words():
    rng = np.random.default_rng(6)

    def rows(count, drop):
        classes = rng.integers(0, 6, count).astype(float)
        confidence = 0.9 + 0.05 * rng.normal(size=count)
        confidence[classes == 3] -= drop
        return np.column_stack([confidence, classes])

    reference = rows(12_000, 0.0)
    schema = Schema(
        [
            fit_numeric("confidence", reference[:, 0], Role.OUTPUT),
            fit_categorical("top_class", reference[:, 1], Role.OUTPUT),
        ]
    )
    derived = fit_derived(schema, reference, slices=SliceWish(("top_class",), ("confidence",)))
    calibration = Calibration.fit(derived.schema, derived.values, ceiling=derived.ceiling)
    live = np.concatenate([rows(2_000, 0.0), rows(2_000, 0.08)])
    wide = derived.plan.apply(live)
    said = alarms(detector(calibration, "1 per device-year"), derived.schema, wide, WINDOW)
    row, alarm = said[0]
    assert 2_000 < row <= 2_400
    assert alarm.streams[0][0] == "confidence where top_class is 3"
    assert alarm.text.startswith("confidence where top_class is 3 is 0.0")
    assert "lower" in alarm.text
    assert alarm.direction == "down"
