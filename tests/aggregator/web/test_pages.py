"""Every page over a real fleet, an empty one, and addresses that make no sense."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from sqlalchemy import insert, select, update
from starlette.testclient import TestClient

from busy_fleet import BUNDLE, HOSTILE, IMPOSSIBLE
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.web.words import MINUS

STREAM = f"/streams/{BUNDLE}/image.brightness"
PAGES = [
    "/",
    "/?rows=cohorts&span=7d",
    "/?rows=devices&span=1h",
    "/devices",
    "/devices?state=drifting",
    "/devices?state=offline",
    "/devices?prefix=meter-0000&attribute=camera%3DB",
    f"/devices?bundle={BUNDLE}",
    "/devices/meter-00001",
    "/devices/meter-00000?span=30d",
    f"/devices/{quote(IMPOSSIBLE, safe='')}",
    "/incidents",
    "/incidents?state=all",
    "/incidents?state=resolved",
    "/incidents/inc-1",
    "/incidents/inc-2",
    "/streams",
    f"/streams?bundle={BUNDLE}&scope=cohort&key=camera%3DB",
    "/streams?scope=device&key=meter-00001",
    STREAM,
    f"{STREAM}?scope=cohort&key=camera%3DB&span=24h",
    f"{STREAM}?scope=device&key=meter-00001",
    f"{STREAM}?scope=device&key=nobody",
    f"/streams/{BUNDLE}/output.class",
    f"/streams/{BUNDLE}/input.codes",
    f"/streams/{BUNDLE}/latency",
    "/requests",
    "/requests?state=created",
    "/quarantine",
    "/quarantine?device=meter-00000",
]
EMPTY_PAGES = ["/", "/devices", "/incidents", "/incidents?state=all", "/streams", "/requests", "/quarantine"]


class Shape(HTMLParser):
    """Elements, their ids, links and scripts; and whether every element that was opened was closed."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "rect", "stop"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.elements: list[str] = []
        self.inline_scripts: list[str] = []
        self._open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(html)
        self.close()
        self.unbalanced += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        given = {name: value or "" for name, value in attrs}
        self.attributes += list(given.items())
        if "id" in given:
            self.ids.append(given["id"])
        if "href" in given:
            self.links.append(given["href"])
        if tag == "script" and "src" not in given:
            self.inline_scripts.append(tag)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if not self._open or self._open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def shape(client: TestClient, address: str, status: int = 200) -> Shape:
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Shape(answer.text)


@pytest.mark.parametrize("address", PAGES)
def test_every_page_is_well_formed_and_runs_no_inline_script(client: TestClient, address: str) -> None:
    page = shape(client, address)
    assert page.unbalanced == []
    assert page.inline_scripts == []
    assert len(page.ids) == len(set(page.ids)), "an id stands twice"
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]


@pytest.mark.parametrize("address", PAGES)
def test_hostile_names_reach_no_page_as_markup(client: TestClient, address: str) -> None:
    html = client.get(address).text
    assert HOSTILE not in html
    assert "<script>alert" not in html
    assert "<img src=x" not in html


@pytest.mark.parametrize("address", EMPTY_PAGES)
def test_pages_of_an_empty_fleet_say_so(empty: TestClient, address: str) -> None:
    page = shape(empty, address)
    assert page.unbalanced == []
    assert re.search(r"No |None|Nothing|nothing", page.text)


def test_every_link_of_every_page_leads_somewhere(client: TestClient) -> None:
    links = {link for address in PAGES for link in shape(client, address).links}
    ours = sorted(link for link in links if link.startswith("/"))
    assert links - set(ours) == {"#main"}
    broken = [link for link in ours if client.get(link).status_code != 200]
    assert broken == []
    assert len(ours) > 60


def test_the_fleets_page_counts_the_fleet(client: TestClient) -> None:
    text = shape(client, "/").text
    assert "11 of 13" in text
    assert "5 38.5 %" in text
    assert "0 fleet 1 cohort 1 device" in text
    assert "camera=B: inputs drifted" in text


