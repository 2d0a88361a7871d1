"""Rows are read from the pages of a SQLite file as SQLite itself reads them, and rubbish is left alone."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from driftpost_agent.page_reader import Pages

PAGE_BYTES = 512


def values(draw: random.Random) -> tuple[object, ...]:
    number = draw.choice([0, 1, -1, draw.getrandbits(draw.randint(1, 63)), -draw.getrandbits(50), None])
    return (
        number,
        draw.choice([0.5, -1e300, None]),
        "é" * draw.randint(0, 900),
        draw.randbytes(draw.choice([0, 3, 400, 480, 5_000])),
    )


def filled(path: Path, connection: sqlite3.Connection, rows: int = 200) -> dict[int, list[object]]:
    connection.execute(f"pragma page_size = {PAGE_BYTES}")
    connection.execute("pragma auto_vacuum = incremental")
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table kept (id integer primary key, a, b, c, d)")
    draw = random.Random(3)
    for _ in range(rows):
        connection.execute("insert into kept (a, b, c, d) values (?, ?, ?, ?)", values(draw))
    connection.execute("delete from kept where id % 3 = 0")
    connection.commit()
    return {row[0]: [None, *row[1:]] for row in connection.execute("select * from kept")}


def read(path: Path) -> dict[int, list[object]]:
    return {row: list(found) for row, found in Pages(path, PAGE_BYTES).rows() if len(found) == 5 and row >= 0}


@pytest.mark.parametrize("folded", [True, False])
def test_every_row_is_read_from_the_file_or_its_log(tmp_path: Path, folded: bool) -> None:
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path)) as connection:
        expected = filled(path, connection)
        if folded:
            connection.execute("pragma wal_checkpoint(truncate)")
        found = read(path)
        # The schema's own rows have five columns as well.
        assert {row: found[row] for row in expected} == expected


def test_rows_of_pages_that_were_given_back_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path)) as connection:
        filled(path, connection)
        connection.execute("delete from kept")
        connection.commit()
    assert not [found for _, found in Pages(path, PAGE_BYTES).rows() if found[0] is None]


def test_rows_that_are_not_committed_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path)) as connection:
        expected = filled(path, connection)
        connection.execute("pragma cache_size = 1")
        connection.execute("update kept set a = 'changed', d = zeroblob(2000)")
        found = read(path)
        assert {row: found[row] for row in expected} == expected
        connection.rollback()


@pytest.mark.parametrize("seed", range(20))
def test_rubbish_ends_in_bounded_time_and_never_in_an_error(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path)) as connection:
        filled(path, connection, rows=40)
        connection.execute("pragma wal_checkpoint(truncate)")
    draw = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(len(content) // 20):
        content[draw.randrange(len(content))] = draw.choice([0, 13, 255, draw.randrange(256)])
    path.write_bytes(content[: draw.randint(len(content) // 2, len(content))])
    path.with_name("some.db-wal").write_bytes(draw.randbytes(3_000))
    assert len(list(Pages(path, PAGE_BYTES).rows())) < 10_000


@pytest.mark.parametrize("content", [b"", b"x", bytes(511), bytes(512), b"\xff" * 5000])
def test_a_file_that_is_no_database_has_no_rows(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.db"
    path.write_bytes(content)
    assert list(Pages(path, PAGE_BYTES).rows()) == []
    path.unlink()
    assert list(Pages(path, PAGE_BYTES).rows()) == []
