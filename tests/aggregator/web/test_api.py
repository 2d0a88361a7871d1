"""The JSON API: what it tells, how it pages, what it refuses and with which remedy."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from busy_fleet import BUNDLE, HOSTILE, IMPOSSIBLE
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading

LISTS = ["devices", "findings", "incidents", "requests", "quarantine"]
ADDRESSES = [
    "fleet",
    "coverage",
    "coverage?device=meter-00001",
    *LISTS,
    "devices/meter-00001",
    f"devices/{quote(IMPOSSIBLE, safe='')}",
    "incidents?state=all",
    "incidents/inc-1",
    "incidents/inc-1/devices",
    "requests/req-0001",
    "findings?device=meter-00001",
    "findings?incident=inc-1",
    "bundles",
    f"bundles/{BUNDLE}",
    f"streams/{BUNDLE}/image.brightness",
    f"streams/{BUNDLE}/output.class?scope=cohort&key=camera%3DB",
    f"streams/{BUNDLE}/input.codes?scope=device&key=meter-00001&span=1h",
    f"streams/{BUNDLE}/image.brightness?scope=device&key=nobody",
]


def get(client: TestClient, path: str, status: int = 200) -> dict:
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == status, answer.text
    # Strict: what is no JSON number must not be there.
    return json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} in the answer"))


def post(client: TestClient, path: str, body: object, status: int = 200) -> dict:
    answer = client.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.parametrize("path", ADDRESSES)
def test_every_address_answers_json_that_nobody_keeps(client: TestClient, path: str) -> None:
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert isinstance(get(client, path), dict)


@pytest.mark.parametrize("path", ["fleet", "coverage", *LISTS, "bundles"])
def test_an_empty_fleet_has_empty_lists_and_zeros(empty: TestClient, path: str) -> None:
    answer = get(empty, path)
    if "items" in answer:
        assert answer == {"items": [], "next": None}


def test_the_fleets_totals_equal_its_devices(client: TestClient) -> None:
    totals = get(client, "fleet")
    devices = get(client, "devices")["items"]
    assert totals["devices"] == {"total": 13, "online": 11, "offline": 2, "drifting": 5}
    assert totals["rows"] == sum(device["rows"] for device in devices)
    assert totals["incidents"] == {
        "device": {"open": 1},
        "group": {},
        "cohort": {"open": 1},
        "fleet": {},
    }
    assert totals["requests"] == {"created": 1}
    assert totals["quarantined_last_day"] == len(get(client, "quarantine")["items"]) == 2


def test_coverage_adds_up_for_the_fleet_and_for_each_device(client: TestClient) -> None:
    whole = get(client, "coverage")
    assert whole["balanced"]
    assert 0.9 < whole["share_acknowledged"] < 1
    parts = [get(client, f"coverage?device=meter-{index:05d}") for index in range(12)]
    for name in ("recorded_rows", "acked_rows", "pending_rows", "quarantined_rows", "recorded_windows"):
        assert whole[name] == sum(part[name] for part in parts)


def test_a_device_tells_times_as_rfc3339_and_what_stands(client: TestClient) -> None:
    device = get(client, "devices/meter-00001")
    assert device["attributes"]["camera"] == "B"
    assert device["last_window"].endswith("Z")
    assert device["standing"][0]["incident"] == "inc-1"
    assert device["ledgers"][0]["incarnation"] == device["incarnation"]
    assert not [name for name in device if name.endswith("_ms")]


@pytest.mark.parametrize("path", [*LISTS, "findings?incident=inc-1", "incidents/inc-1/devices"])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_pages_together_are_the_whole_list(client: TestClient, path: str, limit: int) -> None:
    joint = "&" if "?" in path else "?"
    whole = get(client, f"{path}{joint}limit=500")["items"]
    assert whole
    gathered: list[object] = []
    cursor = ""
    for _ in range(len(whole) + 1):
        page = get(client, f"{path}{joint}limit={limit}{cursor}")
        assert len(page["items"]) <= limit
        gathered += page["items"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert gathered == whole


def test_findings_are_newest_first_and_filtered(client: TestClient) -> None:
    every = get(client, "findings")["items"]
    assert [one["at"] for one in every] == sorted((one["at"] for one in every), reverse=True)
    assert {one["device"] for one in get(client, "findings?device=meter-00004")["items"]} == {"meter-00004"}
    assert len(get(client, "findings?incident=inc-1")["items"]) == 4
    assert get(client, "findings?device=nobody")["items"] == []


def test_an_incident_comes_with_its_history_and_requests(client: TestClient) -> None:
    incident = get(client, "incidents/inc-1")
    assert (incident["scope"], incident["scope_key"], incident["affected"]) == ("cohort", "camera=B", 4)
    assert incident["attributes"] == [["camera", "B"]]
    assert [event["event"] for event in incident["events"]] == ["retrain", "opened"]
    assert incident["requests"][0]["deliveries"][0]["target"] == "pipeline"
    assert [one["stream"] for one in incident["streams"]] == ["image.sharpness", "image.brightness"]


def test_the_event_is_told_byte_for_byte(dashboard) -> None:
    with reading(dashboard.engine) as connection:
        stored = connection.scalar(select(tables.retrain_requests.c.body))
    answer = dashboard.client.get("/api/v1/requests/req-0001/event")
    assert answer.content == stored
    assert answer.headers["content-type"] == "application/cloudevents+json"


def test_a_stream_has_its_baseline_its_present_and_its_course(client: TestClient) -> None:
    answer = get(client, f"streams/{BUNDLE}/image.brightness?scope=cohort&key=camera%3DB")
    assert answer["baseline"]["values"] == sum(answer["baseline"]["counts"]) == 20_000
    assert answer["effect"]["sd_shift"] == pytest.approx(-0.9, abs=0.06)
    assert answer["effect"]["natural_shift"] == pytest.approx(-14.4, abs=1)
    assert len(answer["over_time"]) == 42
    assert sum(point["rows"] for point in answer["over_time"][-12:]) == answer["now"]["rows"]
    assert answer["over_time"][-1]["devices"] == 4


def test_a_category_stream_names_its_bins_with_the_overflow_last(client: TestClient) -> None:
    now = get(client, f"streams/{BUNDLE}/output.class")["now"]
    assert len(now["bins"]) == len(now["counts"]) == 11
    assert now["bins"][-1] == "never seen before"


def test_a_stream_without_data_in_its_scope_says_null(client: TestClient) -> None:
    answer = get(client, f"streams/{BUNDLE}/image.brightness?scope=device&key=nobody")
    assert answer["now"] is None
    assert answer["effect"] is None
    assert answer["over_time"] == []


def test_hostile_values_come_back_as_they_are(client: TestClient) -> None:
    device = get(client, "devices/meter-00011")
    assert device["attributes"]["site"] == HOSTILE
    assert get(client, f"devices?attribute={quote('site=' + HOSTILE)}")["items"][0]["device"] == "meter-00011"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("nothing", 404),
        ("devices/nobody", 404),
        ("coverage?device=nobody", 404),
        ("incidents/nothing", 404),
        ("incidents/nothing/devices", 404),
        ("requests/nothing", 404),
        ("requests/nothing/event", 404),
        ("bundles/nothing", 404),
        ("streams/nothing/x", 404),
        (f"streams/{BUNDLE}/nothing", 404),
        (f"streams/{BUNDLE}/", 404),
        ("devices?state=unsure", 400),
        ("devices?limit=1000000", 400),
        ("devices?cursor=e30", 400),
        ("devices?cursor=WzFd", 400),
        ("findings?cursor=WyJtZXRlciJd", 400),
        ("incidents?state=", 200),
        ("incidents?state=x", 400),
        ("findings?device=%00", 400),
        (f"streams/{BUNDLE}/image.brightness?span=forever", 400),
        (f"streams/{BUNDLE}/image.brightness?scope=world", 400),
    ],
)
def test_errors_are_problem_documents_with_a_remedy(client: TestClient, path: str, status: int) -> None:
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == status
    if status != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert body["status"] == status
        assert body["detail"]
        assert body["remedy"]


def test_a_method_that_is_not_there_is_405_with_the_ones_that_are(client: TestClient) -> None:
    answer = client.delete("/api/v1/devices/meter-00001")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert answer.json()["remedy"]


def test_the_pipeline_reports_a_request_from_accepted_to_done(dashboard) -> None:
    client = dashboard.client
    assert post(client, "requests/req-0001/status", {"state": "accepted"})["state"] == "accepted"
    running = post(client, "requests/req-0001/status", {"state": "running", "detail": "epoch 3 of 9"})
    assert (running["state"], running["detail"]) == ("running", "epoch 3 of 9")
    done = post(client, "requests/req-0001/status", {"state": "done", "new_bundle": "e" * 64, "actor": "ci"})
    assert (done["state"], done["new_bundle"]) == ("done", "e" * 64)
    events = get(client, "incidents/inc-1")["events"]
    assert [event["event"] for event in events[:3]] == ["retrain"] * 3
    assert [event["actor"] for event in events[:3]] == ["ci", "pipeline", "pipeline"]
    assert "epoch 3 of 9" in client.get("/incidents/inc-1").text


def test_the_same_report_twice_changes_nothing(client: TestClient) -> None:
    first = post(client, "requests/req-0001/status", {"state": "accepted"})
    events = get(client, "incidents/inc-1")["events"]
    assert post(client, "requests/req-0001/status", {"state": "accepted"}) == first
    assert get(client, "incidents/inc-1")["events"] == events


def test_a_report_that_does_not_follow_is_a_conflict(client: TestClient) -> None:
    post(client, "requests/req-0001/status", {"state": "failed", "detail": "no data"})
    refused = post(client, "requests/req-0001/status", {"state": "running"}, 409)
    assert "failed" in refused["detail"]
    assert get(client, "requests/req-0001")["state"] == "failed"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"state": "delivered"}, 400),
        ({"state": "finished"}, 400),
        ({"state": 3}, 400),
        ({"state": ["done"]}, 400),
        ({"state": "running", "new_bundle": "x"}, 400),
        ({"state": "done", "new_bundle": "x" * 200}, 400),
        ({"state": "done", "detail": "x" * 3000}, 400),
        ({"state": "done", "detail": "a\x00b"}, 400),
        ({"state": "done", "surprise": 1}, 400),
        ([], 400),
        ("done", 400),
    ],
)
def test_reports_that_make_no_sense_change_nothing(client: TestClient, body: object, status: int) -> None:
    refused = post(client, "requests/req-0001/status", body, status)
    assert refused["remedy"]
    assert get(client, "requests/req-0001")["state"] == "created"


def test_a_report_on_an_unknown_request_is_not_found(client: TestClient) -> None:
    assert post(client, "requests/req-9/status", {"state": "done"}, 404)["remedy"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b'{"state": NaN}', "application/json", 400),
        (b'{"state": "done"}', "text/plain", 415),
        (b"state=done", "application/x-www-form-urlencoded", 415),
        (b'{"detail": "' + b"x" * 70_000 + b'"}', "application/json", 413),
        (b"", "application/json", 400),
    ],
)
def test_bodies_that_are_not_what_they_should_be_are_refused(
    client: TestClient, content: bytes, kind: str, status: int
) -> None:
    answer = client.post("/api/v1/requests/req-0001/status", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.json()["remedy"]


def test_an_incident_is_acted_upon_by_json_too(client: TestClient) -> None:
    muted = post(
        client,
        "incidents/inc-1/actions",
        {"action": "mute", "hours": 4, "actor": "Ada", "note": "lens cleaned"},
    )
    assert muted["state"] == "muted"
    events = get(client, "incidents/inc-1")["events"]
    assert [(event["event"], event["actor"]) for event in events[:2]] == [("note", "Ada"), ("muted", "Ada")]
    assert post(client, "incidents/inc-1/actions", {"action": "unmute"})["state"] == "open"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "delete"},
        {"action": "note"},
        {"action": "note", "note": " \n "},
        {"action": "note", "note": "x" * 5000},
        {"action": "mute", "hours": 0},
        {"action": "mute", "hours": -4},
        {"action": "mute", "hours": 1.5},
        {"action": "mute", "hours": True},
        {"action": "mute", "hours": "9" * 400},
        {"action": "mute", "hours": 10**9},
        {"action": "acknowledge", "actor": "aggregator"},
        {"action": "acknowledge", "actor": "x" * 200},
        {"action": "acknowledge", "force": True},
    ],
)
def test_wishes_that_make_no_sense_change_nothing(client: TestClient, body: dict) -> None:
    refused = post(client, "incidents/inc-1/actions", body, 400)
    assert refused["remedy"]
    assert get(client, "incidents/inc-1")["state"] == "open"


def test_a_lone_surrogate_in_a_note_is_stored_as_a_question_mark(client: TestClient) -> None:
    answer = client.post(
        "/api/v1/incidents/inc-1/actions",
        content=rb'{"action": "note", "note": "broken \ud800 half"}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 200
    assert get(client, "incidents/inc-1")["events"][0]["text"] == "broken ? half"