def test_the_devices_page_filters_by_state_attribute_and_name(client: TestClient) -> None:
    def listed(address: str) -> list[str]:
        found = [link for link in shape(client, address).links if link.startswith("/devices/")]
        return list(dict.fromkeys(found))

    camera_b = [f"/devices/meter-000{index:02d}" for index in (1, 4, 7, 10)]
    assert listed("/devices?attribute=camera%3DB") == camera_b
    assert listed("/devices?attribute=camera%3DB&attribute=site%3Dnorth") == ["/devices/meter-00004"]
    assert listed("/devices?state=drifting") == ["/devices/meter-00000", *camera_b]
    assert listed("/devices?prefix=meter-0001") == ["/devices/meter-00010", "/devices/meter-00011"]
    assert listed("/devices?attribute=camera%3DB&attribute=site%3Dnowhere") == []


@pytest.mark.parametrize(
    "prefix", ["%", "_", "meter%", "METER", "meter_0", "*", "\\", "'", "\U0010ffff", "\ud7ff"]
)
def test_a_name_prefix_is_taken_as_it_is_without_wildcards(client: TestClient, prefix: str) -> None:
    text = shape(client, f"/devices?prefix={quote(prefix, errors='surrogatepass')}").text
    assert "No device matches." in text


def test_pages_of_devices_follow_each_other_without_gap_or_repeat(client: TestClient) -> None:
    seen: list[str] = []
    address = "/devices?limit=5"
    for _ in range(10):
        page = shape(client, address)
        seen += list(dict.fromkeys(link for link in page.links if link.startswith("/devices/")))
        following = [link for link in page.links if "cursor=" in link]
        if not following:
            break
        address = f"{following[0]}&limit=5"
    assert len(seen) == 13
    assert len(set(seen)) == 13


def test_a_devices_page_tells_its_drift_ledger_and_attributes(client: TestClient) -> None:
    text = shape(client, "/devices/meter-00001").text
    for words in (
        "camera B",
        "online",
        "1 per device-year",
        "onnx 1.32",
        "image.sharpness down",
        "acknowledged",
    ):
        assert words in text
    assert re.search(
        rf"image\.sharpness input 1[.\d]* sd beyond chance [.\d]* sd {MINUS}5\d \({MINUS}1\.\d+ sd\)", text
    ), "the change has its size and unit"


def test_a_devices_page_lists_the_messages_refused_from_it(client: TestClient) -> None:
    text = shape(client, "/devices/meter-00000").text
    assert "Refused messages" in text
    assert "msgpack" in text


def test_an_incidents_page_is_a_cause_card(client: TestClient) -> None:
    page = shape(client, "/incidents/inc-1")
    for words in (
        "open",
        "cohort",
        "4 of 4",
        "devices in this cohort affected (100 %)",
        "the risk elsewhere",
        "Streams in order of contribution",
        "Then and now",
        "onset",
        "pipeline",
        "meter-00010",
    ):
        assert words in page.text
    order = [page.text.index(name) for name in ("image.sharpness", "image.brightness")]
    assert order == sorted(order)
    assert f"/streams/{BUNDLE}/image.sharpness?scope=cohort&key=camera%3DB" in page.links


