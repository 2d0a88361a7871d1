import numpy as np
import pytest

from driftpost_sketches.derived.fit import fit_derived
from driftpost_sketches.derived.fit_slices import SLICE_ROWS
from driftpost_sketches.derived.wishes import SeasonWish, SliceWish
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.errors import CalibrationError
from driftpost_sketches.fitting import fit_categorical, fit_codes, fit_numeric
from driftpost_sketches.schema import Role, Schema
from simulated_streams import numeric_schema
from sketches.derived.seasonal_streams import DAY_S, daily

DAILY = SeasonWish("hour-of-day")


@pytest.fixture(scope="module")
def week():
    """Seven days: a stream with a course, one without, a class, and pixels."""
    rng = np.random.default_rng(0)
    values, seconds = daily(rng, 7, 1_000, 2, amplitude=1.5)
    values[:, 1] = rng.normal(size=len(values))
    classes = rng.choice(5, p=[0.5, 0.3, 0.15, 0.04, 0.01], size=len(values))
    schema = Schema(
        [
            fit_numeric("temperature", values[:, 0], Role.INPUT, "degC"),
            fit_codes("pixels", np.zeros((9, 4), np.int8), Role.INPUT),
            fit_numeric("noise", values[:, 1], Role.INPUT),
            fit_categorical("class", classes, Role.OUTPUT, ["ant", "bee", "cat", "dog", "eel"]),
            fit_numeric("latency", np.abs(values[:, 1]), Role.LATENCY, "us"),
        ]
    )
    return schema, np.column_stack([values, classes, np.abs(values[:, 1])]), seconds


def test_a_seasonal_stream_replaces_the_one_it_is_made_of(week):
    schema, values, seconds = week
    derived = fit_derived(schema, values, seconds=seconds, season=DAILY)
    names = [derived.schema.streams[i].name for i in derived.schema.tracked_streams]
    assert names == ["noise", "class", "latency", "temperature for its hour of day"]
    made = derived.schema.streams[-1]
    assert (made.partial, made.unit, made.role) == (True, "degC", Role.INPUT)
    assert derived.values.shape == (len(values), 5)
    assert derived.values[:, 4].std() == pytest.approx(1.0, abs=0.05)
    assert 0 < derived.ceiling["temperature for its hour of day"] < len(values)
    assert "temperature (5" in derived.notes[0]


def test_slices_take_the_most_frequent_classes_that_have_enough_rows(week):
    schema, values, seconds = week
    wish = SliceWish(("class",), ("noise", "temperature"), most=4)
    derived = fit_derived(schema, values, seconds=seconds, season=DAILY, slices=wish)
    assert derived.plan.names[1:] == tuple(
        f"{name} where class is {label}"
        for label in ("ant", "bee", "cat")
        for name in ("noise", "temperature for its hour of day")
    )
    (note,) = [note for note in derived.notes if "slices" in note]
    assert note == f"no slices where class is dog: below {SLICE_ROWS} reference rows each"
    assert (
        derived.ceiling["temperature for its hour of day where class is bee"]
        == derived.ceiling["temperature for its hour of day"]
    )
    calibration = Calibration.fit(derived.schema, derived.values, ceiling=derived.ceiling)
    ant = float((values[:, 2] == 0).sum())
    assert calibration.n_ref("noise where class is ant") <= ant


def test_every_numeric_input_and_output_is_sliced_where_none_is_named(week):
    schema, values, _ = week
    derived = fit_derived(schema, values, slices=SliceWish(("class",), most=1))
    assert derived.plan.names == ("temperature where class is ant", "noise where class is ant")


def test_a_categorical_stream_may_be_sliced_and_keeps_its_bins(week):
    schema, values, _ = week
    wish = SliceWish(("class",), ("class",))
    assert fit_derived(schema, values, slices=wish).plan.names == ()
    two = Schema([*schema.streams, fit_categorical("door", values[:, 2] % 2, Role.INPUT)])
    wide = np.column_stack([values, values[:, 2] % 2])
    derived = fit_derived(two, wide, slices=SliceWish(("door",), ("class",)))
    assert [s.categories for s in derived.schema.streams[-2:]] == [schema.streams[3].categories] * 2


def test_the_reference_is_as_the_plan_would_give_it_but_for_courses_it_has_not_seen(week):
    schema, values, seconds = week
    wish = SliceWish(("class",), ("noise",))
    derived = fit_derived(schema, values, seconds=seconds, season=DAILY, slices=wish)
    again = derived.plan.apply(values, seconds)
    seasonal = again[:, 4] - derived.values[:, 4]
    assert 0 < np.abs(seasonal).max() < 0.5
    assert np.array_equal(again[:, 5:], derived.values[:, 5:], equal_nan=True)


def test_missing_values_stay_absent_and_the_course_is_fitted_to_the_others(week):
    schema, values, seconds = week
    holes = values.copy()
    holes[::9, 0] = np.nan
    derived = fit_derived(schema, holes, seconds=seconds, season=DAILY)
    assert np.isinf(derived.values[::9, 4]).all()
    assert np.isfinite(derived.values[1::9, 4]).all()
    calibration = Calibration.fit(derived.schema, derived.values, ceiling=derived.ceiling)
    assert calibration.chains[-1].shares[-1] == pytest.approx(1 / 9, abs=0.01)


