"""Twenty reference rows to each live one: hard labels of a classifier say "reference" to all of them."""

import numpy as np
import pytest

from driftpost_sketches.fitting import fit_categorical
from driftpost_sketches.schema import Role, Schema
from simulated_streams import categories, independent, numeric_schema
from single_windows import Judge

SHIFT = 0.954  # reference standard deviations: a true AUC of 0.75


def area(scores_of_reference, scores_of_live):
    """Probability that a live row scores higher; ties count half."""
    below = np.searchsorted(np.sort(scores_of_reference), scores_of_live, side="left")
    upto = np.searchsorted(np.sort(scores_of_reference), scores_of_live, side="right")
    return float((below + upto).mean() / 2 / len(scores_of_reference))


@pytest.mark.parametrize("ratio", [1, 20, 200])
def test_the_share_of_live_rows_changes_nothing(ratio):
    rng = np.random.default_rng(ratio)
    reference, live = independent(rng, 20_000), independent(rng, 20_000 // ratio) + SHIFT
    # The best rule for this mixture says "live" above a border that rises with the imbalance.
    border = SHIFT / 2 + np.log(ratio) / SHIFT
    hard = area(reference[:, 0] > border, live[:, 0] > border)
    assert area(reference[:, 0], live[:, 0]) == pytest.approx(0.75, abs=0.05)
    assert (hard < 0.55) == (ratio > 1)
    judge = Judge(numeric_schema(reference), reference)
    for said in (judge.on_device(live), judge.in_fleet(live)):
        (alarm,) = said
        assert (alarm.kind, alarm.direction) == ("shift", "up")
        assert alarm.effect == pytest.approx(SHIFT, abs=0.25)


def test_a_rare_class_that_trebles_is_found_beside_a_common_one():
    rng = np.random.default_rng(0)
    reference = categories(rng, 20_000, [20 / 21, 1 / 21])[:, None]
    judge = Judge(Schema([fit_categorical("class", reference, Role.OUTPUT)]), reference)
    assert judge.says(categories(rng, 20_000, [20 / 21, 1 / 21])[:, None]) == []
    for said in (
        judge.on_device(categories(rng, 1_000, [18 / 21, 3 / 21])[:, None]),
        judge.in_fleet(categories(rng, 1_000, [18 / 21, 3 / 21])[:, None]),
    ):
        (alarm,) = said
        assert alarm.kind == "category_share"
        assert abs(alarm.effect) == pytest.approx(2 / 21, abs=0.03)
