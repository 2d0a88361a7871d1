"""Thirty columns at five per cent each: most clean batches have one that stands out."""

import numpy as np
import pytest

from simulated_streams import independent, numeric_schema
from single_windows import LEVEL, Judge, at_most, kolmogorov_distance, kolmogorov_p

COLUMNS = 30
TRIALS = 60


@pytest.fixture(scope="module")
def judge():
    reference = independent(np.random.default_rng(0), 5_000, COLUMNS)
    return Judge(numeric_schema(reference), reference), reference


def test_the_level_is_kept_over_all_columns_together(judge):
    judge, reference = judge
    rng = np.random.default_rng(1)
    flagged = device = fleet = 0
    for _ in range(TRIALS):
        live = independent(rng, 500, COLUMNS)
        ps = [
            kolmogorov_p(kolmogorov_distance(a, b), len(a), len(b))
            for a, b in zip(reference.T, live.T, strict=True)
        ]
        flagged += min(ps) < LEVEL
        device += bool(judge.on_device(live))
        fleet += bool(judge.in_fleet(live))
    assert flagged > 0.6 * TRIALS
    assert device <= at_most(TRIALS)
    assert fleet <= at_most(TRIALS)


@pytest.mark.parametrize("column", [0, 29])
def test_one_column_in_thirty_is_found_and_named(judge, column):
    judge, _ = judge
    live = independent(np.random.default_rng(2), 500, COLUMNS)
    live[:, column] += 0.7
    for said in (judge.on_device(live), judge.in_fleet(live)):
        (alarm,) = said
        assert alarm.streams[0][0] == f"x{column}"
        assert len(alarm.streams) <= 2
