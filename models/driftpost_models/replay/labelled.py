"""Labels of a recording: what they tell of the answers beside them, window by window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.drift.alarm import Alarm
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.labels.class_mix import ClassMix
from driftpost_sketches.labels.concept import ConceptDetector
from driftpost_sketches.labels.error_rate import Rate
from driftpost_sketches.labels.estimate import Estimate, estimate_accuracy
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.schema import Role, Schema
from driftpost_sketches.window import Window

LABEL_SHARE = 0.1
"""Of the false-alarm budget that delayed labels may use."""


CHANGED = "labels show another error rate than the reference, so confidences mean something else now"

RECENT_WINDOWS = 16
"""Windows that the last estimate rests on, as many as an incident is measured on."""


@dataclass(frozen=True)
class Labelling:
    """What is known of a recording's labels in the end.

    Attributes:
        record: of the labelled reference.
        live: labelled rows; None where the recording has no labels.
        rate: error rate since the last change that was reported, with its confidence sequence.
        estimate: accuracy without labels over the last windows; None without confidences.
        course: for each window (first row, error rate or NaN, estimated accuracy or NaN).
    """

    record: PerformanceRecord
    live: LabelSketch | None
    rate: Rate | None
    estimate: Estimate | None
    course: tuple[tuple[int, float, float], ...]


class LabelWatch:
    """Compares answers with labels as a device does.

    Args:
        record: of the labelled reference.
        calibration: of the same.
        log_threshold: of the labels' share of the budget.
        smallest_effect: smallest change worth knowing, in standard deviations of the reference's errors.
        names: of the classes.
    """

    def __init__(
        self,
        record: PerformanceRecord,
        calibration: Calibration,
        log_threshold: float,
        smallest_effect: float,
        names: tuple[str, ...],
    ) -> None:
        schema = calibration.schema
        self.record = record
        self._calibration = calibration
        self._detector = ConceptDetector(
            record.labels, record.independent, log_threshold, smallest_effect, names
        )
        columns = {schema.streams[i].name: c for c, i in enumerate(schema.scalar_streams)}
        self._answers = columns[record.answers]
        self._confidence = columns.get(record.confidence)
        tau = np.array([chain.correlation_rows for chain in calibration.chains])
        self.mix: ClassMix | None = record.class_mix(schema, tau)
        self._rows: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]] = []
        self._total = LabelSketch.empty(record.classes)
        self._labelled = False
        self._recent: list[Window] = []
        self._course: list[tuple[int, float, float]] = []

    def feed(self, values: npt.NDArray[np.float64], labels: npt.NDArray[np.int64] | None) -> None:
        """Take rows of the open window.

        Args:
            values: float64[rows, S_scalar].
            labels: int64[rows], -1 where unknown; None where the recording has none.
        """
        if labels is None:
            return
        self._labelled = True
        empty = np.full(len(values), np.nan)
        sure = empty if self._confidence is None else values[:, self._confidence]
        self._rows.append((np.column_stack([values[:, self._answers], sure]), labels))

    def close(self, begin: int, window: Window, drifting: tuple[str, ...]) -> list[Alarm]:
        """The window has closed.

        Args:
            begin: its first row.
            window: its sketches.
            drifting: names of streams with an alarm that stands.
        """
        batch = self._batch()
        self._total = self._total.merge(batch)
        alarms = self._detector.step(batch)
        found = self._estimate(window, drifting)
        self._course.append((begin, batch.error_rate, found.accuracy if found else float("nan")))
        self._recent = [*self._recent[-(RECENT_WINDOWS - 1) :], window]
        return alarms

    def result(self, drifting: tuple[str, ...]) -> Labelling:
        """What is known in the end."""
        recent = self._recent[0] if self._recent else None
        for window in self._recent[1:]:
            recent = window if recent is None else recent.merge(window)
        return Labelling(
            self.record,
            self._total if self._labelled else None,
            self._detector.rate() if self._labelled else None,
            None if recent is None else self._estimate(recent, drifting),
            tuple(self._course),
        )

    def _batch(self) -> LabelSketch:
        if not self._rows:
            return LabelSketch.empty(self.record.classes)
        answers = np.concatenate([rows for rows, _ in self._rows])
        labels = np.concatenate([given for _, given in self._rows])
        self._rows.clear()
        said = answers[:, 0]
        known = (labels >= 0) & (labels < self.record.classes) & (said >= 0) & (said < self.record.classes)
        return LabelSketch.of_classes(
            self.record.classes, said[known].astype(np.int64), labels[known], answers[known, 1]
        )

    def _estimate(self, window: Window, drifting: tuple[str, ...]) -> Estimate | None:
        if not self.record.confidence:
            return None
        schema = self._calibration.schema
        reading = None if self.mix is None else self.mix.read(self.mix.cells_of_window(window))
        tracked = self.record.confidence in self._calibration.tracked_names
        return estimate_accuracy(
            self.record,
            schema,
            self._calibration.baseline,
            window,
            independent=self._calibration.tau(self.record.confidence) if tracked else 1.0,
            drifting=inputs_among(schema, drifting),
            mix=reading,
            concept=CHANGED if self._detector.standing else "",
        )


def inputs_among(schema: Schema, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of some streams that describe inputs."""
    return tuple(n for n in names if n in schema and schema.streams[schema.index(n)].role is Role.INPUT)