def test_an_incidents_page_says_what_is_without_it_what_rivals_it_and_what_is_missing(dashboard) -> None:
    text = shape(dashboard.client, "/incidents/inc-1").text
    assert "Without it there is no drift" in text
    assert "had sent windows since the onset when this was found" in text
    card = {
        "rest": {"devices": 8, "drifts": True, "stream": "image.brightness", "inside": 1, "outside": 0.9},
        "alternatives": [[["lens", "<w>"]], [["site", "mill"], ["rack", "2"]]],
        "coverage": {"devices": 12, "silent": 3, "missing": 0.25},
    }
    with writing(dashboard.engine) as connection:
        changed = update(tables.incidents).where(tables.incidents.c.incident == "inc-1")
        connection.execute(changed.values(card=card))
    text = shape(dashboard.client, "/incidents/inc-1").text
    assert "Without it there is still drift: the other 8 devices drift too" in text
    assert "Explained as well by lens = <w>, or by site = mill and rack = 2" in text
    assert "3 of 12 devices had sent no window since the onset" in text
    assert "25 % of their inferences had not reached this aggregator" in text
    card["coverage"] = {"devices": 1, "silent": 0, "missing": 0.0}
    with writing(dashboard.engine) as connection:
        connection.execute(changed.values(card=card))
    text = shape(dashboard.client, "/incidents/inc-1").text
    assert "The device had sent windows since the onset when this was found; 0 % of its inferences" in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("covariate_shift", "No attribute tells these devices from the others"),
        ("poisoning", "their own detectors have not said so"),
    ],
)
def test_a_group_is_shown_by_the_devices_in_it(dashboard, kind: str, words: str) -> None:
    with writing(dashboard.engine) as connection:
        row = dict(connection.execute(select(tables.incidents)).mappings().first())
        row |= {"incident": "inc-group", "scope": "group", "scope_key": "meter-00004", "attributes": []}
        row |= {"kind": kind, "affected": 2, "members": 2}
        connection.execute(insert(tables.incidents).values(**row))
        for device in ("meter-00004", "meter-00005"):
            connection.execute(
                insert(tables.incident_devices).values(
                    incident="inc-group", device=device, onset_ms=row["onset_ms"], raised_ms=row["onset_ms"]
                )
            )
    text = shape(dashboard.client, "/incidents/inc-group").text
    assert words in text
    assert "meter-00005" in text
    figure = dashboard.client.get("/charts/incidents/inc-group/image.brightness").json()
    assert len(figure["data"]) == 2
    fleet = shape(dashboard.client, "/").text
    assert "meter-00004 and others" in fleet
    assert "1 group" in fleet


def test_a_stuck_sensors_incident_says_so_instead_of_an_effect(client: TestClient) -> None:
    text = shape(client, "/incidents/inc-2").text
    assert "image.brightness 100 % repeats one value" in text
    assert "largest effect" not in text


def test_a_risk_that_may_be_no_higher_is_not_called_at_least_a_fraction(
    dashboard, client: TestClient
) -> None:
    with writing(dashboard.engine) as connection:
        changed = update(tables.incidents).where(tables.incidents.c.incident == "inc-1")
        connection.execute(changed.values(risk_ratio=7.2, risk_ratio_low=0.81))
    text = shape(client, "/incidents/inc-1").text
    assert "7.2 times the risk elsewhere; so few devices leave open whether it is higher at all" in text
    assert "at least 0.81" not in text


def test_an_incident_of_several_attributes_shows_its_devices_instead_of_a_missing_rollup(dashboard) -> None:
    with writing(dashboard.engine) as connection:
        row = dict(connection.execute(select(tables.incidents)).mappings().first())
        row |= {
            "incident": "inc-pair",
            "scope_key": "camera=B & site=north",
            "attributes": [["camera", "B"], ["site", "north"]],
            "affected": 1,
            "members": 1,
        }
        connection.execute(insert(tables.incidents).values(**row))
        connection.execute(
            insert(tables.incident_devices).values(
                incident="inc-pair", device="meter-00004", onset_ms=row["onset_ms"], raised_ms=row["onset_ms"]
            )
        )
    page = shape(dashboard.client, "/incidents/inc-pair")
    assert "camera = B, site = north" in page.text
    figure = dashboard.client.get("/charts/incidents/inc-pair/image.brightness").json()
    assert len(figure["data"]) == 2


def test_an_incident_about_devices_alone_has_no_streams_to_draw(dashboard) -> None:
    with writing(dashboard.engine) as connection:
        row = dict(connection.execute(select(tables.incidents)).mappings().first())
        row |= {
            "incident": "inc-disk",
            "bundle": "",
            "bundles": [],
            "model": "",
            "streams": [],
            "scope": "fleet",
        }
        row |= {"scope_key": "", "kind": "device_fault", "title": "disks are full", "attributes": []}
        connection.execute(insert(tables.incidents).values(**row))
    page = shape(dashboard.client, "/incidents/inc-disk")
    assert "about devices, not about a stream" in page.text
    assert not [value for name, value in page.attributes if name == "data-chart"]


