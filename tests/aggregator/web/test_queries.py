"""Queries stay bounded and on their indexes, and say what the database says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, event, insert, select, text
from starlette.testclient import TestClient

from busy_fleet import BUNDLE, TRACKED, WINDOW_MS
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.web.queries import devices, series
from driftpost_aggregator.web.queries.devices import DeviceFilter, after_prefix
from driftpost_sketches.window import MAX_COUNT, Window
from paper_fleet import NOW, draw, make_bundle

# Tables that grow with the fleet or with time: no page may walk one of them from end to end.
LARGE = ("devices", "device_attributes", "windows", "rollups", "findings", "incident_devices", "quarantine")
# Totals do, at most every two seconds for everybody together, and so does the choice of what a map shows.
# What goes wrong now is summed up over the newest rows.
SHARED_SCANS = (
    "SELECT count(*) AS devices, coalesce(sum(",
    "SELECT count(distinct(ledgers.device))",
    "AS coalesce_10 FROM ledgers",
    "coalesce(devices.evidence",
    "FROM quarantine ORDER BY quarantine.id DESC LIMIT ? OFFSET ?) AS anon_1",
)
# Walking this one is walking what stands.
STANDING = "USING INDEX ix_findings_standing"
ADDRESSES = [
    "/devices",
    "/devices?state=online",
    "/devices?state=offline",
    "/devices?state=drifting",
    "/devices?prefix=meter-00",
    "/devices?attribute=camera%3DB",
    f"/devices?bundle={BUNDLE}",
    "/devices/meter-00001",
    "/incidents",
    "/incidents?state=all",
    "/incidents/inc-1",
    "/streams",
    f"/streams/{BUNDLE}/image.brightness?scope=cohort&key=camera%3DB",
    "/requests",
    "/quarantine",
    "/quarantine?device=meter-00000",
    "/api/v1/findings",
    "/api/v1/findings?device=meter-00001",
    "/api/v1/findings?incident=inc-1",
    "/charts/fleet?rows=devices",
    "/charts/fleet?rows=cohorts",
    "/charts/devices/meter-00001/evidence",
    "/charts/devices/meter-00001/streams",
    "/charts/incidents/inc-1/image.brightness",
    f"/charts/streams/{BUNDLE}/course/image.brightness",
]


@contextmanager
def statements(engine: Engine) -> Iterator[list[tuple[str, object]]]:
    """What is sent to the database meanwhile."""
    sent: list[tuple[str, object]] = []

    def note(_connection, _cursor, statement: str, parameters: object, *_rest: object) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def plan(connection: Connection, statement: str, parameters: object) -> list[str]:
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    return [row[-1] for row in rows]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_page_walks_a_large_table(dashboard, address: str) -> None:
    with statements(dashboard.engine) as sent:
        assert dashboard.client.get(address).status_code == 200
    walks = []
    with reading(dashboard.engine) as connection:
        for statement, parameters in sent:
            if any(shared in " ".join(statement.split()) for shared in SHARED_SCANS):
                continue
            steps = plan(connection, statement, parameters)
            # A walk along an index in the order that is asked for ends at the LIMIT, whatever breaks ties.
            sorts = [
                step for step in steps if "TEMP B-TREE" in step and not re.search("LAST|RIGHT PART", step)
            ]
            ordered = "LIMIT" in statement and not sorts
            walks += [
                (step, statement)
                for step in steps
                if re.match(rf"SCAN ({'|'.join(LARGE)})\b", step)
                and not (ordered or "COVERING INDEX" in step or STANDING in step)
            ]
    assert walks == []


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_query_is_bounded(dashboard, address: str) -> None:
    with statements(dashboard.engine) as sent:
        assert dashboard.client.get(address).status_code == 200
    assert sent
    for statement, _ in sent:
        flat = " ".join(statement.split())
        bounded = (
            " LIMIT " in flat
            or re.match(r"SELECT (count|coalesce|max|min)\(", flat)
            or " IN (" in flat
            or re.search(r"WHERE \w+\.(device|bundle|incident|request) = \?", flat)
            or "GROUP BY incidents.scope, incidents.state" in flat
            or "GROUP BY retrain_requests.state" in flat
            or "SELECT DISTINCT rollups.bucket_s" in flat
        )
        assert bounded, flat


def test_a_page_costs_a_fixed_number_of_queries(dashboard) -> None:
    counts = []
    for limit in (1, 12):
        with statements(dashboard.engine) as sent:
            assert dashboard.client.get(f"/devices?limit={limit}").status_code == 200
        counts.append(len(sent))
    assert counts[1] <= counts[0]


@pytest.mark.parametrize(
    ("prefix", "end"),
    [("a", "b"), ("az", "a{"), ("a\U0010ffff", "b"), ("\U0010ffff", None), ("\ud7ff", "\ue000"), ("", None)],
)
def test_the_end_of_a_prefix_is_the_next_text(prefix: str, end: str | None) -> None:
    assert after_prefix(prefix) == end
    if end is not None:
        assert prefix < prefix + "zzz" < end


def test_devices_to_look_at_first_are_some_of_every_incident(engine: Engine) -> None:
    with reading(engine) as connection:
        first = devices.most_suspicious(connection, 6)
        assert set(first[:5]) == {f"meter-{index:05d}" for index in (0, 1, 4, 7, 10)}
        assert len(first) == 6
        evidence = {
            device.device: device.evidence or -1.0 for device in devices.devices_named(connection, first)
        }
        everyone = devices.list_devices(connection, DeviceFilter(), limit=50).items
        calm = [device.evidence or -1.0 for device in everyone if not device.standing]
        assert evidence[first[5]] == max(calm)
        assert len(devices.most_suspicious(connection, 500)) == 13


def test_of_a_crowded_incident_only_a_few_devices_are_shown_first(engine: Engine) -> None:
    with writing(engine) as connection:
        row = dict(connection.execute(select(tables.findings)).mappings().first())
        for index in range(60):
            row |= {"device": f"crowd-{index:03d}", "incident": "inc-crowd", "log_e": 50.0 + index}
            connection.execute(insert(tables.findings).values(**row))
    with reading(engine) as connection:
        first = devices.most_suspicious(connection, 20)
    crowd = [name for name in first if name.startswith("crowd")]
    assert crowd == [f"crowd-{index:03d}" for index in range(59, 51, -1)]
    assert "meter-00000" in first, "the other incidents keep their place"


def test_the_coarsest_bucket_that_still_shows_the_course_is_taken() -> None:
    assert series.fitting_length([], 3600) is None
    assert series.fitting_length([300], 60) == 300
    assert series.fitting_length([300, 3600, 86_400], 6 * 3600) == 300
    assert series.fitting_length([300, 3600, 86_400], 24 * 3600) == 3600
    assert series.fitting_length([300, 3600, 86_400], 30 * 86_400) == 86_400


def test_a_long_span_shows_in_full_at_a_bounded_cost(engine: Engine) -> None:
    """A fortnight of five-minute buckets, in a hundred points made of a thousand windows."""
    days = 14
    rollup = tables.rollups
    with writing(engine) as connection:
        row = dict(connection.execute(select(rollup).where(rollup.c.scope == "fleet")).mappings().first())
        first = NOW // 300_000 * 300_000 - days * 86_400_000
        rows = [row | {"bundle": "old", "bucket_start_ms": first + 300_000 * n} for n in range(days * 288)]
        connection.execute(insert(rollup), rows)
    with statements(engine) as sent, reading(engine) as connection:
        found = series.course(connection, "fleet", "", "old", from_ms=0, to_ms=NOW)
        near = series.course(connection, "fleet", "", "old", from_ms=NOW - 3_600_000, to_ms=NOW)
    assert 100 <= len(found) <= series.MAX_POINTS + 1
    assert found[0].start_ms <= first < found[1].start_ms
    assert found[-1].start_ms + found[-1].bucket_s * 1000 > NOW - 3_600_000
    assert [point.start_ms for point in found] == sorted({point.start_ms for point in found})
    assert sum(point.window.parts for point in found) // row["parts"] < 1000
    assert all(point.rows == point.window.rows for point in found)
    assert 12 <= len(near) <= 14, "a short span keeps every bucket"
    assert {point.bucket_s for point in near} == {300}
    assert len(sent) < 10


def test_points_are_the_newest_of_the_span_oldest_first(engine: Engine) -> None:
    with reading(engine) as connection:
        every = series.points(connection, "fleet", "", BUNDLE, from_ms=0, to_ms=NOW)
        few = series.points(connection, "fleet", "", BUNDLE, from_ms=0, to_ms=NOW, most=3)
        assert [point.start_ms for point in every] == sorted(point.start_ms for point in every)
        assert [point.start_ms for point in few] == [point.start_ms for point in every[-3:]]
        assert series.points(connection, "cohort", "no=such", BUNDLE, from_ms=0, to_ms=NOW) == []


def test_windows_merged_over_cohorts_of_one_attribute_equal_the_fleet(engine: Engine) -> None:
    def total(connection: Connection, scope: str, key: str) -> Window:
        found = series.points(connection, scope, key, BUNDLE, from_ms=0, to_ms=NOW)
        return series.merged([point.window for point in found])

    with reading(engine) as connection:
        fleet = total(connection, "fleet", "")
        cameras = [total(connection, "cohort", f"camera={camera}") for camera in "ABC"]
    assert series.merged(cameras) == fleet
    assert series.merged([]) is None


def test_what_began_within_a_bucket_leaves_that_bucket_out_once_there_are_others(engine: Engine) -> None:
    with reading(engine) as connection:
        found = series.points(connection, "fleet", "", BUNDLE, from_ms=0, to_ms=NOW)
    middle = found[-3].start_ms + 1
    assert series.since(found, middle) == [point.window for point in found[-2:]]
    assert series.since(found, NOW * 2) == [found[-1].window]


def test_evidence_is_the_last_of_every_cell(engine: Engine) -> None:
    with reading(engine) as connection:
        rows = connection.execute(
            text("SELECT start_ms FROM windows WHERE device = 'meter-00001' ORDER BY start_ms")
        ).scalars()
        starts = list(rows)
        fine = series.evidence(
            connection, ["meter-00001"], from_ms=starts[0], cell_ms=WINDOW_MS, cells=len(starts)
        )
        coarse = series.evidence(
            connection, ["meter-00001"], from_ms=starts[0], cell_ms=7 * WINDOW_MS, cells=6
        )
    assert [one.start_ms for one in fine] == starts
    assert all(one.values.size == TRACKED for one in fine)
    assert [one.start_ms for one in coarse] == starts[6::7]


def test_evidence_that_is_no_number_counts_as_none() -> None:
    values = np.array([np.nan, -np.inf, 3.0], dtype=np.float16)
    assert series.Evidence("d", 0, 1, "b", values).largest == 3.0
    assert series.Evidence("d", 0, 1, "b", values[:2]).largest == 0.0
    assert np.isfinite(series.Evidence("d", 0, 1, "b", np.array([np.inf], np.float16)).largest)


def test_a_thousand_lying_devices_do_not_overflow_the_totals(dashboard) -> None:
    most = (1 << 53) - 1
    with writing(dashboard.engine) as connection:
        row = dict(connection.execute(select(tables.ledgers)).mappings().first())
        lies = {name: most for name in row if name.endswith(("_windows", "_rows"))}
        rows = [row | lies | {"device": f"liar-{n}"} for n in range(1100)]
        connection.execute(insert(tables.ledgers), rows)
    assert dashboard.client.get("/").status_code == 200
    assert dashboard.client.get("/api/v1/coverage").json()["recorded_rows"] > 2**63
    assert dashboard.client.get("/api/v1/coverage?device=meter-00001").json()["recorded_rows"] < 10_000


def test_menus_count_devices_by_attribute(engine: Engine, client: TestClient) -> None:
    with reading(engine) as connection:
        menus = devices.attribute_choices(connection)
    assert menus["camera"] == [("A", 4), ("B", 4), ("C", 4)]
    assert 'value="camera=B"' in client.get("/devices").text


def test_merged_windows_whose_counts_lie_are_shown_as_far_as_they_can_be_counted() -> None:
    bundle = make_bundle()
    sketch = bundle.window(draw(np.random.default_rng(1), 50))
    counts = np.zeros_like(sketch.counts)
    counts[sketch.layout[:-1]] = MAX_COUNT
    none = np.zeros_like(sketch.missing)
    huge = replace(sketch, rows=MAX_COUNT, counts=counts, missing=none, nonfinite=none, sum1=none, sum2=none)
    assert series.merged([huge, sketch]) == huge
    assert series.merged([sketch, huge, sketch]) == sketch.merge(sketch)
    assert series.merged([]) is None
