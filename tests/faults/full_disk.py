"""A disk that fills up under a real agent and empties again: a RAM disk of a few megabytes."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from agent.bundles import tabular_rows
from agent.daemons import Agent, running
from faults.books import read_books
from faults.outcome import Outcome

DISK_MB = 12
RESERVE_MB = 1
WINDOW_S = 0.2
# Windows that come in two rounds of the supervisor, which tells of the trouble.
LONG = 6


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A RAM disk of its own at `folder`; skips where it may not be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "driftpost-test", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a file system can't be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take all the room that is left."""
    with (folder / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def fill_the_disk(folder: Path, bundles: Path, times: int) -> Outcome:
    """Fill the disk `times` times under load until nothing can be written, then free it.

    Args:
        folder: for the agent's files.
        bundles: has mlp.bundle and team.pub.
        times: how often.
    """
    outcome = Outcome("disk full to the last byte", times)
    rows = tabular_rows(4)
    with small_disk(folder / "state") as disk:
        store = disk / "agent.db"
        with running(
            folder,
            bundles / "mlp.bundle",
            bundles / "team.pub",
            windows={"seconds": WINDOW_S, "flush_seconds": 0.1},
            store={"path": store, "reserve_mb": RESERVE_MB},
        ) as agent:
            answered = 0
            for _ in range(times):
                agent.wait((disk / "reserve").exists, "room is held back")
                deadline = time.monotonic() + 60
                while not _in_memory(agent):
                    assert time.monotonic() < deadline
                    fill(disk)
                    answered += _ask(agent, rows)
                # It goes on guarding meanwhile.
                waiting = agent.status()["windows"]["waiting_for_store"]
                while agent.status()["windows"]["waiting_for_store"] < waiting + LONG:
                    fill(disk)  # what the reserve gave back
                    answered += _ask(agent, rows)
                freed = time.monotonic()
                (disk / "filler").unlink()
                agent.wait(lambda: not _in_memory(agent), "what waited is stored", 60)
                outcome.recovery_s.append(time.monotonic() - freed)
                agent.wait((disk / "reserve").exists, "room is held back again", 60)
            agent.stop()
        with closing(sqlite3.connect(store)) as db:
            told = db.execute("select kind, state from finding_log where source = 'runtime'").fetchall()
        assert told.count(("store_unwritable", "raised")) >= times
        # How long it was merely short depends on how fast it filled.
        for kind in ("store_unwritable", "disk_short"):
            assert told.count((kind, "raised")) == told.count((kind, "cleared"))
        books = read_books(store)
        assert (books.recorded, books.lost) == (answered, 0)
    outcome.notes = (
        "the reserve is given up, windows become coarser, then wait in memory; findings say so, and clear "
        "by themselves when there is room"
    )
    return outcome


def _ask(agent: Agent, rows: np.ndarray) -> int:
    assert agent.infer("mlp", "x", rows)[0] == 200
    time.sleep(0.02)
    return len(rows)


def _in_memory(agent: Agent) -> bool:
    """Whether windows wait because they can't be written; one that is just being written is no trouble."""
    status = agent.status()
    return bool(status["store"]["problem"]) and bool(status["windows"]["waiting_for_store"])
