"""Rows that a kill loses are counted, without writing to the card."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.clocks import ManualClock
from agent.test_store import window_body
from driftpost_agent.row_mark import RowMark
from driftpost_agent.store import Store


def opened(folder: Path) -> Store:
    mark = RowMark.open(folder / "agent.db", folder)
    return Store.open(folder / "agent.db", clock=ManualClock(), row_mark=mark)


def test_rows_in_no_stored_window_are_lost_rows_of_the_next_start(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.row_mark.add(40)
    store.record_window(window_body(), windows=1, rows=30)
    store.close()
    store = opened(tmp_path)
    assert store.outbox_ledger().lost_rows_at_start == 10
    store.close()
    store = opened(tmp_path)
    assert store.outbox_ledger().lost_rows_at_start == 0
    assert store.outbox_total().lost_rows_at_start == 10
    store.close()


def test_when_every_row_is_stored_no_mark_is_left_behind(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.row_mark.add(30)
    store.record_window(window_body(), windows=1, rows=30)
    store.close()
    assert list(tmp_path.glob("driftpost-*")) == []


def test_a_mark_speaks_only_of_its_own_incarnation(tmp_path: Path) -> None:
    mark = RowMark.open(tmp_path / "agent.db", tmp_path)
    mark.begin(7)
    mark.add(5)
    assert mark.rows_of(7) == 5
    assert mark.rows_of(8) == 0
    mark.close()


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 24, b"x" * 5000])
def test_another_file_in_its_place_says_nothing(tmp_path: Path, content: bytes) -> None:
    RowMark.open(tmp_path / "agent.db", tmp_path).close()
    file = next(tmp_path.glob("driftpost-*/rows"))
    file.write_bytes(content)
    mark = RowMark.open(tmp_path / "agent.db", tmp_path)
    assert mark.rows_of(int.from_bytes(content[8:16], "little")) == 0
    mark.close()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    RowMark.open(tmp_path / "agent.db", tmp_path).close()
    file = next(tmp_path.glob("driftpost-*/rows"))
    file.unlink()
    (tmp_path / "precious").write_text("keep this")
    file.symlink_to(tmp_path / "precious")
    mark = RowMark.open(tmp_path / "agent.db", tmp_path)
    mark.begin(7)
    mark.add(3)
    mark.close()
    assert (tmp_path / "precious").read_text() == "keep this"


def test_without_shared_memory_rows_are_counted_and_forgotten(tmp_path: Path) -> None:
    mark = RowMark.open(tmp_path / "agent.db", tmp_path / "nowhere")
    mark.begin(7)
    mark.add(3)
    assert mark.rows_of(7) == 3
    mark.close()
