"""A device's page says how its board fares."""

from __future__ import annotations

from sqlalchemy import insert
from starlette.testclient import TestClient

from driftpost_aggregator.store.database import writing
from driftpost_aggregator.store.tables import boards


def test_a_devices_page_has_its_boards_latest_report(dashboard) -> None:
    client: TestClient = dashboard.client
    assert "board-title" not in client.get("/devices/meter-00001").text
    readings = {
        "temperature": [71.5, 40.25, 55.0, 84.0],
        "undervoltage": [0.0, 0.0, 0.1, 1.0],
        "<b>": [1.0] * 4,
    }
    with writing(dashboard.engine) as connection:
        connection.execute(
            insert(boards).values(
                device="meter-00001",
                incarnation=1,
                seq=1,
                at_ms=dashboard.clock_ms - 60_000,
                span_ms=3_600_000,
                readings=readings,
            )
        )
    page = client.get("/devices/meter-00001").text
    card = page[page.index("board-title") :]
    assert "temperature, degC" in card
    assert "71.5" in card
    assert "84" in card
    assert card.count('<span class="tag bad">seen</span>') == 1
    assert "<b></td>" not in card
    assert "&lt;b&gt;" in card
