"""What came of comparing answers with their labels: a sketch that merges exactly.

Two moments of the loss, the order in which errors came, reliability counts and the confusion matrix. For a
classifier the loss is 0 or 1; for anything else the owner gives one between 0 and 1.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches import packing
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.labels import reliability
from driftpost_sketches.labels.reliability import BINS, MAX_ROWS, STEPS, Reliability

MAGIC = b"DPL"
VERSION = 1
MAX_CLASSES = 64  # of more, the confusion matrix is left out: its square would outgrow a message
MAX_BYTES = 1 << 18
MAX_PLAIN = 1 << 17

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelSketch:
    """Labelled answers of one model.

    Attributes:
        classes: how many the confusion matrix tells apart; 0 where there is none.
        rows: labelled answers.
        parts: sketches merged into it (0 in an empty one).
        loss: sum of losses in steps of 1/4096.
        squares: sum of squared losses in squared steps.
        moves: int64[2, 2], from a row that was right (0) or wrong (1, loss of 1/2 or more) to the next, in
            the order in which labels came, within parts.
        reliability: counts by confidence; of fewer rows where some came without one.
        confusion: int64[classes, classes], rows are true classes, columns answers.
    """

    classes: int
    rows: int
    parts: int
    loss: int
    squares: int
    moves: Ints
    reliability: Reliability
    confusion: Ints

    @classmethod
    def empty(cls, classes: int) -> LabelSketch:
        """Of no rows: neutral under merge."""
        size = classes if classes <= MAX_CLASSES else 0
        moves, confusion = np.zeros((2, 2), dtype=np.int64), np.zeros((size, size), dtype=np.int64)
        return cls(size, 0, 0, 0, 0, moves, Reliability.empty(), confusion)

    @classmethod
    def of_classes(
        cls, classes: int, answers: Ints, labels: Ints, confidence: Floats | None = None
    ) -> LabelSketch:
        """Compare a classifier's answers with labels, in the order in which the answers were given.

        Args:
            classes: how many there are; beyond `MAX_CLASSES` the confusion matrix is left out.
            answers: int64[n], 0 to classes - 1.
            labels: int64[n], likewise.
            confidence: float64[n], 0 to 1, NaN where unknown; None without.

        Raises:
            MalformedSketch: the arrays differ in length, or a class does not exist.
        """
        answers, labels = np.asarray(answers, dtype=np.int64), np.asarray(labels, dtype=np.int64)
        if answers.shape != labels.shape or answers.ndim != 1:
            raise MalformedSketch(f"{answers.shape} answers for {labels.shape} labels")
        for found in (answers, labels):
            if len(found) and (int(found.min()) < 0 or int(found.max()) >= classes):
                raise MalformedSketch(f"a class is none of 0 to {classes - 1}")
        wrong = answers != labels
        sketch = cls._of(wrong.astype(np.float64), classes)
        if sketch.classes:
            pairs = np.bincount(labels * classes + answers, minlength=classes * classes)
            sketch.confusion[...] = pairs.reshape(classes, classes)
        if confidence is None:
            return sketch
        counts = Reliability.of(np.asarray(confidence, dtype=np.float64), ~wrong)
        return cls(
            sketch.classes, sketch.rows, sketch.parts, sketch.loss, sketch.squares, sketch.moves, counts,
            sketch.confusion,
        )  # fmt: skip

    @classmethod
    def of_losses(cls, losses: Floats) -> LabelSketch:
        """Take losses that the owner graded.

        Args:
            losses: float64[n], 0 (right) to 1 (as wrong as can be), in the order of the answers.

        Raises:
            MalformedSketch: a loss is outside that, or no number.
        """
        losses = np.asarray(losses, dtype=np.float64)
        if not (np.isfinite(losses).all() and (losses >= 0.0).all() and (losses <= 1.0).all()):
            raise MalformedSketch("a loss lies outside 0 to 1")
        return cls._of(losses, 0)

    @classmethod
    def _of(cls, losses: Floats, classes: int) -> LabelSketch:
        empty = cls.empty(classes)
        if not len(losses):
            return empty
        steps = np.rint(losses * STEPS).astype(np.int64)
        wrong = (steps * 2 >= STEPS).astype(np.int64)
        moves = np.bincount(wrong[:-1] * 2 + wrong[1:], minlength=4).reshape(2, 2).astype(np.int64)
        return cls(
            empty.classes, len(losses), 1, int(steps.sum()), int((steps * steps).sum()), moves,
            empty.reliability, empty.confusion,
        )  # fmt: skip

    @property
    def error_rate(self) -> float:
        """Mean loss; NaN without rows."""
        return self.loss / STEPS / self.rows if self.rows else float("nan")

    def by_answer(self) -> tuple[Ints, Ints]:
        """Rows and wrong rows for each class that was answered: int64[classes] twice."""
        rows = self.confusion.sum(axis=0)
        return rows, rows - np.diag(self.confusion)

    def by_label(self) -> tuple[Ints, Ints]:
        """Rows and wrong rows for each true class: int64[classes] twice."""
        rows = self.confusion.sum(axis=1)
        return rows, rows - np.diag(self.confusion)

    def merge(self, other: LabelSketch) -> LabelSketch:
        """The rows of both; neither is changed.

        Raises:
            MalformedSketch: of models with different classes, or too many rows to count exactly.
        """
        if self.classes != other.classes:
            raise MalformedSketch(f"labels of {other.classes} classes can not merge with {self.classes}")
        if self.rows + other.rows > MAX_ROWS or self.parts + other.parts > MAX_ROWS:
            raise MalformedSketch(f"a label sketch holds at most {MAX_ROWS} rows")
        return LabelSketch(
            classes=self.classes,
            rows=self.rows + other.rows,
            parts=self.parts + other.parts,
            loss=self.loss + other.loss,
            squares=self.squares + other.squares,
            moves=self.moves + other.moves,
            reliability=self.reliability.merge(other.reliability),
            confusion=self.confusion + other.confusion,
        )

    def to_bytes(self) -> bytes:
        """The wire and file form. See docs/formats.md."""
        body = struct.pack("<BQQQQ", self.classes, self.rows, self.parts, self.loss, self.squares)
        body += packing.pack_unsigned(self.moves.reshape(-1))
        for name in reliability.ARRAYS:
            body += packing.pack_unsigned(getattr(self.reliability, name))
        if self.classes:
            body += packing.pack_unsigned(self.confusion.reshape(-1))
        return MAGIC + bytes([VERSION]) + zlib.compress(body, 9)

    @classmethod
    def from_bytes(cls, data: bytes) -> LabelSketch:
        """Reads `to_bytes`'s form.

        Raises:
            MalformedSketch: truncated, oversized, contradictory or no label sketch at all.
            UnsupportedVersion: written by a newer format.
        """
        plain = packing.unwrap(data, MAGIC, VERSION, "a label sketch", most=MAX_BYTES, most_plain=MAX_PLAIN)
        reader = packing.Reader(plain)
        classes, rows, parts, loss, squares = struct.unpack("<BQQQQ", reader.take(33))
        if classes > MAX_CLASSES:
            raise MalformedSketch(f"{classes} classes, at most {MAX_CLASSES} are counted")
        moves = reader.unsigned(4).reshape(2, 2)
        counts = Reliability(*(reader.unsigned(BINS) for _ in reliability.ARRAYS))
        size = classes * classes
        confusion = reader.unsigned(size) if size else np.zeros(0, dtype=np.int64)
        reader.finish()
        sketch = cls(classes, rows, parts, loss, squares, moves, counts, confusion.reshape(classes, classes))
        sketch._check()
        return sketch

    def _check(self) -> None:
        self.reliability.check()
        if max(self.rows, self.parts) > MAX_ROWS or self.parts > self.rows or (self.rows and not self.parts):
            raise MalformedSketch("a label sketch's rows and parts contradict each other")
        if self.loss > self.rows * STEPS or not self.loss <= self.squares <= self.loss * STEPS:
            # A squared step is no smaller than the step, and no larger than the step times the largest one.
            raise MalformedSketch("a label sketch's losses contradict its rows")
        if int(self.moves.sum()) != self.rows - self.parts or int(self.moves.max()) > MAX_ROWS:
            raise MalformedSketch("a label sketch's moves do not add up to its rows")
        if int(self.reliability.rows.sum()) > self.rows:
            raise MalformedSketch("a label sketch has more confidences than rows")
        if self.classes:
            wrong = self.rows - int(np.trace(self.confusion))
            if int(self.confusion.max()) > MAX_ROWS or int(self.confusion.sum()) != self.rows:
                raise MalformedSketch("a confusion matrix does not add up to its rows")
            if self.loss != wrong * STEPS or self.squares != wrong * STEPS * STEPS:
                raise MalformedSketch("a confusion matrix contradicts the errors beside it")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LabelSketch):
            return NotImplemented
        numbers = ("classes", "rows", "parts", "loss", "squares")
        return (
            all(getattr(self, name) == getattr(other, name) for name in numbers)
            and np.array_equal(self.moves, other.moves)
            and self.reliability == other.reliability
            and np.array_equal(self.confusion, other.confusion)
        )

    __hash__ = None  # type: ignore[assignment]  # it holds arrays
