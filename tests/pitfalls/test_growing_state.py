"""State that grows by a few bytes an update fills a device within months."""

import gc
import tracemalloc

import numpy as np

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.drift.marginal import MarginalDetector
from simulated_streams import independent, numeric_schema
from single_windows import Judge

ROWS = 1_000_000
BLOCK = 100
SLACK = 100_000  # bytes: what alarms hold now and then; a tenth of a byte an update


class Remembering:
    """A detector that keeps a statistic of each update."""

    def __init__(self):
        self.statistics = []

    def update(self, x):
        self.statistics.append(x * x)


def growth(step, rounds):
    """Bytes held after all rounds beyond those held after the first tenth."""
    for at in range(rounds // 10):
        step(at)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for at in range(rounds // 10, rounds):
            step(at)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_a_million_rows_leave_memory_where_it_was():
    rng = np.random.default_rng(0)
    reference = independent(rng, 5_000, 2)
    judge = Judge(numeric_schema(reference), reference, threshold=np.log(1e6))
    rows = independent(rng, 50_000, 2)
    # Changes come and go, so that alarms are raised, held and cleared all the while.
    rows[20_000:25_000, 0] += 2.0
    accumulator = WindowAccumulator(judge.schema)
    device = DriftDetector(judge.calibration, judge.threshold)
    fleet = MarginalDetector(judge.schema, judge.calibration.baseline, {}, {}, 0.1, judge.threshold)
    said, largest = 0, 0

    def step(at):
        nonlocal said, largest
        start = at * BLOCK % len(rows)
        accumulator.update(rows[start : start + BLOCK])
        window, transitions = accumulator.take()
        said += len(device.step(transitions, window)) + len(fleet.step(window))
        if at % 1_000 == 0:
            largest = max(largest, len(device.state_to_bytes()))

    assert growth(step, ROWS // BLOCK) < SLACK
    assert said > 20
    assert largest < 2 * 4_000

    naive = Remembering()
    assert growth(lambda at: naive.update(float(at)), ROWS) > 20 * ROWS
