from __future__ import annotations

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, func, select, text

from driftpost_aggregator.errors import DatabaseUnusable
from driftpost_aggregator.store.database import (
    migrate,
    open_engine,
    reading,
    schema_version,
    upsert,
    writing,
)
from driftpost_aggregator.store.migrations import versions
from driftpost_aggregator.store.tables import device_attributes, metadata

REVISIONS = sorted(path.name[1:5] for path in Path(versions.__file__).parent.glob("r[0-9]*.py"))


def test_migrating_an_empty_database_makes_exactly_the_declared_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    # Partial indexes are compared by name and columns only; everything else must be equal.
    assert differences == []


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    assert migrate(engine) == []
    assert schema_version(engine) == REVISIONS[-1]


def test_a_database_of_a_newer_release_is_refused_with_what_to_do(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseUnusable, match=r"newer than this program.* install the driftpost version"):
        migrate(engine)


def test_two_programs_that_start_together_migrate_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    applied: list[list[str]] = []
    barrier = threading.Barrier(4)

    def start() -> None:
        engine = open_engine(url)
        barrier.wait(10)
        applied.append(migrate(engine))
        engine.dispose()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(applied) == [[], [], [], REVISIONS]


def test_sqlite_commits_survive_a_power_cut_and_readers_do_not_wait(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    with writing(engine) as writer:
        upsert(writer, device_attributes, [{"device": "d", "key": "k", "value": "v"}])
        with reading(engine) as reader:
            assert reader.execute(select(func.count()).select_from(device_attributes)).scalar() == 0


def test_many_writers_take_turns_instead_of_failing(engine: Engine) -> None:
    def write(name: str) -> None:
        for number in range(20):
            with writing(engine) as connection:
                count = connection.execute(select(func.count()).select_from(device_attributes)).scalar_one()
                upsert(
                    connection, device_attributes, [{"device": name, "key": str(number), "value": str(count)}]
                )

    threads = [threading.Thread(target=write, args=(f"d{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with reading(engine) as connection:
        values = {int(value) for value in connection.execute(select(device_attributes.c.value)).scalars()}
    # Each writer saw what all before it had committed.
    assert values == set(range(80))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "check database.url"),
        ("mysql://u:hidden@h/db", "neither SQLite nor PostgreSQL"),
        ("sqlite:////nowhere/at/all/x.db", "folder exists"),
    ],
)
def test_an_unusable_database_says_why_and_hides_the_password(url: str, words: str) -> None:
    with pytest.raises(DatabaseUnusable, match=words) as caught:
        open_engine(url)
    assert "hidden" not in str(caught.value)


def test_upserting_replaces_or_keeps_as_asked(engine: Engine) -> None:
    def value() -> str:
        with reading(engine) as connection:
            return connection.execute(select(device_attributes.c.value)).scalar_one()

    for word, keep in (("first", False), ("second", True), ("third", False)):
        with writing(engine) as connection:
            upsert(connection, device_attributes, [{"device": "d", "key": "k", "value": word}], keep=keep)
        assert value() == ("first" if word != "third" else "third")
