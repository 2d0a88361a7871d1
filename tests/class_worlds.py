"""Classes, features and a model that is Bayes' own: where label shift and covariate shift are known."""

import numpy as np

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind

CLASSES, FEATURES = 6, 8
CENTERS = np.random.default_rng(5).normal(size=(CLASSES, FEATURES))
EVEN = np.full(CLASSES, 1 / CLASSES)
NAMES = tuple("abcdef")


def rows(rng, n, mix=EVEN, shift=0.0, scale=1.0):
    """True classes int64[n] and the streams float64[n, FEATURES + 2]: features, class, confidence."""
    truth = rng.choice(CLASSES, size=n, p=mix)
    x = CENTERS[truth] + rng.normal(size=(n, FEATURES)) * scale
    x[:, 0] += shift
    scores = -0.5 * ((x[:, None, :] - CENTERS) ** 2).sum(axis=2)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return truth, np.column_stack([x, odds.argmax(axis=1), odds.max(axis=1)])


def schema_of(values):
    features = [fit_numeric(f"x{i}", values[:, i], Role.INPUT) for i in range(FEATURES)]
    answers = Stream(
        "class", StreamKind.CATEGORICAL, Role.OUTPUT, categories=tuple(range(CLASSES)), labels=NAMES
    )
    return Schema([*features, answers, fit_numeric("confidence", values[:, -1], Role.OUTPUT)])


def sketch(schema, values):
    accumulator = WindowAccumulator(schema)
    accumulator.update(values)
    return accumulator.take()[0]


def learnt(rng, n):
    """Schema, record and baseline of a labelled reference."""
    truth, values = rows(rng, n)
    schema = schema_of(values)
    record = PerformanceRecord.fit(
        schema, values, truth, answers="class", confidence="confidence", classes=CLASSES, names=NAMES
    )
    return schema, record, sketch(schema, values)
