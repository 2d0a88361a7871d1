"""With enough rows any trifle is significant; an alarm takes a size as well."""

import numpy as np
import pytest

from simulated_streams import independent, numeric_schema
from single_windows import LEVEL, Judge, kolmogorov_distance, kolmogorov_p

TRIFLE = 0.02  # reference standard deviations


@pytest.fixture(scope="module")
def reference():
    return independent(np.random.default_rng(0), 200_000)


def test_a_fiftieth_of_a_deviation_is_significant_to_ks_and_a_trifle_to_us(reference):
    judge = Judge(numeric_schema(reference), reference, smallest_effect=0.02)
    rng = np.random.default_rng(1)
    significant = 0
    for _ in range(4):
        live = independent(rng, 200_000) + TRIFLE
        distance = kolmogorov_distance(reference[:, 0], live[:, 0])
        significant += kolmogorov_p(distance, len(reference), len(live)) < LEVEL
        assert judge.says(live) == []
    assert significant == 4


def test_a_million_rows_of_a_trifle_are_still_one(reference):
    judge = Judge(numeric_schema(reference), reference)
    assert judge.says(independent(np.random.default_rng(2), 1_000_000) + TRIFLE) == []


def test_who_asks_for_less_is_told_less(reference):
    rng = np.random.default_rng(3)
    live = independent(rng, 200_000) + 0.1
    (alarm,) = Judge(numeric_schema(reference), reference, smallest_effect=0.02).on_device(live)
    assert alarm.effect == pytest.approx(0.1, abs=0.02)
    assert Judge(numeric_schema(reference), reference, smallest_effect=0.2).says(live) == []
