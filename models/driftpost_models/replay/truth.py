"""The column of true classes of a recording, in the class numbers of the column of answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import TableRefused
from driftpost_models.replay.columns import Column, Encoder, Learned, Wishes, class_names
from driftpost_models.replay.tables import Numbers, RowBlock, Table
from driftpost_sketches.errors import SketchError
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.schema import Role, Schema

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """Labels of a recording.

    Attributes:
        names: of the classes.
        reference: int64[rows], -1 where unknown.
    """

    names: tuple[str, ...]
    reference: Labels
    _column: Column
    _path: Table
    _encoder: Encoder | None

    @classmethod
    def of(cls, learned: Learned, reference: Table, live: Table, wishes: Wishes) -> Truth | None:
        """Read the reference's labels; None unless labels and answers are named."""
        if wishes.labels is None or wishes.prediction is None:
            return None
        answers = next(column for column in learned.columns if column.name == wishes.prediction)
        column = Column(wishes.labels, True, answers.codes, Role.OUTPUT)
        encoder = Encoder(reference, [column])
        found = np.concatenate([_classes(encoder.encode(block)) for block in reference.blocks()])
        there = Encoder(live, [column]) if wishes.labels in live.names else None
        return cls(class_names(answers), found, column, reference, there)

    def record(self, schema: Schema, values: Numbers, wishes: Wishes) -> PerformanceRecord | None:
        """What the labelled reference tells.

        Raises:
            TableRefused: no row is labelled, or labels do not fit.
        """
        try:
            found = PerformanceRecord.fit(
                schema,
                values,
                self.reference,
                answers=wishes.prediction or "",
                confidence=wishes.confidence or "",
                classes=len(self.names),
                names=self.names,
            )
        except SketchError as error:
            raise TableRefused(self._path.path, str(error)) from error
        if found is None:
            raise TableRefused(self._path.path, f"has no label in column {self._column.name!r}")
        return found

    def live(self, block: RowBlock) -> Labels | None:
        """True classes of live rows, -1 where unknown; None where the live data have no such column."""
        return None if self._encoder is None else _classes(self._encoder.encode(block))

    def notes(self, record: PerformanceRecord | None) -> list[str]:
        """What a person should know about the labels."""
        notes = [] if record is None else list(record.notes)
        if self._encoder is None:
            notes.append(
                f"{self._column.name}: the live data have no labels, so errors are not counted; accuracy is "
                "estimated, and the class mix is tested"
            )
            return notes
        return notes + self._encoder.notes()


def _classes(encoded: Numbers) -> Labels:
    known = np.isfinite(encoded[:, 0]) & (encoded[:, 0] < 2.0**31)
    return np.where(known, np.nan_to_num(encoded[:, 0]), -1).astype(np.int64)
