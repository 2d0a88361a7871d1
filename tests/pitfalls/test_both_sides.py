"""One-sided tests miss half of all changes; zero-centred data are ordinary data."""

import math

import numpy as np
import pytest

from simulated_streams import independent, numeric_schema
from single_windows import Judge


def rank_sum_p_greater(a, b):
    """One-sided Mann-Whitney p-value of b lying above a (normal approximation)."""
    ranks = np.empty(len(a) + len(b))
    ranks[np.argsort(np.concatenate([a, b]))] = np.arange(1, len(ranks) + 1)
    u = ranks[len(a) :].sum() - len(b) * (len(b) + 1) / 2
    deviation = math.sqrt(len(a) * len(b) * (len(a) + len(b) + 1) / 12)
    return 0.5 * math.erfc((u - len(a) * len(b) / 2) / deviation / math.sqrt(2))


def upward_cusum(values, drift=0.5, threshold=5.0):
    total = 0.0
    for x in values.tolist():
        total = max(0.0, total + x - drift)
        if total > threshold:
            return True
    return False


@pytest.fixture(scope="module")
def reference():
    return independent(np.random.default_rng(0), 10_000)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_up_and_down_are_found_alike(reference, side):
    live = independent(np.random.default_rng(1), 500) + side
    naive = rank_sum_p_greater(reference[:, 0], live[:, 0]) < 0.05, upward_cusum(live[:, 0])
    assert naive == ((True, True) if side > 0 else (False, False))
    if side < 0:
        assert rank_sum_p_greater(reference[:, 0], live[:, 0]) == pytest.approx(1.0)
    judge = Judge(numeric_schema(reference), reference)
    for said in (judge.on_device(live), judge.in_fleet(live)):
        ((kind, direction, effect),) = [(a.kind, a.direction, a.effect) for a in said]
        assert (kind, direction) == ("shift", "up" if side > 0 else "down")
        assert effect == pytest.approx(side, abs=0.12)


class RunningTotal:
    """A window's total that takes a negative one for impossible, as if errors were all there is to watch."""

    def __init__(self):
        self.total, self.rows = 0.0, 0

    def read(self, values):
        for x in values:
            self.total += x
            self.rows += 1
            if self.total < 0:
                raise ValueError("the total must not be negative")


@pytest.mark.parametrize("centre", [0.0, -5.0])
def test_data_around_zero_and_below_are_data(reference, centre):
    live = independent(np.random.default_rng(2), 2_000) + centre
    naive = RunningTotal()
    with pytest.raises(ValueError, match="negative"):
        naive.read(live[:, 0].tolist())
    judge = Judge(numeric_schema(reference + centre), reference + centre)
    assert judge.says(live) == []
    assert [a.kind for a in judge.on_device(live + 0.5)] == ["shift"]
