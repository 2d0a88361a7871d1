"""What a labelled reference teaches about a model: part of a bundle, and of its description."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from driftpost_sketches import packing
from driftpost_sketches.binning import Binner
from driftpost_sketches.cells import CELLS, cells_of, value_cells
from driftpost_sketches.drift.reference_notes import distinct_rows
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.labels.class_mix import ClassMix
from driftpost_sketches.labels.dependence import independent_rows
from driftpost_sketches.labels.label_sketch import MAX_BYTES as MAX_LABEL_BYTES
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sketches.schema import MAX_BINS, MAX_NAME, MAX_STREAMS, Schema, StreamKind

MAGIC = b"DPQ"
VERSION = 1
MAX_BYTES = 4 << 20
MAX_PLAIN = 16 << 20
MAX_TABLE = (
    1 << 19
)  # counts by stream, class and cell; beyond it only answers and confidences are kept by class
BLOCK = 4096  # rows binned at a time
FOLDS = 8  # stretches of the reference that are held out in turn
MIN_FOLD = 50  # labelled rows of one
FEW_ROWS = 300  # labelled rows below which accuracy is known to a few percent at best
FEW_CLASS_ROWS = 20  # of one class
TOO_GOOD = 0.995  # accuracy from which one should ask whether the model was trained on these rows

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PerformanceRecord:
    """How well the model did on labelled reference rows.

    Attributes:
        answers: name of the stream of predicted classes.
        confidence: name of the stream of confidences, "" without one.
        classes: how many the model tells apart.
        labels: all labelled rows.
        independent: rows that count as one independent row, by the order of errors and by repeated rows.
        by_class: int64[T, G, CELLS], rows by tracked stream, true class and drift cell; classes are grouped
            as the cells of `answers` group them.
        right: int64[G], rows of each group that were answered rightly.
        complete: whether `by_class` holds every stream; a description that must be short leaves some out.
        bins: int64[2, B], rows and right ones by bin of `confidence`.
        threshold: confidence that as many reference rows stay below as are wrong (Garg et al. 2022).
        threshold_bin, threshold_above: its bin, and the share of that bin's rows that reach it.
        calibrated_error: standard deviation by which calibrated confidence missed the accuracy of stretches
            that it was not calibrated on, beyond chance.
        threshold_error: likewise for the threshold.
        notes: what the owner should know, in sentences.
    """

    answers: str
    confidence: str
    classes: int
    labels: LabelSketch
    independent: float
    by_class: Ints
    right: Ints
    complete: bool
    bins: Ints
    threshold: float
    threshold_bin: int
    threshold_above: float
    calibrated_error: float
    threshold_error: float
    notes: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of labelled reference rows that were answered rightly."""
        return 1.0 - self.labels.error_rate

    @classmethod
    def fit(
        cls,
        schema: Schema,
        values: npt.NDArray[np.floating],
        labels: Ints,
        *,
        answers: str,
        confidence: str = "",
        classes: int,
        names: tuple[str, ...] = (),
    ) -> PerformanceRecord | None:
        """Learn from the reference; None where no row is labelled and answered.

        Args:
            schema: its streams.
            values: [n, S_scalar] in time order.
            labels: int64[n], true class, -1 where unknown.
            answers: name of the stream of predicted classes.
            confidence: name of the stream of confidences, "" without one.
            classes: how many the model tells apart.
            names: of the classes, empty where unknown.

        Raises:
            MalformedSketch: labels or streams do not fit.
        """
        if len(labels) != len(values) or len(values) == 0:
            raise MalformedSketch(f"{len(labels)} labels for {len(values)} rows")
        column = {schema.streams[i].name: c for c, i in enumerate(schema.scalar_streams)}
        said = np.asarray(values[:, column[answers]], dtype=np.float64)
        sure = np.full(len(said), np.nan)
        if confidence:
            sure = np.asarray(values[:, column[confidence]], dtype=np.float64)
        known = np.isfinite(said) & (labels >= 0)
        known &= (said >= 0) & (said < classes) & (said == np.floor(np.nan_to_num(said, nan=-0.5)))
        if not known.any():
            return None
        if int(labels.max()) >= classes:
            raise MalformedSketch(f"a label is {int(labels.max())}, the model has {classes} classes")
        rows = np.flatnonzero(known)
        truth, said, sure = labels[rows].astype(np.int64), said[rows], sure[rows]
        given = said.astype(np.int64)
        correct = given == truth
        sketch = LabelSketch.of_classes(classes, given, truth, sure)
        by_class, right, complete, bins_of = _tables(
            schema, values, rows, truth, correct, answers, confidence
        )
        bins = np.zeros((2, 0), dtype=np.int64)
        threshold, place, above, errors = math.nan, 0, 0.0, (0.0, 0.0)
        if confidence and np.isfinite(sure).all():
            size = schema.streams[schema.index(confidence)].n_bins
            bins = np.stack(
                [np.bincount(bins_of, minlength=size), np.bincount(bins_of[correct], minlength=size)]
            )
            bins = bins.astype(np.int64)
            threshold = _threshold(sure, correct)
            place, above = _place(threshold, sure, bins_of)
            errors = _held_out(bins_of, sure, correct, size)
        else:
            confidence = ""
        # A set that was repeated to make a longer one knows no more errors than the set.
        repeated = len(rows) / distinct_rows(schema, np.asarray(values, dtype=np.float64)[rows])
        independent = independent_rows((~correct).astype(np.float64)) * max(repeated, 1.0)
        return cls(
            answers, confidence, classes, sketch, independent, by_class, right, complete, bins, threshold,
            place, above, errors[0], errors[1], _notes(sketch, truth, classes, names),
        )  # fmt: skip

    def short(self, schema: Schema) -> PerformanceRecord:
        """The same with class histograms of answers and confidences only, for where there is little room."""
        keep = [schema.streams[i].name in (self.answers, self.confidence) for i in schema.tracked_streams]
        by_class = self.by_class * np.array(keep, dtype=np.int64)[: len(self.by_class), None, None]
        return replace(self, by_class=by_class, complete=False)

    def class_mix(self, schema: Schema, tau: Floats) -> ClassMix | None:
        """What tells label shift from covariate shift; None where histograms by class were not kept.

        Args:
            schema: of the windows.
            tau: float64[T], rows of each tracked stream that count as one independent row.
        """
        return ClassMix(schema, self.by_class, self.answers, tau) if self.by_class.size else None

    def to_bytes(self) -> bytes:
        """The file and wire form. See docs/formats.md."""
        body = packing.text_bytes(self.answers) + packing.text_bytes(self.confidence)
        body += struct.pack(
            "<IdIIIB",
            self.classes,
            self.independent,
            *self.by_class.shape[:2],
            self.bins.shape[1],
            self.complete,
        )
        threshold = 0.0 if math.isnan(self.threshold) else self.threshold
        body += struct.pack(
            "<dIddd", threshold, self.threshold_bin, self.threshold_above, self.calibrated_error,
            self.threshold_error,
        )  # fmt: skip
        body += packing.blob_bytes(self.labels.to_bytes())
        for table in (self.by_class, self.right, self.bins):
            body += packing.pack_unsigned(table.reshape(-1))
        body += struct.pack("<H", len(self.notes)) + b"".join(packing.text_bytes(note) for note in self.notes)
        return MAGIC + bytes([VERSION]) + zlib.compress(body, 9)

    @classmethod
    def from_bytes(cls, data: bytes) -> PerformanceRecord:
        """Reads `to_bytes`'s form; `check` compares it with a schema.

        Raises:
            MalformedSketch: truncated, oversized, contradictory or no record at all.
            UnsupportedVersion: written by a newer format.
        """
        plain = packing.unwrap(
            data, MAGIC, VERSION, "a performance record", most=MAX_BYTES, most_plain=MAX_PLAIN
        )
        reader = packing.Reader(plain)
        answers, confidence = reader.text(4 * MAX_NAME), reader.text(4 * MAX_NAME)
        classes, independent, streams, groups, size, complete = struct.unpack("<IdIIIB", reader.take(25))
        threshold, place, above, calibrated, thresholded = struct.unpack("<dIddd", reader.take(36))
        if streams > MAX_STREAMS or groups > CELLS or size > MAX_BINS or complete > 1:
            raise MalformedSketch("a performance record's tables are too large")
        numbers = (independent, threshold, above, calibrated, thresholded)
        if not all(math.isfinite(x) and x >= 0 for x in numbers) or independent < 1:
            raise MalformedSketch("a performance record's numbers are out of range")
        if max(above, calibrated, thresholded) > 1:
            raise MalformedSketch("a performance record's shares and errors are at most 1")
        labels = LabelSketch.from_bytes(reader.blob(MAX_LABEL_BYTES))
        by_class = reader.unsigned(streams * groups * CELLS).reshape(streams, groups, CELLS)
        right = reader.unsigned(groups)
        bins = reader.unsigned(2 * size).reshape(2, size)
        (count,) = struct.unpack("<H", reader.take(2))
        notes = tuple(reader.text(4000) for _ in range(count))
        reader.finish()
        record = cls(
            answers, confidence, classes, labels, independent, by_class, right, bool(complete), bins,
            threshold if size else math.nan, place, above, calibrated, thresholded, notes,
        )  # fmt: skip
        record._check_counts()
        return record

    def check(self, schema: Schema) -> None:
        """Refuses a record that was not learnt with these streams.

        Raises:
            MalformedSketch: streams are missing, or of another shape.
        """
        tracked = len(schema.tracked_streams)
        if self.answers not in schema or (self.confidence and self.confidence not in schema):
            raise MalformedSketch("a performance record's streams are not in the schema")
        stream = schema.streams[schema.index(self.answers)]
        if stream.kind is not StreamKind.CATEGORICAL or self.by_class.shape[:2] not in (
            (tracked, value_cells(stream)),
            (0, 0),
        ):
            raise MalformedSketch("a performance record's class histograms do not fit the schema")
        if self.confidence and self.bins.shape[1] != schema.streams[schema.index(self.confidence)].n_bins:
            raise MalformedSketch("a performance record's bins of confidence do not fit the schema")

    def _check_counts(self) -> None:
        rows = self.labels.rows
        if not rows or (self.labels.classes not in (0, self.classes)):
            raise MalformedSketch("a performance record without labelled rows, or of other classes")
        if (self.bins[1] > self.bins[0]).any() or int(self.bins[0].sum()) not in (0, rows):
            raise MalformedSketch("a performance record's bins of confidence contradict its rows")
        if self.threshold_bin >= max(self.bins.shape[1], 1) or int(self.right.sum()) > rows:
            raise MalformedSketch("a performance record's threshold or classes are out of range")
        if self.by_class.size and (self.by_class.sum(axis=(1, 2)) > rows).any():
            raise MalformedSketch("a performance record's class histograms hold more rows than there are")


