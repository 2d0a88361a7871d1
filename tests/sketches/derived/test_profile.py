import math

import numpy as np
import pytest

from driftpost_sketches.derived.phase import clock_phase
from driftpost_sketches.derived.profile import Rows, fit_profile, read
from sketches.derived.seasonal_streams import DAY_S, daily

PHASE = clock_phase("hour-of-day")


def rows_of(seconds):
    days = (seconds / DAY_S).astype(np.int64)
    return Rows(PHASE.of_seconds(seconds), 24, True, days - days[0])


def test_the_course_of_a_sine_is_found_with_few_numbers_and_its_level_is_kept():
    rng = np.random.default_rng(0)
    values, seconds = daily(rng, 5, 2_000, amplitude=2.0)
    profile = fit_profile(values[:, 0] + 20.0, rows_of(seconds))
    assert profile is not None
    expected = 20.0 + 2.0 * np.sin(2 * np.pi * (np.arange(24) + 0.5) / 24)
    assert np.abs(profile.usual - expected).max() < 0.15
    assert profile.freedom <= 7
    assert profile.explained == pytest.approx(2 / 3, abs=0.05)
    assert profile.level == pytest.approx(20.0, abs=0.1)
    assert profile.left.mean() == pytest.approx(20.0, abs=0.1)
    assert profile.left.std() == pytest.approx(1.0, abs=0.05)
    assert (profile.factor == 1.0).all()


def test_a_stream_without_a_course_has_none():
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(20):
        values, seconds = daily(rng, 6, 500, amplitude=0.0)
        found += fit_profile(values[:, 0], rows_of(seconds)) is not None
    assert found <= 4
    assert fit_profile(np.full(len(seconds), 7.0), rows_of(seconds)) is None
    assert fit_profile(np.full(len(seconds), np.nan), rows_of(seconds)) is None


def test_the_reference_is_never_judged_by_a_course_that_has_seen_it():
    """A week of one row an hour: a course that was fitted to the same rows flatters itself by a tenth."""
    rng = np.random.default_rng(2)
    seconds = np.arange(7 * 24) * 3600.0
    spreads = []
    for _ in range(40):
        values = 3.0 * np.sin(2 * np.pi * seconds / DAY_S) + rng.normal(size=len(seconds))
        profile = fit_profile(values, rows_of(seconds))
        if profile is None:
            continue
        live = 3.0 * np.sin(2 * np.pi * seconds / DAY_S) + rng.normal(size=len(seconds))
        usual = read(profile.usual[None], PHASE.of_seconds(seconds), circular=True)[0]
        spreads.append((profile.left.std(), (live - usual).std()))
    own, fresh = np.mean(spreads, axis=0)
    assert own == pytest.approx(fresh, rel=0.05)
    assert own > 1.0


def test_what_the_course_is_worth_is_what_its_error_says():
    """The mean square error of the course is close to the variance of what is left over its worth."""
    rng = np.random.default_rng(3)
    ratios = []
    for _ in range(30):
        values, seconds = daily(rng, 8, 480, amplitude=1.0)
        profile = fit_profile(values[:, 0], rows_of(seconds))
        assert profile is not None
        truth = np.sin(2 * np.pi * (np.arange(24) + 0.5) / 24)
        error = np.mean((profile.usual - truth) ** 2)
        ratios.append(error / (profile.left.var() / profile.independent))
    assert 0.5 < np.mean(ratios) < 1.5


def test_a_slow_weather_lowers_the_worth_of_the_course():
    rng = np.random.default_rng(4)
    values, seconds = daily(rng, 20, 240, amplitude=1.0)
    quick = fit_profile(values[:, 0], rows_of(seconds))
    weather = np.repeat(rng.normal(size=20), 240)
    slow = fit_profile(values[:, 0] + weather, rows_of(seconds))
    assert quick is not None
    assert slow is not None
    assert slow.independent < quick.independent / 5
    assert slow.independent < 60


def test_differences_are_divided_where_the_spread_has_a_course_and_a_lasting_shift_keeps_its_size():
    rng = np.random.default_rng(5)
    seconds = np.arange(10 * 480) * 180.0
    daytime = 0.5 + 0.5 * np.sin(2 * np.pi * seconds / DAY_S)
    values = 100.0 * daytime + (1.0 + 9.0 * daytime) * rng.normal(size=len(seconds))
    profile = fit_profile(values, rows_of(seconds))
    assert profile is not None
    assert profile.factor.max() > 3 * profile.factor.min()
    assert profile.factor.mean() == pytest.approx(1.0)
    by_hour = [profile.left[PHASE.of_seconds(seconds).astype(int) == h].std() for h in range(24)]
    assert max(by_hour) < 2.0 * min(by_hour)  # ten times without


def test_an_outlier_is_no_habit():
    rng = np.random.default_rng(6)
    values, seconds = daily(rng, 8, 48, amplitude=1.0)
    clean = fit_profile(values[:, 0], rows_of(seconds))
    values[100, 0] = 1e30
    dirty = fit_profile(values[:, 0], rows_of(seconds))
    assert clean is not None
    assert dirty is not None
    assert np.abs(clean.usual - dirty.usual).max() < 1.0


def test_hours_that_only_one_day_knows_are_unknown_and_read_as_such():
    rng = np.random.default_rng(7)
    values, seconds = daily(rng, 5, 960, amplitude=2.0)
    hour = PHASE.of_seconds(seconds)
    shut = (hour >= 1) & (hour < 5) & (seconds > DAY_S)
    profile = fit_profile(values[~shut, 0], rows_of(seconds[~shut]))
    assert profile is not None
    assert np.flatnonzero(np.isnan(profile.usual)).tolist() == [1, 2, 3, 4]
    told = read(profile.usual[None], np.array([0.7, 1.2, 2.5, 4.9, 5.5]), circular=True)[0]
    assert np.isnan(told).tolist() == [False, False, True, False, False]


def test_between_two_middles_the_course_is_read_on_a_line_and_midnight_has_no_edge():
    courses = np.array([[0.0, 10.0, 20.0, 10.0]])
    places = np.array([0.5, 1.0, 2.25, 3.999999, 0.0])
    assert read(courses, places, circular=True)[0] == pytest.approx([0.0, 5.0, 17.5, 5.0, 5.0], abs=1e-4)
    assert math.isnan(read(courses, np.nan, circular=True)[0, 0])
    assert read(courses, np.array([1.0, 3.0]), circular=False)[0].tolist() == [10.0, 10.0]
