"""A category that the reference does not have makes a chi-square infinite."""

import numpy as np
import pytest

from driftpost_sketches.fitting import fit_categorical
from driftpost_sketches.schema import Role, Schema
from simulated_streams import categories
from single_windows import Judge

SHARES = [0.5, 0.3, 0.2]


@pytest.fixture(scope="module")
def judge():
    reference = categories(np.random.default_rng(0), 20_000, SHARES)[:, None]
    return Judge(Schema([fit_categorical("class", reference, Role.OUTPUT)]), reference)


def live(rows, unseen, seed=1):
    rng = np.random.default_rng(seed)
    values = categories(rng, rows, SHARES)
    values[rng.permutation(rows)[:unseen]] = 7
    return values[:, None]


def test_one_row_in_a_hundred_thousand_is_no_alarm(judge):
    rows = live(100_000, 1)
    seen = np.bincount(rows[:, 0].astype(int), minlength=8)[[0, 1, 2, 7]]
    expected = np.array([*SHARES, 0.0]) * len(rows)
    with np.errstate(divide="ignore"):
        assert np.isinf(((seen - expected) ** 2 / expected).sum())
    assert judge.says(rows) == []


@pytest.mark.parametrize("rows", [200, 5_000])
def test_a_twentieth_of_unknown_rows_is_one(judge, rows):
    for said in (judge.on_device(live(rows, rows // 20)), judge.in_fleet(live(rows, rows // 20))):
        (alarm,) = said
        assert alarm.kind == "new_category"
        assert alarm.effect == pytest.approx(0.05, abs=0.01)
        assert np.isfinite(alarm.log_e)
