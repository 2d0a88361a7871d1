"""Distances with a fixed threshold do not know how many rows they were taken from."""

import numpy as np
import pytest

from simulated_streams import independent, numeric_schema
from single_windows import Judge, at_most

TRIALS = 300
DECILES = np.linspace(0.1, 0.9, 9)


def wasserstein(a, b):
    """Distance of two samples of the same size, in the first one's deviations."""
    return float(np.abs(np.sort(a) - np.sort(b)).mean() / a.std())


def stability_index(a, b):
    edges = np.quantile(a, DECILES)
    p, q = (np.bincount(np.searchsorted(edges, x), minlength=10) / len(x) + 1e-4 for x in (a, b))
    return float(((q - p) * np.log(q / p)).sum())


@pytest.fixture(scope="module")
def judge():
    reference = independent(np.random.default_rng(0), 10_000)
    return Judge(numeric_schema(reference), reference)


@pytest.mark.parametrize(
    ("rows", "distance_says", "index_says"), [(50, 0.8, 0.8), (100, 0.5, 0.5), (200, 0.2, 0.05)]
)
def test_fifty_rows_are_no_drift(judge, rows, distance_says, index_says):
    rng = np.random.default_rng(rows)
    wrong = {"Wasserstein > 0.1": 0, "PSI > 0.1": 0, "ours": 0}
    for _ in range(TRIALS):
        then, now = independent(rng, rows)[:, 0], independent(rng, rows)
        wrong["Wasserstein > 0.1"] += wasserstein(then, now[:, 0]) > 0.1
        wrong["PSI > 0.1"] += stability_index(then, now[:, 0]) > 0.1
        wrong["ours"] += bool(judge.says(now))
    assert wrong["Wasserstein > 0.1"] > distance_says * TRIALS
    assert wrong["PSI > 0.1"] > index_says * TRIALS
    assert wrong["ours"] <= at_most(2 * TRIALS)


@pytest.mark.parametrize("rows", [50, 100, 200])
def test_one_deviation_is_found_in_as_few_rows(judge, rows):
    live = independent(np.random.default_rng(rows), rows) + 1.0
    for said in (judge.on_device(live), judge.in_fleet(live)):
        assert [(a.kind, a.direction) for a in said] == [("shift", "up")]


@pytest.mark.parametrize("rows", [50, 200, 1_000, 20_000, 400_000])
def test_the_level_holds_from_fifty_rows_upwards(judge, rows):
    trials = {50: 400, 200: 300, 1_000: 200, 20_000: 40, 400_000: 4}[rows]
    rng = np.random.default_rng(rows + 1)
    device = fleet = 0
    for _ in range(trials):
        live = independent(rng, rows)
        device += bool(judge.on_device(live))
        fleet += bool(judge.in_fleet(live))
    assert device <= at_most(trials)
    assert fleet <= at_most(trials)