def _tables(  # noqa: PLR0917 - what a pass over the reference needs
    schema: Schema,
    values: npt.NDArray[np.floating],
    rows: Ints,
    truth: Ints,
    correct: npt.NDArray[np.bool_],
    answers: str,
    confidence: str,
) -> tuple[Ints, Ints, bool, Ints]:
    """Histograms by class, right answers by class, whether all streams are there, and bins of confidence."""
    scalar = {int(i): c for c, i in enumerate(schema.scalar_streams)}
    tracked = [int(i) for i in schema.tracked_streams]
    stream = schema.streams[schema.index(answers)]
    groups = value_cells(stream)
    lead = scalar[schema.index(answers)]
    binner = Binner(schema)
    sure = scalar[schema.index(confidence)] if confidence else -1
    bins_of = np.zeros(len(rows), dtype=np.int64)
    complete = len(tracked) * groups * CELLS <= MAX_TABLE and schema.index(answers) in tracked
    counts = np.zeros((len(tracked), groups, CELLS) if complete else (0, 0, CELLS), dtype=np.int64)
    group_of = np.zeros(len(rows), dtype=np.int64)
    places = np.array([scalar[i] for i in tracked], dtype=np.int64)
    streams = np.arange(len(tracked))[:, None]
    for begin in range(0, len(rows), BLOCK):
        part = slice(begin, begin + BLOCK)
        block = np.ascontiguousarray(values[rows[part]].T, dtype=np.float64)
        finite = np.isfinite(block)
        bins = binner.bins(block)
        if sure >= 0:
            bins_of[part] = bins[sure]
        # A true class is counted where an answer of that class would be.
        block[lead] = truth[part]
        group_of[part] = cells_of(stream)[binner.bins(block)[lead]]
        if complete:
            cells = binner.fold(bins, finite)[places]
            np.add.at(counts, (streams, group_of[None, part], cells), 1)
    right = np.bincount(group_of[correct], minlength=groups).astype(np.int64)
    return counts, right if complete else np.zeros(0, dtype=np.int64), complete, bins_of


