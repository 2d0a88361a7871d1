"""Health for load balancers, totals for Prometheus."""

from __future__ import annotations

import re

from starlette.testclient import TestClient

from driftpost_aggregator.store.database import writing
from driftpost_aggregator.web.metrics import exposition
from driftpost_aggregator.web.queries.fleet import Coverage, Totals

SAMPLE = re.compile(
    r'driftpost_[a-z_]+\{[a-z]+="(?:[^"\\\n]|\\.)*"(?:,[a-z]+="(?:[^"\\\n]|\\.)*")*\} -?[0-9.e+]+'
)


def test_metrics_are_in_the_text_format_and_equal_the_fleets_totals(client: TestClient) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    for line in lines:
        assert line.startswith(("# HELP driftpost_", "# TYPE driftpost_")) or SAMPLE.fullmatch(line), line
    assert 'driftpost_devices{fleet="meters",state="online"} 11' in lines
    assert 'driftpost_incidents{fleet="meters",scope="cohort",state="open"} 1' in lines
    assert 'driftpost_devices_drifting{fleet="meters"} 5' in lines
    recorded = client.get("/api/v1/coverage").json()["recorded_rows"]
    assert f'driftpost_ledger_rows{{fleet="meters",state="recorded"}} {recorded}' in lines


def test_every_family_is_declared_once_before_its_samples(client: TestClient) -> None:
    declared: list[str] = []
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("# TYPE "):
            declared.append(line.split()[2])
        elif not line.startswith("#"):
            assert line.split("{")[0] == declared[-1]
    assert len(declared) == len(set(declared))


def test_a_fleets_name_can_not_break_the_format() -> None:
    totals = Totals(0, 0, 0, 0, 0, {}, {}, 0, Coverage(*[0] * 11))
    for line in exposition('a"} 1\nevil{x="\\', totals, 0).splitlines():
        assert line.startswith("#") or SAMPLE.fullmatch(line), line


def test_health_says_whether_the_database_answers(dashboard, monkeypatch) -> None:
    assert dashboard.client.get("/health").json() == {"status": "ok"}
    with writing(dashboard.engine):
        assert dashboard.client.get("/health").status_code == 200, "a writer does not stop readers"


def test_health_is_503_without_the_database(dashboard) -> None:
    path = dashboard.engine.url.database
    dashboard.engine.dispose()
    from pathlib import Path

    Path(path).unlink()
    Path(path).mkdir()
    answer = dashboard.client.get("/health")
    assert answer.status_code == 503
    assert "database" in answer.json()["status"]
