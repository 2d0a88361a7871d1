"""Wall time is an attribute and nothing else: whatever it does, the same is recorded, kept and found."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.bundles import tabular_rows
from agent.clocks import ManualClock
from driftpost_agent.guard import Guard
from driftpost_agent.row_mark import RowMark
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from faults.books import read_books

YEAR_MS = 365 * 86_400_000
WALL_MS = 1_790_000_000_000
WINDOWS, ROWS = 24, 12

# What the wall clock says after so many windows; None while it is not known to be good.
WALLS: dict[str, Callable[[int], int | None]] = {
    "right": lambda n: WALL_MS + n * 1000,
    "never known": lambda n: None,
    "starts in 1970": lambda n: n * 1000 if n < 10 else WALL_MS + n * 1000,
    "jumps a year forward": lambda n: WALL_MS + n * 1000 + (YEAR_MS if n >= 10 else 0),
    "jumps a year back": lambda n: WALL_MS + n * 1000 - (YEAR_MS if n >= 10 else 0),
    "forward and back": lambda n: WALL_MS + n * 1000 + (YEAR_MS if 8 <= n < 16 else 0),
    "runs backwards": lambda n: WALL_MS - n * 1000,
}


def played(
    folder: Path, bundle: Bundle, wall: Callable[[int], int | None]
) -> dict[str, list[tuple[Any, ...]]]:
    """Two starts of a guard under a wall clock; all that its store holds then, but for wall times."""
    folder.mkdir()
    rows = iter(
        np.concatenate([tabular_rows(WINDOWS * ROWS // 2), tabular_rows(WINDOWS * ROWS // 2, 2, 1.5)])
    )
    clock = ManualClock(1_000, wall(0))
    number = 0
    for start in range(2):
        path = folder / "agent.db"
        mark = RowMark(folder / "none")
        with Store.open(path, clock=clock, random=random.Random(start), row_mark=mark) as store:
            guard = Guard(bundle, store=store, clock=clock, window_seconds=1.0, threaded=False)
            for _ in range(WINDOWS // 2):
                for _ in range(ROWS):
                    guard.run(next(rows)[np.newaxis])
                number += 1
                clock.mono += 1000
                clock.wall = wall(number)
                guard.tick()
            store.prune(1 << 20)
            guard.close()
    read_books(path)
    with closing(sqlite3.connect(path)) as db:
        return {
            "messages": db.execute(
                "select id, incarnation, seq, kind, windows, rows, mono, status from messages order by id"
            ).fetchall(),
            "findings": db.execute(
                "select finding, state, kind, streams, effect, mono, onset_mono from finding_log order by id"
            ).fetchall(),
            "ledger": db.execute("select * from ledger order by incarnation").fetchall(),
        }


@pytest.mark.parametrize("name", [name for name in WALLS if name != "right"])
def test_whatever_the_wall_clock_does_the_same_is_recorded_and_found(
    tmp_path: Path, mlp_bundle: Bundle, name: str
) -> None:
    right = played(tmp_path / "right", mlp_bundle, WALLS["right"])
    wild = played(tmp_path / "wild", mlp_bundle, WALLS[name])
    assert right["findings"], "there was something to find"
    assert wild == right


def test_sleep_makes_a_window_long_and_loses_no_row(tmp_path: Path, mlp_bundle: Bundle) -> None:
    clock = ManualClock(1_000, WALL_MS)
    with Store.open(tmp_path / "agent.db", clock=clock, row_mark=RowMark(tmp_path / "none")) as store:
        guard = Guard(mlp_bundle, store=store, clock=clock, window_seconds=300.0, threaded=False)
        for row in tabular_rows(20):
            guard.run(row[np.newaxis])
        clock.advance(8 * 3_600_000)  # the monotonic clock counts suspend
        for row in tabular_rows(20):
            guard.run(row[np.newaxis])
        guard.tick()
        for row in tabular_rows(10):
            guard.run(row[np.newaxis])
        guard.close()
        assert store.outbox_total().recorded.rows == 50
        found = store._db.execute(
            "select rows, mono from messages where kind = 'window' order by id"
        ).fetchall()
    assert found == [(40, 28_801_000), (10, 28_801_000)]
