import datetime

import numpy as np
import pytest

from driftpost_sketches.derived.phase import Phase, clock_phase, context_phase
from driftpost_sketches.errors import CalibrationError, MalformedSketch
from driftpost_sketches.fitting import fit_categorical, fit_codes, fit_numeric
from driftpost_sketches.schema import Role, Schema


def seconds(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("by", "time", "phase"),
    [
        ("hour-of-day", "2026-03-01T00:00", 0), ("hour-of-day", "2026-03-01T13:59:59", 13),
        ("half-hour-of-day", "2026-03-01T13:30", 27), ("hour-of-week", "2026-03-02T00:00", 0),
        ("hour-of-week", "2026-03-01T23:00", 167), ("hour-of-day", "1969-12-31T23:30", 23),
    ],
)  # fmt: skip
def test_places_on_the_clock_are_hours_of_the_day_and_of_the_week_from_monday(by, time, phase):
    place = clock_phase(by).of_seconds(np.array([seconds(time)]))
    assert np.floor(place).tolist() == [phase]


def test_a_place_lies_always_on_the_clock_and_unknown_times_nowhere():
    phase = clock_phase("hour-of-day")
    places = phase.of_seconds(np.array([86_400 - 1e-7, 1.7e9, np.nan, np.inf, -1e300]))
    assert ((places[:2] >= 0) & (places[:2] < 24)).all()
    assert np.isnan(places[2:]).all()


def test_a_categorical_context_has_a_phase_for_each_frequent_category():
    column = np.array([3.0] * 200 + [1.0] * 300 + [7.0] * 20)
    schema = Schema([fit_categorical("mode", column, Role.INPUT)])
    phase = context_phase(schema, "mode", column, 100)
    assert (phase.categories, phase.words, phase.context) == ((1, 3), "mode", "mode")
    assert phase.of_values(np.array([1.0, 3.0, 7.0, np.nan, 1.5])).tolist() == [0, 1, -1, -1, -1]


def test_a_numeric_context_has_quantile_bins_and_a_heavy_tie_has_its_own():
    rng = np.random.default_rng(0)
    column = np.concatenate([np.zeros(4_000), rng.uniform(1, 2, 1_000)])
    schema = Schema([fit_numeric("light", column, Role.INPUT)])
    phase = context_phase(schema, "light", column, 100)
    found = phase.of_values(np.array([-5.0, 0.0, 1.0, 3.0, np.nan]))
    assert found[0] == found[1] == 0
    assert found[2] >= 1
    assert found[3] == phase.count - 1
    assert found[4] == -1


def test_a_context_that_does_not_vary_is_none():
    column = np.ones(1_000)
    schema = Schema(
        [fit_numeric("light", column, Role.INPUT), fit_codes("raw", np.zeros((9, 2), np.int8), Role.INPUT)]
    )
    for name, message in (("light", "less than two"), ("nobody", "no stream"), ("raw", "no stream")):
        with pytest.raises(CalibrationError, match=message):
            context_phase(schema, name, column, 100)


@pytest.mark.parametrize(
    "wrong",
    [
        {"by": "moon", "count": 28}, {"by": "hour-of-day", "count": 0}, {"by": "hour-of-day", "count": 1000},
        {"by": "hour-of-day", "count": 24, "edges": (1.0,)}, {"by": "stream:x", "count": 2},
        {"by": "stream:x", "count": 3, "edges": (1.0,)}, {"by": "stream:x", "count": 3, "edges": (2.0, 1.0)},
        {"by": "stream:x", "count": 2, "edges": (float("nan"),)},
        {"by": "stream:x", "count": 2, "edges": (1.0,), "categories": (1, 2)},
    ],
)  # fmt: skip
def test_phases_that_contradict_themselves_are_refused(wrong):
    with pytest.raises(MalformedSketch):
        Phase(**wrong)


def test_an_unknown_clock_is_answered_with_those_there_are():
    with pytest.raises(CalibrationError, match="hour-of-week"):
        clock_phase("fortnight")
