"""As the disk fills up: the reserve, coarser windows, memory, findings that say so, and all the way back."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clocks import ManualClock
from driftpost_agent.disk_room import DISK_SHORT, STORE_UNWRITABLE, DiskRoom, free_bytes, reserve_file
from driftpost_agent.row_mark import RowMark
from driftpost_agent.runtime_findings import RuntimeFindings
from driftpost_agent.store import Store

MIB = 1 << 20
FULL = "database or disk is full"


class Disk:
    """A disk whose free room is set by hand; the reserve takes its part of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.size = 100 * MIB

    def free(self, folder: Path) -> int:
        file = reserve_file(folder)
        return self.size - (file.stat().st_size if file.exists() else 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    path = tmp_path / "state" / "agent.db"
    clock = ManualClock()
    with Store.open(
        path, clock=clock, random=random.Random(7), row_mark=RowMark(tmp_path / "none")
    ) as opened:
        yield opened


@pytest.fixture
def disk(store: Store) -> Disk:
    return Disk(store.path.parent)


def room(store: Store, disk: Disk, reserve: int = 4 * MIB) -> DiskRoom:
    findings = RuntimeFindings(store, ManualClock())
    return DiskRoom(store, disk.folder, reserve, findings, disk.free)


def told(store: Store) -> list[tuple[str, str]]:
    with store.lock:
        return store._db.execute("select kind, state from finding_log order by id").fetchall()


def test_room_is_held_back_while_there_is_enough_of_it(store: Store, disk: Disk) -> None:
    room(store, disk).look("")
    assert reserve_file(disk.folder).stat().st_size == 4 * MIB
    assert told(store) == []


def test_the_file_really_takes_its_room(store: Store) -> None:
    before = free_bytes(store.path.parent)
    if before < 64 * MIB:
        pytest.skip("there is no room here to hold back")
    DiskRoom(store, store.path.parent, 4 * MIB, RuntimeFindings(store, ManualClock())).look("")
    assert reserve_file(store.path.parent).stat().st_blocks * 512 >= 4 * MIB


def test_on_a_short_disk_windows_become_coarser_and_a_finding_says_so_until_it_is_over(
    store: Store, disk: Disk
) -> None:
    watched = room(store, disk)
    watched.look("")
    full_size = store._outbox_bytes
    disk.size = 5 * MIB
    watched.look("")
    assert watched.short
    assert store._outbox_bytes < full_size
    assert told(store) == [(DISK_SHORT, "raised")]
    disk.size = 7 * MIB  # between the two marks: no flapping
    watched.look("")
    assert watched.short
    disk.size = 50 * MIB
    watched.look("")
    assert not watched.short
    assert store._outbox_bytes == full_size
    assert told(store) == [(DISK_SHORT, "raised"), (DISK_SHORT, "cleared")]


@pytest.mark.parametrize("problem", [FULL, "disk I/O error"])
def test_a_full_disk_gets_the_reserve_and_takes_it_back_when_there_is_room(
    store: Store, disk: Disk, problem: str
) -> None:
    watched = room(store, disk)
    watched.look("")
    disk.size = 4 * MIB
    watched.look(problem)
    assert not reserve_file(disk.folder).exists()
    assert told(store) == [(STORE_UNWRITABLE, "raised")]
    watched.look("")
    assert ("disk_short", "raised") in told(store)
    assert told(store)[-1] == (STORE_UNWRITABLE, "cleared")
    disk.size = 50 * MIB
    watched.look("")
    assert watched.reserved
    assert told(store)[-1] == (DISK_SHORT, "cleared")


def test_what_could_not_be_stored_meanwhile_is_told_afterwards(
    store: Store, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = room(store, disk)

    def refused(*_: object, **__: object) -> int:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    with monkeypatch.context() as patch:
        patch.setattr(store, "record_finding", refused)
        for _ in range(3):
            watched.look("attempt to write a readonly database")
        assert told(store) == []
    assert watched.reserved is False
    watched.look("")
    told_now = told(store)
    assert told_now == [(STORE_UNWRITABLE, "raised"), (STORE_UNWRITABLE, "cleared")] or told_now[:2] == [
        (STORE_UNWRITABLE, "raised"),
        (STORE_UNWRITABLE, "cleared"),
    ]
    (text,) = store._db.execute("select text from finding_log order by id limit 1").fetchone()
    assert "waited in memory: attempt to write a readonly database" in text


def test_without_a_reserve_nothing_is_held_back_and_a_full_disk_is_still_told(
    store: Store, disk: Disk
) -> None:
    watched = room(store, disk, reserve=0)
    watched.look("")
    assert not reserve_file(disk.folder).exists()
    watched.look(FULL)
    assert told(store) == [(STORE_UNWRITABLE, "raised")]
    watched.look("")
    assert told(store)[-1] == (STORE_UNWRITABLE, "cleared")
    assert not watched.short


def test_a_disk_that_can_not_be_asked_changes_nothing(store: Store, tmp_path: Path) -> None:
    def gone(_: Path) -> int:
        raise OSError("no such disk")

    watched = DiskRoom(store, tmp_path, MIB, RuntimeFindings(store, ManualClock()), gone)
    watched.look(FULL)
    assert told(store) == []
