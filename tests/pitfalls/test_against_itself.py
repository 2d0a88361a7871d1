"""Chunks of the reference, scored against the reference that holds them, look better than new ones."""

import numpy as np

from simulated_streams import independent, numeric_schema
from single_windows import Judge, at_most, kolmogorov_distance

CHUNKS, ROWS = 4, 100
TRIALS = 300


def test_a_threshold_from_the_reference_itself_is_too_low_and_ours_is_not():
    rng = np.random.default_rng(0)
    naive = honest = device = fleet = 0
    for _ in range(TRIALS):
        reference = independent(rng, CHUNKS * ROWS)
        chunks = np.split(reference[:, 0], CHUNKS)
        inside = [kolmogorov_distance(chunk, reference[:, 0]) for chunk in chunks]
        live = independent(rng, ROWS)
        distance = kolmogorov_distance(live[:, 0], reference[:, 0])
        # Larger than the largest of four chunks: one new chunk in five should be.
        naive += distance > max(inside)
        fresh = [kolmogorov_distance(independent(rng, ROWS)[:, 0], reference[:, 0]) for _ in range(CHUNKS)]
        honest += distance > max(fresh)
        judge = Judge(numeric_schema(reference), reference, smallest_effect=0.0)
        device += bool(judge.on_device(live))
        fleet += bool(judge.in_fleet(live))
    assert naive > 1.5 * honest
    assert naive > at_most(TRIALS, 1 / (CHUNKS + 1))
    assert device <= at_most(TRIALS)
    assert fleet <= at_most(TRIALS)
