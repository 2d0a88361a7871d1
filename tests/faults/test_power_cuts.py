"""The store opens from whatever a power cut leaves of its files."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from faults.power_cuts import cut_the_power
from faults.recording_vfs import recording


def test_the_recording_holds_what_sqlite_wrote(tmp_path: Path) -> None:
    with recording() as recorded, closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("create table t (x)")
        connection.execute("insert into t values ('remarkable')")
        connection.commit()
    file = bytearray()
    for event in recorded.events:
        if event.file == "a.db" and event.kind == "write":
            file[event.offset : event.offset + len(event.data)] = event.data
    assert bytes(file) == (tmp_path / "a.db").read_bytes()
    assert any(event.kind == "sync" for event in recorded.events)
    before = len(recorded.events)
    with closing(sqlite3.connect(tmp_path / "b.db")) as connection:
        connection.execute("create table t (x)")
    assert len(recorded.events) == before, "the shim is gone"


@pytest.mark.parametrize("synchronous", ["full", "normal"])
def test_after_a_power_cut_the_store_opens_and_has_all_that_it_promised(
    tmp_path: Path, synchronous: str
) -> None:
    outcome = cut_the_power(tmp_path, synchronous, cuts=15)
    assert outcome.times == 45
    assert outcome.twice == "nothing"
