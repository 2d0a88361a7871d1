"""A chi-square that takes the reference's shares for exact alarms on nothing."""

import numpy as np
import pytest

from driftpost_sketches.fitting import fit_categorical
from driftpost_sketches.schema import Role, Schema
from simulated_streams import categories
from single_windows import Judge, at_most

ROWS = 1000
TRIALS = 200
# 95 % points of chi-square with one degree of freedom less than there are categories.
CRITICAL = {3: 5.991, 10: 16.919, 30: 42.557}


def goodness_of_fit(reference, live, count):
    """Pearson's statistic of the live counts, the reference's shares taken for the truth."""
    expected = np.bincount(reference.astype(int), minlength=count) * len(live) / len(reference)
    seen = np.bincount(live.astype(int), minlength=count)
    return float(((seen - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("count", [3, 10, 30])
def test_as_many_reference_as_live_rows_do_not_alarm_by_the_references_own_error(count):
    rng = np.random.default_rng(count)
    shares = np.full(count, 1.0 / count)
    naive, device, fleet = 0, 0, 0
    for _ in range(TRIALS):
        reference = categories(rng, ROWS, shares)
        live = categories(rng, ROWS, shares)
        naive += goodness_of_fit(reference, live, count) > CRITICAL[count]
        schema = Schema([fit_categorical("class", reference, Role.OUTPUT, categories=range(count))])
        judge = Judge(schema, reference[:, None], smallest_effect=0.0)
        device += bool(judge.on_device(live[:, None]))
        fleet += bool(judge.in_fleet(live[:, None]))
    # 22, 49 and 85 % were measured elsewhere.
    assert naive > {3: 0.15, 10: 0.4, 30: 0.75}[count] * TRIALS
    assert device <= at_most(TRIALS)
    assert fleet <= at_most(TRIALS)


@pytest.mark.parametrize("count", [3, 10, 30])
def test_a_class_that_takes_over_is_found_all_the_same(count):
    rng = np.random.default_rng(count)
    shares = np.full(count, 1.0 / count)
    reference = categories(rng, ROWS, shares)
    schema = Schema([fit_categorical("class", reference, Role.OUTPUT, categories=range(count))])
    judge = Judge(schema, reference[:, None])
    moved = 0.5 * shares
    # The most frequent one has a cell of its own; rare ones share one, and are told together.
    moved[schema.streams[0].categories[0]] += 0.5
    live = categories(rng, ROWS, moved)[:, None]
    for said in (judge.on_device(live), judge.in_fleet(live)):
        assert [a.kind for a in said] == ["category_share"]
        assert said[0].effect == pytest.approx(0.5 * (1 - 1 / count), abs=0.06)
