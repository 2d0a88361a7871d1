"""A kill loses the rows since the last flush, not those of the open window, and doubles none."""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.bundles import tabular_rows
from agent.clocks import ManualClock
from driftpost_agent.checks import MAX_WAITING
from driftpost_agent.guard import Guard
from driftpost_agent.open_window import OpenWindow, WaitingWindow, left_behind
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

    def cut_off(*_: object, kept: Sequence[WaitingWindow], **__: object) -> None:
        # As if the kill had come after the mark and before the commit.
        kept[0].storing(1)
        raise sqlite3.OperationalError("interrupted")

    monkeypatch.setattr(board.store, "record_window", cut_off)
    board.clock.advance(300_000)
    board.guard.tick()
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


def kept(rows: int = 5) -> WindowBody:
    return WindowBody("b" * 64, bytes(16), 1_000, 2_000, None, None, b"x" * rows)


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
    window = OpenWindow(tmp_path, 3, 7)
    window.keep(kept())
    assert window._mapping is not None
    window._mapping.close()
    file = tmp_path / "open-3"
    file.write_bytes(damage(file.read_bytes()))
    assert left_behind(tmp_path, 7, 0) == []


def test_a_kill_in_the_middle_of_a_write_leaves_the_copy_before(tmp_path: Path, mlp_bundle: Bundle) -> None:
    from driftpost_sketches.accumulator import WindowAccumulator

    accumulator = WindowAccumulator(mlp_bundle.schema)
    window = OpenWindow(tmp_path, 3, 7)
    for rows in (10, 20):
        accumulator.update(np.zeros((10, len(mlp_bundle.schema.streams))))
        packed = accumulator.so_far().to_bytes()
        window.keep(WindowBody(mlp_bundle.id, mlp_bundle.schema.id, 1_000, 2_000, None, None, packed))
        assert [one.rows for one in left_behind(tmp_path, 7, 0)] == [rows]
    # The second area's head is gone, as while it is being written.
    assert window._mapping is not None
    window._mapping[0:8] = bytes(8)
    assert [one.rows for one in left_behind(tmp_path, 7, 0)] == [10]
    assert left_behind(tmp_path, 8, 0) == [], "another incarnation's"
    window.close()


def test_without_shared_memory_nothing_is_kept_and_nothing_fails(tmp_path: Path) -> None:
    window = OpenWindow(tmp_path / "missing", 3, 7)
    window.keep(kept())
    waiting = window.closed(kept())
    assert waiting is not None
    waiting.storing(1)
    waiting.close()
    window.close()
    assert left_behind(tmp_path / "missing", 7, 0) == []


def test_of_a_window_that_was_being_closed_only_the_closed_copy_counts(
    tmp_path: Path, mlp_bundle: Bundle
) -> None:
    from driftpost_sketches.accumulator import WindowAccumulator

    accumulator = WindowAccumulator(mlp_bundle.schema)
    accumulator.update(np.zeros((10, len(mlp_bundle.schema.streams))))
    packed = accumulator.so_far().to_bytes()
    body = WindowBody(mlp_bundle.id, mlp_bundle.schema.id, 1_000, 2_000, None, None, packed)
    window = OpenWindow(tmp_path, 3, 7)
    window.keep(body)
    before = (tmp_path / "open-3").read_bytes()
    waiting = window.closed(body)
    (tmp_path / "open-3").write_bytes(before)  # a kill between the copy and the clearing
    assert [one.rows for one in left_behind(tmp_path, 7, 0)] == [10]
    assert waiting is not None
    waiting.storing(1)
    assert left_behind(tmp_path, 7, 1) == []


def test_windows_that_wait_for_a_full_disk_outlive_a_kill(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(board.store.outbox, "put", full)
    for _ in range(MAX_WAITING + 3):
        board.rows(2)
        board.clock.advance(300_000)
        board.guard.tick()
    board.rows(5)
    board.guard.tick()
    board.die()
    board.start()
    assert board.accounts() == (2 * (MAX_WAITING + 3) + 5, 0)
    ended(board)
    assert list(board.folder.glob("driftpost-*")) == []


def test_rows_are_flushed_in_time_while_the_card_takes_seconds_over_a_window(
    tmp_path: Path, mlp_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = RowMark.open(tmp_path / "agent.db", tmp_path)
    store = Store.open(tmp_path / "agent.db", clock=ManualClock(), row_mark=mark)
    busy, over = threading.Event(), threading.Event()
    record = store.record_window

    def slowly(*args: Any, **options: Any) -> None:
        busy.set()
        assert over.wait(60)
        record(*args, **options)

    monkeypatch.setattr(store, "record_window", slowly)
    guard = Guard(mlp_bundle, store=store, window_rows=20, window_seconds=3600.0, flush_seconds=0.01)
    try:
        for row in tabular_rows(20):
            guard.run(row[np.newaxis])
        assert busy.wait(30)
        for row in tabular_rows(7):
            guard.run(row[np.newaxis])
        deadline = time.monotonic() + 30
        while [one.rows for one in left_behind(mark.folder, store.incarnation, 0)] != [20, 7]:
            assert time.monotonic() < deadline, "a kill now would lose rows that were long flushed"
            time.sleep(0.01)
    finally:
        over.set()
        guard.close()
        store.close()
