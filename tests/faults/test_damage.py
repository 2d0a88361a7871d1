"""Damaged pages cost what is on them; the file is kept, with its checksum, and the agent goes on."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from agent.clocks import ManualClock
from agent.test_store import window_body
from driftpost_agent.errors import StoreUnusable
from driftpost_agent.row_mark import RowMark
from driftpost_agent.store import Store
from driftpost_agent.store_file import PAGE_BYTES
from driftpost_models.bundle import Bundle
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sync.messages import WindowBody
from faults.books import read_books
from faults.damage import ROWS, WINDOWS, balanced, damage_pages, waiting_store


def opened(path: Path) -> Store:
    return Store.open(path, clock=ManualClock(), row_mark=RowMark(path.parent / "none"))


def test_changed_pages_cost_what_is_on_them_and_never_a_crash_loop(tmp_path: Path) -> None:
    outcome = damage_pages(tmp_path, times=6)
    assert outcome.times == 6
    assert "nothing" in outcome.twice


def test_what_can_be_read_of_a_damaged_file_is_sent_under_its_own_name(tmp_path: Path) -> None:
    path = waiting_store(tmp_path)
    before = read_books(path)
    with closing(sqlite3.connect(path)) as db:
        names = set(db.execute("select incarnation, seq from messages where status = 0").fetchall())
        (root,) = db.execute("select rootpage from sqlite_master where name = 'messages_pending'").fetchone()
    content = bytearray(path.read_bytes())
    content[(root - 1) * PAGE_BYTES : root * PAGE_BYTES] = random.Random(1).randbytes(PAGE_BYTES)
    path.write_bytes(content)
    with opened(path) as store:
        assert store.salvaged is not None
        assert store.salvaged.messages == len(names)
        assert (store.salvaged.lost_windows, store.salvaged.lost_rows) == (0, 0)
        with store.outbox_transaction() as outbox:
            total = outbox.total()
            there = set()
            while (batch := outbox.next_batch(30_000, now=0, exclude=[i for i, _ in there])) is not None:
                there |= {(row.id, (row.incarnation, row.seq)) for row in batch.rows}
        assert names <= {name for _, name in there}
        assert total.recorded.rows == before.recorded == WINDOWS * ROWS
        assert total.pending.rows == before.pending
        balanced(store)
        # Findings stood, and nobody watches on what they were about.
        assert store.finding_counts()[1] == 0


@pytest.mark.parametrize("hidden", ["the schema", "the table's root"])
def test_rows_below_a_damaged_page_are_read_from_their_own_pages(tmp_path: Path, hidden: str) -> None:
    path = waiting_store(tmp_path)
    before = read_books(path)
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("select rootpage from sqlite_master where name = 'messages'").fetchone()
    content = bytearray(path.read_bytes())
    at = 0 if hidden == "the schema" else (root - 1) * PAGE_BYTES
    content[at : at + PAGE_BYTES] = random.Random(2).randbytes(PAGE_BYTES)
    path.write_bytes(content)
    with opened(path) as store:
        assert store.salvaged is not None
        assert (store.salvaged.lost_windows, store.salvaged.lost_rows) == (0, 0)
        total = store.outbox_total()
        assert (total.pending.rows, total.acked.rows) == (before.pending, before.acked)
        balanced(store)


@pytest.mark.parametrize("byte", [0x00, 0x2C, 0xB4, 0xFF])
def test_a_schema_of_which_a_few_bytes_are_damaged_is_set_aside(tmp_path: Path, byte: int) -> None:
    path = waiting_store(tmp_path)
    before = read_books(path)
    content = path.read_bytes()
    assert content.count(b"CREATE VIEW") > 0
    path.write_bytes(content.replace(b"CREATE VIEW", b"CREATE V" + bytes([byte]) * 3))
    with opened(path) as store:
        assert store.set_aside is not None
        assert store.outbox_total().pending.rows == before.pending
        balanced(store)


def test_windows_that_were_acknowledged_do_not_come_back_from_old_pages(tmp_path: Path) -> None:
    path = waiting_store(tmp_path)
    with opened(path) as store:
        with store.outbox_transaction() as outbox:
            while (batch := outbox.next_batch(16_000, now=0)) is not None:
                outbox.acknowledge(batch.incarnation, [(row.seq, row.seq) for row in batch.rows])
        for number in range(5):
            store.record_window(window_body(number), windows=1, rows=ROWS)
        store.prune(0)
    before = read_books(path)
    content = bytearray(path.read_bytes())
    content[:PAGE_BYTES] = random.Random(2).randbytes(PAGE_BYTES)
    path.write_bytes(content)
    with opened(path) as store:
        total = store.outbox_total()
        assert total.recorded.rows == before.recorded
        assert (total.pending.rows, total.quarantined.rows) == (before.pending, 0)


def test_windows_that_were_merged_do_not_come_back_from_old_pages(tmp_path: Path, mlp_bundle: Bundle) -> None:
    path = tmp_path / "agent.db"
    accumulator = WindowAccumulator(mlp_bundle.schema)
    mark = RowMark(tmp_path / "none")
    with Store.open(path, clock=ManualClock(), row_mark=mark, outbox_bytes=20_000) as store:
        for number in range(80):
            accumulator.update(np.zeros((ROWS, len(mlp_bundle.schema.streams))))
            body = WindowBody(
                mlp_bundle.id,
                mlp_bundle.schema.id,
                number * 300_000,
                (number + 1) * 300_000,
                None,
                None,
                accumulator.take()[0].to_bytes(),
            )
            store.record_window(body, windows=1, rows=ROWS)
        assert store.outbox_pending().messages < 60, "none was merged"
    before = read_books(path)
    content = bytearray(path.read_bytes())
    content[:PAGE_BYTES] = random.Random(2).randbytes(PAGE_BYTES)
    path.write_bytes(content)
    with opened(path) as store:
        total = store.outbox_total()
        assert total.recorded.rows == before.recorded == 80 * ROWS
        assert (total.pending.rows, total.quarantined.rows) == (before.pending, 0)


def test_damage_that_shows_in_use_ends_the_agent_and_the_next_start_sets_the_file_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = waiting_store(tmp_path)
    with opened(path) as store:
        store.end_if_damaged()

        def malformed(*_: object, **__: object) -> int:
            raise sqlite3.DatabaseError("database disk image is malformed")

        monkeypatch.setattr(store.outbox, "put", malformed)
        with pytest.raises(sqlite3.DatabaseError):
            store.record_window(window_body(), windows=1, rows=1)
        with pytest.raises(StoreUnusable, match="malformed"):
            store.end_if_damaged()
    with opened(path) as store:
        assert store.set_aside is not None
        assert store.outbox_total().recorded.rows == WINDOWS * ROWS
    with opened(path) as store:
        assert store.set_aside is None


def test_a_full_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "agent.db") as store:

        def full(*_: object, **__: object) -> int:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(store.outbox, "put", full)
        with pytest.raises(sqlite3.OperationalError):
            store.record_window(window_body(), windows=1, rows=1)
        store.end_if_damaged()
