"""How soon another mix of classes is found and called so: delays in rows.

Six classes with normal features of unit variance around fixed centres, Bayes' own classifier, and streams of
features, answers and confidences as a bundle makes them, beside quiet ones up to the thirty of a device.
Classes follow each other independently or stay (`ar5`, `ar9`: with this probability the class before). In the
change two of them take 60 % of rows.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind

FloatArray = npt.NDArray[np.float64]

CLASSES, FEATURES, STREAMS = 6, 8, 30
SMALLEST_EFFECT = 0.02  # reference standard deviations, as in the whole benchmark
STAYING = {"iid": 0.0, "ar5": 0.5, "ar9": 0.9}
REFERENCE = {"iid": 10_000, "ar5": 10_000, "ar9": 50_000}
WINDOW, QUIET, HORIZON = 20, 1_000, 40_000
CHANGED = np.array([0.3, 0.3, 0.1, 0.1, 0.1, 0.1])
EVEN = np.full(CLASSES, 1.0 / CLASSES)


def _rows(
    rng: np.random.Generator, n: int, staying: float, mix: FloatArray
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    centers = np.random.default_rng(5).normal(size=(CLASSES, FEATURES))
    fresh = rng.random(n) >= staying
    fresh[0] = True
    drawn = rng.choice(CLASSES, size=n, p=mix)
    truth = drawn[np.maximum.accumulate(np.where(fresh, np.arange(n), 0))]
    x = centers[truth] + rng.normal(size=(n, FEATURES))
    scores = -0.5 * ((x[:, None, :] - centers) ** 2).sum(axis=2)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    quiet = rng.normal(size=(n, STREAMS - FEATURES - 2))
    return truth, np.column_stack([x, quiet, odds.argmax(axis=1), odds.max(axis=1)])


def delays(seed: int, source: str, trials: int) -> tuple[list[float], float]:
    """Rows from the change to the first alarm raised after it, and the share of them called label shift.

    Args:
        seed: of all random numbers.
        source: `iid`, `ar5` or `ar9`.
        trials: changes.
    """
    rng = np.random.default_rng([seed, 77, list(STAYING).index(source)])
    staying = STAYING[source]
    truth, values = _rows(rng, REFERENCE[source], staying, EVEN)
    columns = values.shape[1]
    streams = [fit_numeric(f"x{i}", values[:, i], Role.INPUT) for i in range(columns - 2)]
    streams.append(Stream("class", StreamKind.CATEGORICAL, Role.OUTPUT, categories=tuple(range(CLASSES))))
    streams.append(fit_numeric("confidence", values[:, -1], Role.OUTPUT))
    schema = Schema(streams)
    calibration = Calibration.fit(schema, values, smallest_effect=SMALLEST_EFFECT)
    record = PerformanceRecord.fit(
        schema, values, truth, answers="class", confidence="confidence", classes=CLASSES
    )
    assert record is not None
    mix = record.class_mix(schema, np.array([chain.correlation_rows for chain in calibration.chains]))
    assert mix is not None
    # One false alarm in 1,000 device-days of 20,000 rows.
    threshold = math.log(1000 * 20_000 / WINDOW)
    found, called = [], 0
    for _ in range(trials):
        detector = DriftDetector(calibration, threshold)
        detector.name_changes(mix.interpret)
        accumulator = WindowAccumulator(schema)
        _, before = _rows(rng, QUIET, staying, EVEN)
        _, after = _rows(rng, HORIZON, staying, CHANGED)
        live, delay = np.concatenate([before, after]), math.inf
        for begin in range(0, len(live), WINDOW):
            accumulator.update(live[begin : begin + WINDOW])
            window, transitions = accumulator.take()
            raised = [a for a in detector.step(transitions, window) if a.state == "raised"]
            if raised and begin >= QUIET:
                delay = begin + WINDOW - QUIET
                called += raised[0].kind == "label_shift"
                break
        found.append(delay)
    return found, called / trials