def test_a_reference_of_less_than_two_days_is_refused_and_told_how_much_is_missing(week):
    schema, values, seconds = week
    with pytest.raises(CalibrationError, match=r"covers 1\.5 days.* add 12 hours"):
        fit_derived(schema, values[:1_500], seconds=seconds[:1_500], season=DAILY)
    with pytest.raises(CalibrationError, match=r"covers 1\.0 weeks.* add 7\.0 days"):
        fit_derived(schema, values, seconds=seconds, season=SeasonWish("hour-of-week"))
    short = fit_derived(schema, values[:2_500], seconds=seconds[:2_500], season=DAILY)
    assert short.notes[0].startswith("the reference covers only 2.5 days")
    assert short.plan.season is not None


def test_few_rows_make_coarser_phases_and_say_so(week):
    schema, values, seconds = week
    sparse = slice(None, None, 60)
    derived = fit_derived(schema, values[sparse], seconds=seconds[sparse], season=DAILY)
    assert any("too few rows for 24 phases" in note for note in derived.notes)
    assert derived.plan.season is not None
    assert derived.plan.season.phase.count < 24


def test_a_context_stream_takes_the_place_of_the_clock():
    rng = np.random.default_rng(1)
    load = rng.uniform(size=6_000)
    mode = rng.integers(0, 3, 6_000).astype(float)
    heat = 10.0 * mode + rng.normal(size=6_000)
    values = np.column_stack([load, mode, heat])
    schema = Schema(
        [
            fit_numeric("load", load, Role.INPUT), fit_categorical("mode", mode, Role.INPUT),
            fit_numeric("heat", heat, Role.INPUT),
        ]
    )  # fmt: skip
    derived = fit_derived(schema, values, season=SeasonWish("stream:mode"))
    assert derived.plan.names == ("heat for its mode",)
    assert derived.values[:, 3].std() == pytest.approx(1.0, abs=0.05)
    none = fit_derived(schema, values, season=SeasonWish("stream:load"))
    assert none.plan.names == ()
    assert "no course by load" in none.notes[0]


def test_a_strong_cycle_that_nobody_asked_for_is_mentioned(week):
    schema, values, seconds = week
    (note,) = fit_derived(schema, values, seconds=seconds).notes
    assert "daily cycle shows in temperature (5" in note
    assert "hour-of-day" in note
    assert fit_derived(schema, values[:1_000], seconds=seconds[:1_000]).notes == ()
    assert fit_derived(schema, values).notes == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"season": DAILY, "seconds": None}, "needs the time of each"),
        ({"season": SeasonWish("moon")}, "no season by 'moon'"),
        ({"season": SeasonWish("hour-of-day", ("class",))}, "'class' is not numeric"),
        ({"season": SeasonWish("hour-of-day", ("nobody",))}, "no stream 'nobody'"),
        ({"season": SeasonWish("stream:nobody")}, "no stream 'nobody'"),
        ({"season": SeasonWish("stream:noise", ("noise",))}, "can not go by itself"),
        ({"slices": SliceWish(("noise",))}, "'noise' is not categorical"),
        ({"slices": SliceWish(("nobody",))}, "no stream 'nobody'"),
        ({"slices": SliceWish(("class",), ("pixels",))}, "'pixels' is not"),
        ({"slices": SliceWish(("class",), most=0)}, "0 slices"),
    ],
)
def test_wishes_that_do_not_fit_are_refused_with_what_there_is(week, options, message):
    schema, values, seconds = week
    with pytest.raises(CalibrationError, match=message):
        fit_derived(schema, values, **{"seconds": seconds, **options})


def test_more_slices_than_a_window_should_carry_are_refused():
    rng = np.random.default_rng(5)
    values = np.column_stack([rng.normal(size=(6_000, 40)), rng.integers(0, 8, 6_000)])
    streams = [fit_numeric(f"x{i}", column, Role.INPUT) for i, column in enumerate(values.T[:-1])]
    schema = Schema([*streams, fit_categorical("class", values[:, -1], Role.OUTPUT)])
    with pytest.raises(CalibrationError, match="at most 256"):
        fit_derived(schema, values, slices=SliceWish(("class",)))
    assert len(fit_derived(schema, values, slices=SliceWish(("class",), most=6)).plan.names) == 240


def test_times_must_rise_and_be_there_for_every_row(week):
    schema, values, seconds = week
    for wrong in (
        seconds[::-1].copy(),
        seconds[:-1],
        np.where(np.arange(len(seconds)) == 5, np.nan, seconds),
    ):
        with pytest.raises(CalibrationError, match=r"order of time|times for"):
            fit_derived(schema, values, seconds=wrong, season=DAILY)


def test_a_name_that_would_be_too_long_is_refused():
    rng = np.random.default_rng(3)
    values, seconds = daily(rng, 3, 500)
    schema = Schema([fit_numeric("x" * 199, values[:, 0], Role.INPUT)])
    with pytest.raises(CalibrationError, match="too long"):
        fit_derived(schema, values, seconds=seconds, season=DAILY)


def test_a_season_by_the_week_knows_the_weekend():
    rng = np.random.default_rng(4)
    values, seconds = daily(rng, 28, 240, amplitude=1.0, first_day=4)
    weekend = ((seconds / DAY_S + 3) % 7) >= 5
    values[:, 0] += 3.0 * weekend
    schema = numeric_schema(values)
    by_day = fit_derived(schema, values, seconds=seconds, season=DAILY)
    by_week = fit_derived(schema, values, seconds=seconds, season=SeasonWish("hour-of-week"))
    assert by_week.values[:, 1].std() < 1.1
    assert by_day.values[:, 1].std() > 1.4