def test_a_stream_page_compares_the_scope_that_was_asked_for(client: TestClient) -> None:
    fleet = shape(client, STREAM).text
    cohort = shape(client, f"{STREAM}?scope=cohort&key=camera%3DB").text
    healthy = shape(client, f"{STREAM}?scope=cohort&key=camera%3DA").text

    def shift(text: str) -> float:
        return float(re.search(rf"\(([+{MINUS}]?[\d.]+) sd\)", text)[1].replace(MINUS, "-"))

    assert shift(cohort) == pytest.approx(-0.88, abs=0.06)
    assert shift(fleet) == pytest.approx(-0.88 / 3, abs=0.06)
    assert abs(shift(healthy)) < 0.06


def test_the_quarantine_page_sums_up_why(client: TestClient) -> None:
    text = shape(client, "/quarantine").text
    assert "2 in the last 24 hours" in text
    assert "not msgpack" in text


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/nothing/here", 404),
        ("/devices/nobody", 404),
        ("/devices/%00", 404),
        ("/incidents/nothing", 404),
        ("/incidents/%F0%9F%98%80", 404),
        ("/streams/unknown/image.brightness", 404),
        (f"/streams/{BUNDLE}/no.such.stream", 404),
        ("/streams?bundle=unknown", 404),
        ("/?span=1y", 400),
        ("/?rows=everything", 400),
        ("/devices?state=lost", 400),
        ("/devices?attribute=nokey", 400),
        ("/devices?attribute==x", 400),
        ("/devices?" + "&".join(["attribute=a%3Db"] * 9), 400),
        ("/devices?limit=0", 400),
        ("/devices?limit=501", 400),
        ("/devices?limit=-1", 400),
        ("/devices?limit=1e3", 400),
        ("/devices?limit=" + "9" * 5000, 400),
        ("/devices?limit=٣", 400),
        ("/devices?prefix=" + "x" * 600, 400),
        ("/devices?prefix=%00", 400),
        ("/devices?cursor=!!!", 400),
        ("/devices?cursor=WzFd", 400),
        ("/devices?cursor=" + "W" * 5000, 400),
        ("/incidents?state=closed", 400),
        ("/incidents?cursor=WyJhIiwgImIiXQ", 400),
        ("/streams?scope=planet", 400),
        ("/quarantine?cursor=WzFlOTld", 400),
        ("/quarantine?cursor=WzkyMjMzNzIwMzY4NTQ3NzU4MDhd", 400),
    ],
)
def test_addresses_that_make_no_sense_are_answered_with_what_to_do(
    client: TestClient, address: str, status: int
) -> None:
    page = shape(client, address, status)
    assert page.unbalanced == []
    assert "What to do:" in page.text


def test_a_mistake_of_ours_is_a_page_too_and_names_the_log(
    engine, open_dashboard: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from driftpost_aggregator.web.queries import incidents

    dashboard = open_dashboard(engine)

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(incidents, "list_incidents", broken)
    client = TestClient(dashboard.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    answer = client.get("/incidents")
    assert answer.status_code == 500
    assert "log has the details" in answer.text
    assert client.get("/api/v1/incidents").json()["status"] == 500


def test_a_database_that_does_not_answer_is_a_503_that_says_so(dashboard) -> None:
    with writing(dashboard.engine) as connection:
        connection.exec_driver_sql("ALTER TABLE retrain_requests RENAME TO elsewhere")
    page = shape(dashboard.client, "/requests", 503)
    assert "database" in page.text
    assert dashboard.client.get("/api/v1/requests").json()["remedy"]


def test_pages_only_read(dashboard) -> None:
    def state() -> list[object]:
        with reading(dashboard.engine) as connection:
            return [connection.execute(select(table)).all() for table in tables.metadata.sorted_tables]

    before = state()
    for address in PAGES:
        assert dashboard.client.get(address).status_code == 200
    assert state() == before
