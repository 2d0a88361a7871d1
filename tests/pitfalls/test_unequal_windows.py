"""Thresholds taken from reference chunks of one size, applied to live chunks of another."""

import numpy as np

from simulated_streams import independent, numeric_schema
from single_windows import Judge, at_most

CHUNK, LIVE = 5_000, 200
TRIALS = 200


def divergence(reference, chunk):
    """Jensen-Shannon distance of the shares of the reference's deciles."""
    edges = np.quantile(reference, np.linspace(0.1, 0.9, 9))
    p, q = (np.bincount(np.searchsorted(edges, x), minlength=10) / len(x) + 1e-9 for x in (reference, chunk))
    m = (p + q) / 2
    return float(np.sqrt(0.5 * (p * np.log2(p / m)).sum() + 0.5 * (q * np.log2(q / m)).sum()))


def test_windows_shorter_than_the_references_chunks_do_not_alarm():
    rng = np.random.default_rng(0)
    reference = independent(rng, 50_000)
    chunks = [divergence(reference[:, 0], c[:, 0]) for c in np.split(reference, 10)]
    threshold = np.mean(chunks) + 3 * np.std(chunks)
    judge = Judge(numeric_schema(reference), reference)
    naive = device = fleet = 0
    for _ in range(TRIALS):
        live = independent(rng, LIVE)
        naive += divergence(reference[:, 0], live[:, 0]) > threshold
        device += bool(judge.on_device(live))
        fleet += bool(judge.in_fleet(live))
    assert naive > 0.9 * TRIALS
    assert device <= at_most(TRIALS)
    assert fleet <= at_most(TRIALS)


def test_windows_of_many_sizes_take_turns_without_an_alarm():
    rng = np.random.default_rng(1)
    reference = independent(rng, 20_000, 4)
    judge = Judge(numeric_schema(reference), reference, threshold=np.log(1e4))
    for rows in (1, 7, 50, 300, 2_000, 30_000) * 3:
        assert judge.says(independent(rng, rows, 4)) == []


def test_a_shift_is_found_in_short_and_in_long_windows():
    rng = np.random.default_rng(2)
    reference = independent(rng, 20_000)
    judge = Judge(numeric_schema(reference), reference)
    for rows in (100, 2_000, 30_000):
        for said in (
            judge.on_device(independent(rng, rows) - 0.8),
            judge.in_fleet(independent(rng, rows) - 0.8),
        ):
            assert [(a.kind, a.direction) for a in said] == [("shift", "down")]
