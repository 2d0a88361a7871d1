"""How well a model does in some scope: by labels where they came, by its confidences where they did not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from driftpost_sketches.labels.betting import DEFAULT_ALPHA, confidence_sequence
from driftpost_sketches.labels.dependence import Dependence
from driftpost_sketches.labels.estimate import Estimate, estimate_accuracy
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.labels.reliability import STEPS, Brier, Ece
from driftpost_sketches.schema import Role, Schema
from driftpost_sketches.window import Window

# Slices told of: what a person reads at a glance.
MAX_SLICES = 5
_CONTRADICTED = "labels show another error rate than the reference"


@dataclass(frozen=True)
class Slice:
    """Labelled rows of one class.

    Attributes:
        side: "answer" (the model said so) or "label" (it was so).
        number: of the class.
        rows, error_rate: of them.
        low, high: confidence sequence of the error rate, 95 % over all slices together.
    """

    side: str
    number: int
    rows: int
    error_rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Performance:
    """What is known of a model's answers in a scope.

    Attributes:
        reference: error rate on the labelled reference.
        rows: labelled answers.
        error_rate, low, high: of them, with the 95 % confidence sequence; None without labels.
        ece, brier: calibration of labelled answers; None without.
        estimate: accuracy without labels; None without confidences.
        mix: the class mix in words, where it has changed; "" otherwise.
        slices: classes that are surely wrong more often than the whole, worst first.
    """

    reference: float
    rows: int
    error_rate: float | None
    low: float | None
    high: float | None
    ece: Ece | None
    brier: Brier | None
    estimate: Estimate | None
    mix: str
    slices: tuple[Slice, ...] = ()

    @property
    def loss(self) -> float | None:
        """Accuracy lost against the reference: by labels, else by a trusted estimate; None if unknown."""
        if self.error_rate is not None:
            return self.error_rate - self.reference
        return self.estimate.loss if self.estimate is not None and self.estimate.trusted else None


def worst_slices(labels: LabelSketch, independent: float) -> tuple[Slice, ...]:
    """Classes, as answered and as labelled, whose errors surely exceed the rate of all rows; worst first.

    Args:
        labels: with a confusion matrix, or there are none.
        independent: rows that count as one independent row.
    """
    if not labels.classes or not labels.rows:
        return ()
    alpha = DEFAULT_ALPHA / (2 * labels.classes)
    found = []
    for side, (rows, wrong) in (("answer", labels.by_answer()), ("label", labels.by_label())):
        for number, (count, errors) in enumerate(zip(rows.tolist(), wrong.tolist(), strict=True)):
            if count:
                low, high = confidence_sequence(count, errors, independent, alpha)
                found.append(Slice(side, number, count, errors / count, low, high))
    worse = [one for one in found if one.low > labels.error_rate]
    return tuple(sorted(worse, key=lambda one: (-one.low, one.side, one.number))[:MAX_SLICES])


def performance_of(
    record: PerformanceRecord,
    schema: Schema,
    baseline: Window,
    tau: Mapping[str, float],
    *,
    window: Window | None,
    labels: LabelSketch | None,
    drifting: Collection[str] = (),
) -> Performance:
    """Put together what labels and windows of one scope tell.

    Args:
        record: of the bundle's labelled reference.
        schema: of its windows.
        baseline: sketch of the reference.
        tau: rows per independent row, by tracked stream.
        window: merged windows; None without any.
        labels: merged labels; None without any.
        drifting: streams in which a finding or an incident stands.
    """
    rate, low, high, ece, brier = None, None, None, None, None
    contradicted = ""
    slices: tuple[Slice, ...] = ()
    if labels is not None and labels.rows:
        dependence = Dependence(record.independent)
        dependence.update(labels.rows, labels.loss / STEPS, labels.moves)
        independent = dependence.independent
        rate = labels.error_rate
        low, high = confidence_sequence(labels.rows, labels.loss / STEPS, independent)
        slices = worst_slices(labels, independent)
        ece, brier = labels.reliability.ece(independent), labels.reliability.brier()
        if not low <= record.labels.error_rate <= high:
            contradicted = _CONTRADICTED
    estimate, words = None, ""
    if window is not None and window.noise == 0:
        names = [schema.streams[i].name for i in schema.tracked_streams]
        mix = (
            record.class_mix(schema, np.array([tau.get(name, 1.0) for name in names]))
            if record.complete
            else None
        )
        reading = None if mix is None else mix.read(mix.cells_of_window(window))
        if mix is not None and reading is not None and reading.verdict == "label_shift":
            words = mix.words(reading.shares)
        inputs = [
            name
            for name in drifting
            if name in schema and schema.streams[schema.index(name)].role is Role.INPUT
        ]
        estimate = estimate_accuracy(
            record,
            schema,
            baseline,
            window,
            independent=tau.get(record.confidence, 1.0),
            drifting=inputs,
            mix=reading,
            concept=contradicted,
        )
    rows = 0 if labels is None else labels.rows
    return Performance(record.labels.error_rate, rows, rate, low, high, ece, brier, estimate, words, slices)
