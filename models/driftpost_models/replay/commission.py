"""A device that learns its own normal from the first rows of a recording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from driftpost_models.replay.tables import RowBlock, Table
from driftpost_sketches.commissioning.commissioning import Plan
from driftpost_sketches.commissioning.watch import Mode, SiteWatch, streams_to_learn
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.drift.monitor import Interpret

LEAST_ROWS = 1_000
"""Rows below which nothing can be learnt that is worth watching by."""


@dataclass(frozen=True)
class Commissioned:
    """What was learnt.

    Attributes:
        rows: that were asked for.
        mode: what the watch did at the end.
        site: the device's own calibration; None when it was not made.
        skew: how it differs from the reference, in sentences.
        notes: what a person should know, in sentences.
    """

    rows: int
    mode: Mode
    site: Calibration | None
    skew: tuple[str, ...]
    notes: tuple[str, ...]


class FirstRows:
    """The first rows of a table, as a table."""

    def __init__(self, table: Table, rows: int) -> None:
        self._table = table
        self._rows = rows

    @property
    def path(self) -> Path:
        """The file."""
        return self._table.path

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, in order."""
        return self._table.names

    @property
    def size(self) -> int:
        """Length of the file, for progress."""
        return self._table.size

    @property
    def notes(self) -> Sequence[str]:
        """None: those on the whole table are told once."""
        return ()

    def blocks(self) -> Iterator[RowBlock]:
        """The rows from the first one on, as far as they are asked for."""
        left = self._rows
        for block in self._table.blocks():
            rows = min(block.rows, left)
            columns = {name: cells[:rows] for name, cells in block.columns.items()}
            yield RowBlock(block.start, rows, columns, block.done)
            left -= rows
            if left <= 0:
                return


def site_watch(
    training: Calibration,
    unknown: Sequence[str],
    rows: int,
    log_threshold: float,
    *,
    effect: float,
    interpret: Interpret | None,
) -> SiteWatch:
    """A watch that learns from so many rows.

    Args:
        training: of the reference; nothing of it is tracked where there is none.
        unknown: streams without bins.
        rows: to learn from.
        log_threshold: what an alarm takes.
        effect: smallest change worth knowing.
        interpret: renames changes from the reference by what labels say.
    """

    def detector(calibration: Calibration) -> DriftDetector:
        made = DriftDetector(calibration, log_threshold)
        if interpret is not None and calibration is training:
            made.name_changes(interpret)
        return made

    return SiteWatch(
        training,
        streams_to_learn(training.schema, unknown),
        Plan(rows, None),
        log_threshold,
        default_effect=effect,
        detectors=detector,
    )


def commissioned(watch: SiteWatch, rows: int) -> Commissioned:
    """What came of it at the end of a recording."""
    notes = list(watch.notes)
    progress = watch.progress()
    if watch.mode is Mode.HELD:
        notes.append(
            f"commissioning stopped after {progress.rows:,} of {rows:,} rows, as an alarm stands: what is "
            "wrong must not become normal; a person may accept it on a device"
        )
    elif watch.mode is not Mode.WATCHING:
        notes.append(
            f"commissioning is not over: {progress.rows:,} of {rows:,} rows were seen; give a longer "
            "recording"
        )
    notes += [f"differs since the first rows, not measured yet: {alarm.text}" for alarm in watch.held_back]
    return Commissioned(
        rows, watch.mode, watch.site, tuple(alarm.text for alarm in watch.skewed), tuple(notes)
    )
