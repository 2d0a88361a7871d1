import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftpost_sketches.derived.phase import Phase
from driftpost_sketches.derived.plan import DerivedPlan
from driftpost_sketches.derived.season import Season, Seasonal
from driftpost_sketches.derived.slice import Slice
from driftpost_sketches.errors import MalformedSketch, UnsupportedVersion

COLUMNS = ("temperature", "load", "class")
DAY = Season(
    Phase("hour-of-day", 4),
    False,
    (Seasonal("temperature", (10.0, 20.0, 30.0, 20.0), (1.0, 1.0, 1.0, 1.0), 20.0),),
)
SLICES = (
    Slice("temperature for its hour of day", "class", 3, "temperature for its hour of day where class is 3"),
    Slice("load", "class", 3, "load where class is 3"),
)
PLAN = DerivedPlan(COLUMNS, DAY, SLICES)
# The middle of ten minutes; the phases of 6 to 12 and of 12 to 18 meet five minutes before it.
NOON = 12 * 3600.0 + 300.0
USUAL = 25.0 + 10.0 * 300.0 / (6 * 3600.0)


def test_nothing_to_derive_gives_the_same_matrix():
    values = np.ones((3, 3))
    assert DerivedPlan(COLUMNS).apply(values, 0.0) is values
    assert DerivedPlan(COLUMNS).names == ()


def test_a_seasonal_value_is_what_it_would_be_at_an_average_hour():
    out = PLAN.apply(np.array([[USUAL + 2.0, 1.0, 0.0]]), NOON)
    assert out[0, :4] == pytest.approx([USUAL + 2.0, 1.0, 0.0, 22.0])


def test_equal_values_stay_equal_for_ten_minutes():
    values = np.array([[27.0, 1.0, 0.0]] * 3)
    out = PLAN.apply(values, NOON + np.array([-299.0, 299.0, 301.0]))
    assert out[0, 3] == out[1, 3] != out[2, 3]


def test_a_slice_has_the_rows_of_its_category_and_is_silent_on_all_others():
    out = PLAN.apply(np.array([[USUAL, 1.0, 3.0], [27.0, 2.0, 0.0], [27.0, 3.0, np.nan]]), NOON)
    assert out[0, 4:] == pytest.approx([20.0, 1.0])
    assert np.isnan(out[1:, 4:]).all()


def test_without_a_known_time_seasonal_streams_and_their_slices_say_nothing():
    out = PLAN.apply(np.array([[27.0, 1.0, 3.0], [np.nan, 1.0, 3.0]]), None)
    assert np.isnan(out[:, 3:5]).all()
    assert out[:, 5].tolist() == [1.0, 1.0]


def test_a_value_that_is_missing_is_absent_in_all_that_is_made_of_it():
    out = PLAN.apply(np.array([[np.nan, np.nan, 3.0], [np.nan, np.nan, 1.0]]), NOON)
    assert np.isinf(out[:, 3]).all()
    assert np.isinf(out[0, 4:]).all()
    assert np.isnan(out[1, 4:]).all()


def test_each_row_may_have_its_own_time():
    values = np.array([[USUAL, 0.0, 0.0]] * 3)
    out = PLAN.apply(values, np.array([NOON, np.nan, 3 * 3600.0 + 300.0]))
    assert out[[0, 2], 3] == pytest.approx([20.0, USUAL - 10.0 - 10.0 * 300.0 / (6 * 3600.0) + 20.0])
    assert np.isnan(out[1, 3])


def test_a_context_gives_its_phase_instead_of_the_clock():
    by_load = Season(
        Phase("stream:load", 2, edges=(5.0,)),
        False,
        (Seasonal("temperature", (10.0, 50.0), (1.0, 0.5), 30.0),),
    )
    plan = DerivedPlan(COLUMNS, by_load)
    assert not plan.needs_time
    out = plan.apply(np.array([[12.0, 1.0, 0.0], [60.0, 9.0, 0.0], [60.0, np.nan, 0.0]]))
    assert out[:2, 3].tolist() == [32.0, 35.0]
    assert np.isnan(out[2, 3])
    assert plan.names == ("temperature for its load",)


def test_names_and_origins_tell_what_is_made_of_what():
    assert PLAN.needs_time
    assert PLAN.names[0] == "temperature for its hour of day"
    assert PLAN.origins == {
        "temperature for its hour of day": "temperature",
        "temperature for its hour of day where class is 3": "temperature",
        "load where class is 3": "load",
    }


@pytest.mark.parametrize(
    "plan",
    [PLAN, DerivedPlan(COLUMNS), DerivedPlan(COLUMNS, slices=SLICES[1:])],
    ids=["all", "none", "slices"],
)
def test_the_plain_form_survives_json(plan):
    assert DerivedPlan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False))) == plan


def test_unknown_phases_survive_json_too():
    course = Seasonal("temperature", (10.0, float("nan"), 30.0, 20.0), (1.0,) * 4, 20.0)
    plain = json.loads(json.dumps(DerivedPlan(COLUMNS, Season(DAY.phase, True, (course,))).to_dict()))
    again = DerivedPlan.from_dict(plain)
    assert again.season is not None
    assert again.season.local
    assert np.isnan(again.season.streams[0].usual[1])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 0), (("version",), "1"), (("columns",), ["load", "class"]), (("columns",), "abc"),
        (("columns",), [1, 2, 3]), (("slices",), 7), (("slices", 0, "by"), "nobody"),
        (("slices", 0, "stream"), "nobody"), (("slices", 0, "value"), 3.5), (("slices", 0, "value"), True),
        (("slices", 1, "name"), "load"), (("season",), 3), (("season", "by"), "moon"),
        (("season", "count"), 5), (("season", "local"), 1), (("season", "streams"), []),
        (("season", "categories"), [1.5]), (("season", "streams", 0, "usual"), [1.0]),
        (("season", "streams", 0, "usual"), [None] * 4), (("season", "streams", 0, "usual"), ["x"] * 4),
        (("season", "streams", 0, "factor"), [1.0, 0.0, 1.0, 1.0]), (("season", "streams", 0, "level"), None),
        (("season", "streams", 0, "level"), float("inf")), (("season", "streams", 0, "stream"), "nobody"),
        (("season", "by"), "stream:nobody"),
    ],
)  # fmt: skip
def test_plans_that_are_none_are_refused(path, value):
    plain = json.loads(json.dumps(PLAN.to_dict()))
    at = plain
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(MalformedSketch):
        DerivedPlan.from_dict(plain)


def test_missing_fields_and_a_newer_version_are_refused():
    for key in ("version", "columns", "season", "slices"):
        plain = PLAN.to_dict()
        del plain[key]
        with pytest.raises(MalformedSketch):
            DerivedPlan.from_dict(plain)
    with pytest.raises(UnsupportedVersion, match="upgrade"):
        DerivedPlan.from_dict({**PLAN.to_dict(), "version": 2})
    for junk in (None, [], "plan", 7):
        with pytest.raises(MalformedSketch):
            DerivedPlan.from_dict(junk)


@given(st.lists(st.integers(0, 60), max_size=5), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_blocks_of_any_size_give_the_same_values(cuts, rows):
    rng = np.random.default_rng(rows)
    values = np.column_stack([rng.normal(20, 5, rows), rng.normal(size=rows), rng.integers(0, 5, rows)])
    values[rng.random(values.shape) < 0.1] = np.nan
    seconds = np.arange(rows) * 1_800.0
    whole = PLAN.apply(values, seconds)
    edges = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    parts = [PLAN.apply(values[a:b], seconds[a:b]) for a, b in pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), whole, equal_nan=True)
