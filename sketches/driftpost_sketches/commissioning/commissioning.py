"""Commissioning: from the first row on a new device to a calibration of its own.

Two phases. In the first, values are sketched whose range nobody knows; their sketches give a schema. In the
second, rows are kept as cells of that schema, in time order, and give a calibration. Pure: whoever feeds it
rows says when a window ends and how long it was, and stores what `head` and `changes` hand out.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from driftpost_sketches import packing
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.commissioning.journal import Journal, Parts
from driftpost_sketches.commissioning.ranges import Ranges
from driftpost_sketches.commissioning.site_fit import fit_journal
from driftpost_sketches.drift.budget import PERIODS
from driftpost_sketches.drift.calibration import DEFAULT_EFFECT, Calibration
from driftpost_sketches.errors import MalformedSketch, SketchError
from driftpost_sketches.schema import Schema, Stream
from driftpost_sketches.window import Window

MAGIC = b"DPS"
VERSION = 1
MAX_BYTES = 64 << 20
RANGES_SHARE = 0.1  # of the whole that the first phase takes
LEAST_RANGES, LEAST_CHAINS = 200, 1_000  # rows below which a phase does not end, whatever the time
MAX_WORDS = 60  # characters
MAX_ROWS, MAX_SECONDS = 10**10, 366 * 86400.0

_WORDS = re.compile(r"^\s*(\d[\d,]*(?:\.\d+)?)\s+([a-z]+?)s?\s*$", re.IGNORECASE)


class PlanError(SketchError):
    """Words that do not say how long a commissioning takes."""

    def __init__(self, words: object) -> None:
        self.words = words
        super().__init__(
            f"{words!r} does not say how long commissioning takes; write for example '7 days' or "
            "'50,000 rows'"
        )


@dataclass(frozen=True)
class Plan:
    """How long a commissioning takes; one of the two is None.

    Attributes:
        rows: until so many rows were seen.
        seconds: until so many seconds of windows with rows have passed.
    """

    rows: int | None
    seconds: float | None

    @classmethod
    def parse(cls, words: str) -> Plan:
        """Reads "7 days", "36 hours", "50,000 rows" and the like.

        Raises:
            PlanError: the words say something else.
        """
        match = _WORDS.match(words) if isinstance(words, str) and len(words) <= MAX_WORDS else None
        if match is None:
            raise PlanError(words)
        number, unit = float(match[1].replace(",", "")), match[2].lower()
        if unit == "row" and number == int(number) and LEAST_CHAINS <= number <= MAX_ROWS:
            return cls(int(number), None)
        if unit in PERIODS and 60.0 <= number * PERIODS[unit] <= MAX_SECONDS:
            return cls(None, number * PERIODS[unit])
        raise PlanError(words)

    def __str__(self) -> str:
        if self.rows is not None:
            return f"{self.rows:,} rows"
        assert self.seconds is not None
        for name, length in reversed(PERIODS.items()):
            many = self.seconds / length
            if many >= 1 and many == round(many):
                return f"{many:.0f} {name}{'s' * (many != 1)}"
        return f"{self.seconds / PERIODS['hour']:.2f} hours"


class Phase(str, Enum):
    """Where a commissioning is."""

    RANGES = "ranges"
    CHAINS = "chains"
    DONE = "done"


@dataclass(frozen=True)
class Progress:
    """How far it is.

    Attributes:
        phase: where it is.
        rows: seen in all.
        rows_wanted: when it will end; an estimate where the plan is in time, None before anything is known.
        seconds: passed in all.
        seconds_left: until it ends, an estimate where the plan is in rows; None before anything is known.
    """

    phase: Phase
    rows: int
    rows_wanted: int | None
    seconds: float
    seconds_left: float | None


class Commissioning:
    """Learns the normal of some streams.

    Args:
        streams: numeric and categorical ones, without any use of their bins.
        plan: how long.
        smallest_effect: smallest changes worth knowing by stream, standard deviations of what is seen here.
        default_effect: of streams not named.

    Attributes:
        phase: where it is.
        notes: what a person should know about what was seen.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        plan: Plan,
        smallest_effect: Mapping[str, float] | None = None,
        default_effect: float = DEFAULT_EFFECT,
    ) -> None:
        self.streams = tuple(streams)
        self.plan = plan
        self.phase = Phase.RANGES
        self.notes: tuple[str, ...] = ()
        self._effects = dict(smallest_effect or {})
        self._default_effect = default_effect
        self._ranges = Ranges(self.streams)
        self._journal: Journal | None = None
        self._accumulator: WindowAccumulator | None = None
        self._baseline: Window | None = None
        self._seconds = 0.0
        self._ranges_rows = 0

    @property
    def rows(self) -> int:
        """Rows seen in all."""
        return self._ranges.rows + (self._journal.rows if self._journal else 0)

    @property
    def schema(self) -> Schema | None:
        """What the first phase found; None until it has."""
        return self._journal.schema if self._journal else None

    def update(self, values: npt.NDArray[np.float64]) -> None:
        """Takes rows in time order: float64[rows, streams]; once it is done, none."""
        if self.phase is Phase.DONE:
            return
        if self._journal is None:
            self._ranges.update(values)
            return
        assert self._accumulator is not None
        self._journal.update(values)
        self._accumulator.update(values)

    def close(self, seconds: float) -> Phase:
        """Says that a window has ended, and how long it was; the phase may change.

        Args:
            seconds: that the window's rows took.
        """
        if self.phase is Phase.DONE:
            return self.phase
        self._seconds += max(seconds, 0.0)
        if self.phase is Phase.RANGES:
            if self._due(RANGES_SHARE, self._ranges.rows, LEAST_RANGES):
                self._begin_chains(*self._ranges.schema())
        elif self.phase is Phase.CHAINS:
            assert self._journal is not None
            self._take_window()
            if self._due(1.0, self.rows, LEAST_CHAINS) and self._journal.rows >= LEAST_CHAINS:
                self.phase = Phase.DONE
        return self.phase

    def break_sequence(self) -> None:
        """Says that the next row does not follow the last one in time."""
        if self._journal is not None and self._accumulator is not None:
            self._journal.break_sequence()
            self._accumulator.break_sequence()

    def calibration(self, progress: Callable[[int, int], None] | None = None) -> Calibration:
        """What was learnt, once it is done.

        Args:
            progress: called with (streams done, streams in all); what it raises ends the work.

        Raises:
            CalibrationError: too few rows of a stream.
        """
        assert self._journal is not None
        assert self._baseline is not None
        return fit_journal(self._journal, self._baseline, self._effects, self._default_effect, progress)

    def progress(self) -> Progress:
        """How far it is."""
        rows, wanted, left = self.rows, self.plan.rows, None
        if self.plan.rows is not None:
            if rows and self._seconds:
                left = max(self.plan.rows - rows, 0) * self._seconds / rows
        elif self.plan.seconds is not None:
            left = max(self.plan.seconds - self._seconds, 0.0)
            if self._seconds:
                wanted = max(math.ceil(rows * self.plan.seconds / self._seconds), LEAST_CHAINS)
        return Progress(self.phase, rows, wanted, self._seconds, left)

    def changes(self) -> Parts:
        """Parts to store anew since this was last asked; `head` is asked for beside it."""
        return self._journal.changes() if self._journal else Parts()

    def head(self) -> bytes:
        """All of the state that is not in parts."""
        plain = {
            "phase": self.phase.value,
            "plan": [self.plan.rows, self.plan.seconds],
            "streams": [s.name for s in self.streams],
            "notes": list(self.notes),
            "seconds": self._seconds,
            "schema": None if self._journal is None else self._journal.schema.to_dict(),
        }
        pieces = [packing.blob_bytes(json.dumps(plain, separators=(",", ":")).encode())]
        if self._journal is None:
            pieces.append(packing.blob_bytes(self._ranges.to_bytes()))
        else:
            assert self._baseline is not None
            pieces += [
                struct.pack("<Q", self._ranges.rows),
                packing.blob_bytes(self._journal.head()),
                packing.blob_bytes(self._baseline.to_bytes()),
            ]
        return MAGIC + bytes([VERSION]) + zlib.compress(b"".join(pieces), 1)

    def restore(self, head: bytes, parts: Mapping[str, bytes]) -> None:
        """Takes up a state where it was left; nothing is changed when it is refused.

        Raises:
            MalformedSketch: it is none, or of other streams or another plan.
            UnsupportedVersion: written by a newer format.
        """
        what = "a commissioning's state"
        reader = packing.Reader(
            packing.unwrap(head, MAGIC, VERSION, what, most=MAX_BYTES, most_plain=MAX_BYTES)
        )
        try:
            plain = json.loads(reader.blob(MAX_BYTES))
            phase, seconds = Phase(plain["phase"]), float(plain["seconds"])
            same = plain["streams"] == [s.name for s in self.streams]
            same = same and plain["plan"] == [self.plan.rows, self.plan.seconds]
            notes = tuple(str(note) for note in plain["notes"])
            schema = None if plain["schema"] is None else Schema.from_dict(plain["schema"])
        except MalformedSketch:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MalformedSketch(f"{what} can not be read: {error}") from error
        if not same or not (math.isfinite(seconds) and seconds >= 0.0):
            raise MalformedSketch(f"{what} is of other streams or another plan")
        if (schema is None) != (phase is Phase.RANGES):
            raise MalformedSketch(f"{what} contradicts itself")
        ranges = Ranges(self.streams)
        if schema is None:
            ranges.restore(reader.blob(MAX_BYTES))
            reader.finish()
            self._journal = self._accumulator = self._baseline = None
        else:
            if [s.name for s in schema.streams] != [s.name for s in self.streams]:
                raise MalformedSketch(f"{what} has a schema of other streams")
            (ranges.rows,) = struct.unpack("<Q", reader.take(8))
            journal = Journal(schema)
            journal.restore(reader.blob(MAX_BYTES), parts)
            baseline = Window.from_bytes(reader.blob(MAX_BYTES))
            reader.finish()
            baseline.check(schema)
            if baseline.rows != journal.rows:
                raise MalformedSketch(f"{what} counts different rows in its parts")
            self._journal, self._baseline = journal, baseline
            self._accumulator = WindowAccumulator(schema)
            journal.break_sequence()
        self.phase, self._seconds, self.notes, self._ranges = phase, seconds, notes, ranges

    def _due(self, share: float, rows: int, least: int) -> bool:
        if rows < least:
            return False
        if self.plan.rows is not None:
            return rows >= share * self.plan.rows
        assert self.plan.seconds is not None
        return self._seconds >= share * self.plan.seconds

    def _begin_chains(self, schema: Schema, notes: tuple[str, ...]) -> None:
        self.phase = Phase.CHAINS
        self.notes = notes
        self._journal = Journal(schema)
        self._accumulator = WindowAccumulator(schema)
        self._baseline = Window.empty(schema)

    def _take_window(self) -> None:
        assert self._accumulator is not None
        assert self._baseline is not None
        window, _ = self._accumulator.take()
        if window.rows:
            self._baseline = self._baseline.merge(window)
