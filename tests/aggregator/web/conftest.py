"""One seeded database for the whole run; each test looks at its own copy through the real application."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.testclient import TestClient

import busy_fleet
from driftpost_aggregator.store.database import migrate, open_engine
from driftpost_aggregator.web.app import build
from driftpost_aggregator.web.options import WebOptions
from paper_fleet import FLEET, NOW

LOOPBACK = "http://127.0.0.1:8088"
AS_JSON = {"content-type": "application/json"}


@dataclass
class Dashboard:
    """The application over a seeded database.

    Attributes:
        clock_ms: What its clock shows; tests may turn it.
    """

    engine: Engine
    app: Starlette
    client: TestClient
    clock_ms: int = NOW + 1500

    @property
    def site(self):
        return self.app.state.site


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a small fleet in which camera B drifts, and one device with hostile names."""
    path = tmp_path_factory.mktemp("seeded") / "driftpost.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    busy_fleet.build(engine, devices=12, windows=42, hostile=True)
    engine.dispose()
    return path


@pytest.fixture
def engine(seeded: Path, tmp_path: Path) -> Iterator[Engine]:
    """A copy of the seeded database of one's own."""
    copy = tmp_path / "driftpost.db"
    shutil.copy(seeded, copy)
    opened = open_engine(f"sqlite:///{copy}")
    yield opened
    opened.dispose()


@pytest.fixture
def empty_engine(tmp_path: Path) -> Iterator[Engine]:
    """A database without a single row."""
    opened = open_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    migrate(opened)
    yield opened
    opened.dispose()


@pytest.fixture
def open_dashboard() -> Iterator[Callable[..., Dashboard]]:
    """Opens the application over an engine, with options."""
    with ExitStack() as stack:

        def opened(engine: Engine, options: WebOptions | None = None, base_url: str = LOOPBACK) -> Dashboard:
            options = options or WebOptions.checked(fleet=FLEET, host="127.0.0.1", port=0)
            dashboard: Dashboard
            app = build(engine, options, now_ms=lambda: dashboard.clock_ms)
            client = stack.enter_context(TestClient(app, base_url=base_url, follow_redirects=False))
            dashboard = Dashboard(engine, app, client)
            return dashboard

        yield opened


@pytest.fixture
def dashboard(engine: Engine, open_dashboard: Callable[..., Dashboard]) -> Dashboard:
    return open_dashboard(engine)


@pytest.fixture
def client(dashboard: Dashboard) -> TestClient:
    return dashboard.client


@pytest.fixture
def empty(empty_engine: Engine, open_dashboard: Callable[..., Dashboard]) -> TestClient:
    """A dashboard that has seen nothing yet."""
    return open_dashboard(empty_engine).client
