"""Seasons and slices of a replay: from options to derived streams, and the times that they go by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from driftpost_models.errors import ConfigError, TableRefused
from driftpost_models.replay.columns import Learned, times_of
from driftpost_models.replay.setup import Setup
from driftpost_models.replay.tables import Numbers, RowBlock, Table
from driftpost_models.times import regular
from driftpost_sketches.derived.fit import Derived, fit_derived
from driftpost_sketches.derived.phase import CLOCKS, STREAM
from driftpost_sketches.derived.wishes import SeasonWish, SliceWish


@dataclass(frozen=True)
class Clock:
    """What is known of the times of rows.

    Attributes:
        column: that has them; None where they follow from the start, or are not known.
        reference: float64[rows], seconds since 1970; None where not known.
        live_start: seconds since 1970 of the first live row; None where the column says it.
        row_seconds: seconds between rows.
        notes: sentences about them.
    """

    column: str | None
    reference: Numbers | None
    live_start: float | None
    row_seconds: float
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, setup: Setup, learned: Learned, table: Table) -> Clock:
        """The times that options and columns give.

        Raises:
            ConfigError: a start that is no point in time, or both a start and a column.
            TableRefused: a season is asked for, but times are not known or do not rise.
        """
        rows, step = len(learned.values), setup.row_seconds or 0.0
        if setup.start is not None and step > 0:
            given = regular(setup.start, step, rows)
            live = given[-1] + step if setup.live_start is None else regular(setup.live_start, step, 1)[0]
            return cls(None, given, float(live), step)
        found, times = learned.clock, learned.times
        wanted = setup.season in CLOCKS
        if times is None and wanted:
            raise TableRefused(
                table.path,
                f"has no column of times, and a season by {setup.season} needs them: name it with --time, or "
                "give --start and --row-seconds",
            )
        if times is None or (np.diff(times) >= 0).all():
            return cls(found, times, None, step)
        row = int(np.flatnonzero(~(np.diff(times) >= 0))[0]) + 1
        why = (
            f"rows are not in the order of time: row {row + 1:,} is earlier than the one before, or has no "
            "time"
        )
        if wanted:
            raise TableRefused(table.path, f"{why} (column {found!r})")
        return cls(found, None, None, step, (f"{found}: {why}. Alarms come too often if rows were shuffled",))

    def live(self, table: Table, block: RowBlock) -> Numbers:
        """Times of live rows: float64[rows], NaN where a cell has none.

        Raises:
            TableRefused: the live data have no such column, or a cell that is no point in time.
        """
        if self.live_start is not None:
            return self.live_start + self.row_seconds * (
                block.start + np.arange(block.rows, dtype=np.float64)
            )
        assert self.column is not None, "a season by the clock has been fitted, so there are times"
        return times_of(table, self.column, block)


def derive(setup: Setup, learned: Learned, clock: Clock) -> Derived:
    """The reference with the derived streams that were asked for.

    Raises:
        CalibrationError: the reference can not carry them.
        ConfigError: a column that is no stream.
    """
    season = None
    names = [stream.name for stream in learned.schema.streams]
    if setup.season is not None:
        if setup.season not in CLOCKS and setup.season not in names:
            raise ConfigError(
                "--season",
                f"{setup.season!r} is neither {', '.join(CLOCKS)} nor a column that is watched "
                f"({', '.join(names)})",
            )
        season = SeasonWish(setup.season if setup.season in CLOCKS else STREAM + setup.season)
    slices = SliceWish(setup.slices) if setup.slices else None
    return fit_derived(learned.schema, learned.values, seconds=clock.reference, season=season, slices=slices)
