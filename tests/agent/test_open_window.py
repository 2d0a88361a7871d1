"""A kill loses the rows since the last flush, not those of the open window, and doubles none."""

from __future__ import annotations

import os
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest

from agent.bundles import tabular_rows
from agent.clocks import ManualClock
from driftpost_agent.guard import Guard
from driftpost_agent.open_window import OpenWindow, left_behind
from driftpost_agent.private_windows import PrivacyPolicy
from driftpost_agent.row_mark import RowMark
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_sketches.window import Window
from driftpost_sync.messages import WindowBody


class Board:
    """A store and a guard on it that are abandoned as a kill would, and opened again."""

    def __init__(self, folder: Path, bundle: Bundle, privacy: PrivacyPolicy | None = None) -> None:
        self.folder, self.bundle, self.privacy = folder, bundle, privacy
        self.clock = ManualClock(5_000_000)
        self.store: Store
        self.guard: Guard
        self.start()

    def start(self) -> None:
        path = self.folder / "agent.db"
        mark = RowMark.open(path, self.folder)
        self.store = Store.open(path, clock=self.clock, row_mark=mark, privacy=self.privacy)
        self.guard = Guard(
            self.bundle, store=self.store, clock=self.clock, window_seconds=300.0, threaded=False
        )

    def rows(self, count: int, seed: int = 1) -> None:
        for row in tabular_rows(count, seed):
            self.guard.run(row[np.newaxis])

    def die(self) -> None:
        """Let go of everything that the kernel would take back, and of nothing else."""

        self.store._db.close()
        os.close(self.store._claim)
        self.guard.runtime.close()

    def accounts(self) -> tuple[int, int]:
        total = self.store.outbox_total()
        assert total.recorded.rows == total.acked.rows + total.pending.rows + total.quarantined.rows
        return total.recorded.rows, total.lost_rows_at_start


@pytest.fixture
def board(tmp_path: Path, mlp_bundle: Bundle) -> Board:
    return Board(tmp_path, mlp_bundle)


def ended(board: Board) -> None:
    board.guard.close()
    board.store.close()


def test_a_kill_loses_the_rows_since_the_last_flush_and_says_how_many(board: Board) -> None:
    board.rows(40)
    board.guard.tick()
    board.rows(7)
    board.die()
    board.start()
    assert board.accounts() == (40, 7)
    assert board.store.recovered_rows == 40
    connection = sqlite3.connect(board.folder / "agent.db")
    (packed,) = connection.execute("select body from messages where kind = 'window'").fetchone()
    connection.close()
    window = WindowBody.from_bytes(packed)
    assert (window.mono_start, window.bundle) == (5_000_000, board.bundle.id)
    Window.from_bytes(window.window).check(board.bundle.schema)
    ended(board)


def test_killed_again_and_again_every_row_is_recorded_or_counted_as_lost_once(board: Board) -> None:
    for _ in range(5):
        board.rows(10)
        board.guard.tick()
        board.rows(3)
        board.die()
        board.start()
    assert board.accounts() == (50, 15)
    ended(board)


def test_a_window_that_was_stored_does_not_come_back(board: Board) -> None:
    board.rows(20)
    board.guard.tick()
    board.clock.advance(300_000)
    board.guard.tick()  # stored; what was kept of it is still there
    board.die()
    board.start()
    assert board.accounts() == (20, 0)
    assert board.store.outbox_total().recorded.windows == 1
    ended(board)


def test_a_window_whose_transaction_was_cut_off_comes_back(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.rows(20)
    board.guard.tick()
    kept = board.guard._open_window
    assert kept is not None
    # As if the kill had come after the mark and before the commit.
    kept.storing(5_000_000, 1)
    board.die()
    board.start()
    assert board.accounts() == (20, 0)
    ended(board)


def test_a_transaction_that_failed_leaves_the_window_to_be_recovered(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.rows(20)
    board.guard.tick()

    def full(*_: object, **__: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(board.store.outbox, "put", full)
    board.clock.advance(300_000)
    board.guard.tick()
    assert board.guard.checks.waiting == 1
    board.die()
    board.start()
    assert board.accounts() == (20, 0)
    ended(board)


def test_a_clean_stop_leaves_nothing_in_shared_memory(board: Board) -> None:
    board.rows(20)
    board.guard.tick()
    ended(board)
    assert list(board.folder.glob("driftpost-*")) == []


def test_held_windows_take_in_what_a_kill_left_open(tmp_path: Path, mlp_bundle: Bundle) -> None:
    policy = PrivacyPolicy(epsilon_per_day=8.0, release_ms=3_600_000)
    board = Board(tmp_path, mlp_bundle, policy)
    for _ in range(3):
        board.rows(10)
        board.guard.tick()
        board.rows(2)
        board.die()
        board.start()
    held = sqlite3.connect(tmp_path / "agent.db")
    (rows,) = held.execute("select held_rows from privacy_holds").fetchone()
    held.close()
    assert rows == 30
    assert board.accounts() == (0, 6), "nothing leaves before its release, and what was lost is known"
    ended(board)


def kept(folder: Path, rows: int = 5) -> tuple[Path, WindowBody]:
    body = WindowBody("b" * 64, bytes(16), 1_000, 2_000, None, None, b"x" * rows)
    return folder / "agent.db", body


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:100],
        lambda data: bytes(len(data)),
        lambda data: data.replace(b"xxxxx", b"xxyxx"),
        lambda data: data[:32] + struct.pack("<Q", 1 << 40) + data[40:],
    ],
)
def test_what_is_damaged_in_shared_memory_is_not_believed(tmp_path: Path, damage) -> None:
    store, body = kept(tmp_path)
    window = OpenWindow.of_store(store, 3, 7, tmp_path)
    window.keep(body)
    window._mapping.close()
    file = next(tmp_path.glob("driftpost-*-open-3"))
    file.write_bytes(damage(file.read_bytes()))
    assert left_behind(store, 7, 0, tmp_path) == []


def test_a_kill_in_the_middle_of_a_write_leaves_the_copy_before(tmp_path: Path, mlp_bundle: Bundle) -> None:
    from driftpost_sketches.accumulator import WindowAccumulator

    accumulator = WindowAccumulator(mlp_bundle.schema)
    store = tmp_path / "agent.db"
    window = OpenWindow.of_store(store, 3, 7, tmp_path)
    for rows in (10, 20):
        accumulator.update(np.zeros((10, len(mlp_bundle.schema.streams))))
        packed = accumulator.so_far().to_bytes()
        window.keep(WindowBody(mlp_bundle.id, mlp_bundle.schema.id, 1_000, 2_000, None, None, packed))
        assert [one.rows for one in left_behind(store, 7, 0, tmp_path)] == [rows]
    # The second area's head is gone, as while it is being written.
    assert window._mapping is not None
    window._mapping[0:8] = bytes(8)
    assert [one.rows for one in left_behind(store, 7, 0, tmp_path)] == [10]
    assert left_behind(store, 8, 0, tmp_path) == [], "another incarnation's"
    window.close()


def test_without_shared_memory_nothing_is_kept_and_nothing_fails(tmp_path: Path) -> None:
    store, body = kept(tmp_path)
    window = OpenWindow.of_store(store, 3, 7, tmp_path / "missing")
    window.keep(body)
    window.storing(1_000, 1)
    window.close()
    assert left_behind(store, 7, 0, tmp_path / "missing") == []
