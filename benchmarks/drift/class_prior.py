"""How soon another mix of classes is found and called so: delays in rows.

Six classes with normal features of unit variance around fixed centres, Bayes' own classifier, and streams of
features, answers and confidences as a bundle makes them, beside quiet ones up to the thirty of a device.
Classes follow each other independently or stay (`ar5`, `ar9`: with this probability the class before). In the
change two of them take 60 % of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.labels.class_shares import class_shares
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


@dataclass(frozen=True)
class Estimators:
    """Errors of estimated class shares: root mean square over classes and trials, in points of share.

    Attributes:
        counts: from the confusion matrix and the counts of answers, as the product does.
        held: share of the product's 95 % intervals that hold the true share.
        scores: expectation maximisation on the scores of every row (Saerens, Latinne and Decaestecker 2002).
        calibrated: the same after one temperature was fitted to the reference's labels.
    """

    counts: float
    held: float
    scores: float
    calibrated: float


def estimators(seed: int, labelled: int, live: int, sharpness: float, trials: int = 100) -> Estimators:
    """How far estimates of the new class mix lie from it.

    Args:
        seed: of all random numbers.
        labelled: reference rows.
        live: rows after the change.
        sharpness: by which the classifier's log scores are multiplied; 1 is calibrated, 2 overconfident.
        trials: worlds.
    """
    rng = np.random.default_rng([seed, labelled, live, round(10 * sharpness)])
    errors: list[list[FloatArray]] = [[], [], []]
    held = []
    for _ in range(trials):
        mix = rng.dirichlet(np.full(CLASSES, 2.0))
        truth, logs = _scored(rng, labelled, EVEN, sharpness)
        _, now = _scored(rng, live, mix, sharpness)
        confusion = np.zeros((CLASSES, CLASSES), dtype=np.int64)
        np.add.at(confusion, (truth, logs.argmax(axis=1)), 1)
        found = class_shares(confusion, np.bincount(now.argmax(axis=1), minlength=CLASSES))
        if found.problem:
            continue  # the product says that it can not tell; the others are not asked then either
        held.append(((found.low <= mix) & (mix <= found.high)).mean())
        usual = np.bincount(truth, minlength=CLASSES) / labelled
        temperature = _temperature(logs, truth)
        for place, shares in enumerate(
            (found.shares, _by_scores(_odds(now), usual), _by_scores(_odds(now * temperature), usual))
        ):
            errors[place].append(shares - mix)
    counts, scores, calibrated = (float(np.sqrt(np.mean(np.square(one)))) for one in errors)
    return Estimators(counts, float(np.mean(held)), scores, calibrated)


def _scored(
    rng: np.random.Generator, n: int, mix: FloatArray, sharpness: float
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """True classes, and log scores of a classifier that learnt an even mix."""
    centers = np.random.default_rng(5).normal(size=(CLASSES, FEATURES)) / math.sqrt(2.0)
    truth = rng.choice(CLASSES, size=n, p=mix)
    x = centers[truth] + rng.normal(size=(n, FEATURES))
    return truth, sharpness * -0.5 * ((x[:, None, :] - centers) ** 2).sum(axis=2)


def _odds(logs: FloatArray) -> FloatArray:
    odds = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _temperature(logs: FloatArray, truth: npt.NDArray[np.int64]) -> float:
    """The factor on log scores under which the labels are most likely (Guo et al. 2017)."""
    factors = np.geomspace(0.1, 4.0, 60)
    likely = [float(np.log(_odds(logs * f)[np.arange(len(truth)), truth] + 1e-12).sum()) for f in factors]
    return float(factors[int(np.argmax(likely))])


def _by_scores(scores: FloatArray, usual: FloatArray) -> FloatArray:
    """Class shares under which the scores are most likely."""
    shares = usual.copy()
    for _ in range(200):
        weighted = scores * (shares / usual)
        shares = (weighted / weighted.sum(axis=1, keepdims=True)).mean(axis=0)
    return np.asarray(shares)
