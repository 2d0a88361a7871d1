"""A test on sketches that forgets the sketch's own error alarms on nothing once the rows are many."""

import numpy as np
import pytest

from simulated_streams import independent, numeric_schema
from single_windows import LEVEL, Judge, kolmogorov_distance, kolmogorov_p

KEPT = 2048  # rows that a sampling sketch keeps: its ranks are wrong by about two per cent

# Rows on either side, and from which share of trials on the forgetful test is known to alarm.
SIZES = {1_000: (40, 0.0), 100_000: (8, 0.5), 1_000_000: (3, 0.9), 4_000_000: (1, 1.0)}


def sketched(rng, rows):
    """A uniform sample in place of the rows, as quantile sketches keep one."""
    return rng.choice(rows, size=min(KEPT, len(rows)), replace=False)


@pytest.mark.parametrize("rows", SIZES)
def test_identical_distributions_are_alike_at_any_number_of_rows(rows):
    trials, known = SIZES[rows]
    rng = np.random.default_rng(rows)
    forgetful = said = 0
    for _ in range(trials):
        reference, live = independent(rng, rows), independent(rng, rows)
        distance = kolmogorov_distance(sketched(rng, reference[:, 0]), sketched(rng, live[:, 0]))
        forgetful += kolmogorov_p(distance, rows, rows) < LEVEL
        judge = Judge(numeric_schema(reference), reference)
        said += bool(judge.says(live))
    assert forgetful >= known * trials
    assert said <= max(1, trials // 10) * (rows == 1_000)


def test_a_shift_of_a_quarter_deviation_is_found_at_the_same_sizes():
    rng = np.random.default_rng(1)
    reference = independent(rng, 100_000)
    judge = Judge(numeric_schema(reference), reference)
    for said in (
        judge.on_device(independent(rng, 100_000) + 0.25),
        judge.in_fleet(independent(rng, 100_000) + 0.25),
    ):
        assert [(a.kind, a.direction) for a in said] == [("shift", "up")]