def _threshold(sure: Floats, correct: npt.NDArray[np.bool_]) -> float:
    """Confidence that as many rows stay below as are wrong."""
    wrong = int((~correct).sum())
    ordered = np.sort(sure)
    return float(ordered[min(wrong, len(ordered) - 1)])


def _place(threshold: float, sure: Floats, bins_of: Ints) -> tuple[int, float]:
    """Bin of a threshold, and the share of that bin's rows that reach it."""
    place = int(bins_of[int(np.argmin(np.abs(sure - threshold)))])
    inside = sure[bins_of == place]
    return place, float((inside >= threshold).mean())


def calibrated(bins: Ints | Floats) -> Floats:
    """Share of right answers by bin of confidence; bins of few rows lean on all others.

    Args:
        bins: [2, B], rows and right ones.
    """
    rows, right = bins[0].astype(np.float64), bins[1].astype(np.float64)
    overall = right.sum() / max(float(rows.sum()), 1.0)
    return np.asarray((right + overall) / (rows + 1.0))


def _held_out(bins_of: Ints, sure: Floats, correct: npt.NDArray[np.bool_], size: int) -> tuple[float, float]:
    """By how much either estimate misses stretches that it did not learn from, beyond chance."""
    folds = min(FOLDS, len(sure) // MIN_FOLD)
    if folds < 3:
        return 0.0, 0.0
    beyond = []
    for part in np.array_split(np.arange(len(sure)), folds):
        rest = np.ones(len(sure), dtype=bool)
        rest[part] = False
        rows = np.bincount(bins_of[rest], minlength=size)
        right = np.bincount(bins_of[rest & correct], minlength=size)
        accuracy = float(correct[part].mean())
        claimed = float(calibrated(np.stack([rows, right]))[bins_of[part]].mean())
        reached = float((sure[part] >= _threshold(sure[rest], correct[rest])).mean())
        chance = accuracy * (1.0 - accuracy) * (1.0 / len(part) + 1.0 / (len(sure) - len(part)))
        beyond.append(((accuracy - claimed) ** 2 - chance, (accuracy - reached) ** 2 - 2.0 * chance))
    means = np.array(beyond).mean(axis=0)
    return math.sqrt(max(float(means[0]), 0.0)), math.sqrt(max(float(means[1]), 0.0))


def _notes(sketch: LabelSketch, truth: Ints, classes: int, names: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    accuracy = 1.0 - sketch.error_rate
    if sketch.rows < FEW_ROWS:
        error = 1.96 * math.sqrt(max(accuracy * (1.0 - accuracy), 0.01) / sketch.rows)
        notes.append(
            f"{sketch.rows} labelled rows: accuracy is known to +-{error:.0%} only, and changes of the error "
            f"rate below that stay unseen; {FEW_ROWS} or more make it useful"
        )
    rows = np.bincount(truth, minlength=classes)
    few = [names[c] if c < len(names) else str(c) for c in np.flatnonzero(rows < FEW_CLASS_ROWS)]
    if few and classes <= 1000:
        shown = ", ".join(few[:6]) + (f" and {len(few) - 6} more" if len(few) > 6 else "")
        notes.append(
            f"fewer than {FEW_CLASS_ROWS} labelled rows of {shown}: what their share becomes is known poorly "
            "or not at all"
        )
    if accuracy >= TOO_GOOD and sketch.rows >= FEW_ROWS:
        notes.append(
            f"{accuracy:.1%} of the reference is answered rightly: if the model was trained on these rows, "
            "accuracy, calibration and thresholds are too good to be true; use rows that it has not seen"
        )
    return tuple(notes)
