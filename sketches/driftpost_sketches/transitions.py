"""Transition counts between drift cells: what the detectors read; they never leave the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import CELLS
from driftpost_sketches.errors import IncompatibleSketch
from driftpost_sketches.schema import Schema


@dataclass(frozen=True, eq=False)
class Transitions:
    """Moves from one row's cell to the next row's, for every tracked stream; treat as read-only.

    The next row of a partial stream is the next one that belongs to it.

    Attributes:
        schema_id: 16 bytes, the schema whose tracked streams these are.
        moves: int64[T, CELLS, CELLS]; moves[t, i, j] counts rows in cell j whose predecessor was in cell i.
        repeats: int64[T], rows whose value equals its predecessor exactly.
        runs: int64[T], of them, those whose predecessor was none: where a run of one value begins.
        steps: int64[T], counted moves; the same number for all streams that are not partial.
    """

    schema_id: bytes
    moves: npt.NDArray[np.int64]
    repeats: npt.NDArray[np.int64]
    runs: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, schema: Schema) -> Transitions:
        """No moves yet: the neutral element of `merge`."""
        tracked = len(schema.tracked_streams)
        none = np.zeros((3, tracked), np.int64)
        return cls(schema.id, np.zeros((tracked, CELLS, CELLS), np.int64), *none)

    def merge(self, other: Transitions) -> Transitions:
        """Counts of both.

        Raises:
            IncompatibleSketch: the schemas differ.
        """
        if self.schema_id != other.schema_id:
            raise IncompatibleSketch(self.schema_id, other.schema_id)
        return Transitions(
            self.schema_id,
            self.moves + other.moves,
            self.repeats + other.repeats,
            self.runs + other.runs,
            self.steps + other.steps,
        )
