"""A real SQLite database, migrated, for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from driftpost_aggregator.store.database import migrate, open_engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_engine(f"sqlite:///{tmp_path / 'driftpost.db'}")
    migrate(opened)
    yield opened
    opened.dispose()
