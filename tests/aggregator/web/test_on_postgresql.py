"""The same pages and the same API over PostgreSQL: what they tell does not depend on the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine

import busy_fleet
from busy_fleet import BUNDLE
from driftpost_aggregator.store.database import migrate, open_engine
from postgresql import running_postgresql

ADDRESSES = [
    "/api/v1/fleet",
    "/api/v1/coverage",
    "/api/v1/devices",
    "/api/v1/devices?state=drifting",
    "/api/v1/devices?state=offline&limit=2",
    "/api/v1/devices?prefix=meter-0000&attribute=camera%3DB",
    "/api/v1/devices?prefix=METER",
    "/api/v1/devices?prefix=%25",
    f"/api/v1/devices?bundle={BUNDLE}",
    "/api/v1/devices/meter-00001",
    "/api/v1/findings?limit=3",
    "/api/v1/incidents?state=all",
    "/api/v1/incidents/inc-1",
    "/api/v1/incidents/inc-1/devices",
    "/api/v1/requests",
    "/api/v1/requests?order=priority",
    "/api/v1/labels?state=done",
    "/api/v1/labels/lp-0001",
    "/api/v1/alerts?state=pending",
    "/api/v1/quarantine",
    f"/api/v1/streams/{BUNDLE}/image.brightness?scope=cohort&key=camera%3DB",
    "/charts/fleet?rows=devices&span=1h",
    "/charts/fleet?rows=cohorts",
    "/charts/devices/meter-00001/evidence",
    "/charts/devices/meter-00001/streams?span=30d",
    "/charts/incidents/inc-1/image.brightness",
]
PAGES = [
    "/",
    "/labels",
    "/alerts",
    "/requests/req-0001",
    "/devices",
    "/devices/meter-00001",
    "/incidents",
    "/incidents/inc-1",
    "/streams",
    "/requests",
    "/quarantine",
]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Engine]:
    with running_postgresql() as url:
        engine = open_engine(url)
        migrate(engine)
        busy_fleet.build(engine, devices=12, windows=42, hostile=True)
        yield engine
        engine.dispose()


def walked(client, address: str) -> list[object]:
    """Answers of an address and, of a list, of every page after it."""
    answers = []
    cursor = ""
    while True:
        answer = client.get(f"{address}{cursor}")
        assert answer.status_code == 200, answer.text
        answers.append(answer.json())
        following = answers[-1].get("next")
        if not following:
            return answers
        cursor = f"{'&' if '?' in address else '?'}cursor={following}"


@pytest.mark.parametrize("address", ADDRESSES)
def test_both_databases_tell_the_same(
    dashboard, postgresql: Engine, open_dashboard: Callable, address: str
) -> None:
    other = open_dashboard(postgresql)
    assert walked(other.client, address) == walked(dashboard.client, address)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_drawn(postgresql: Engine, open_dashboard: Callable, page: str) -> None:
    assert open_dashboard(postgresql).client.get(page).status_code == 200


def test_the_live_watcher_reads_its_stamps(postgresql: Engine, open_dashboard: Callable) -> None:
    site = open_dashboard(postgresql).site
    assert site.watcher._read() == site.watcher._read()
