"""A real SQLite database, migrated, for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from driftpost_aggregator.store.database import migrate, open_engine


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of the newest schema, to be copied."""
    path = tmp_path_factory.mktemp("template") / "driftpost.db"
    opened = open_engine(f"sqlite:///{path}")
    migrate(opened)
    opened.dispose()
    return path


@pytest.fixture
def engine(tmp_path: Path, migrated_file: Path) -> Iterator[Engine]:
    path = tmp_path / "driftpost.db"
    shutil.copyfile(migrated_file, path)
    opened = open_engine(f"sqlite:///{path}")
    yield opened
    opened.dispose()
