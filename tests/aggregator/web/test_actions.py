"""What people do with an incident through the page's form."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web.actions import ANONYMOUS
from driftpost_aggregator.web.bodies import MAX_BODY

FORM = "/incidents/inc-1/actions"


def state(dashboard) -> str:
    with reading(dashboard.engine) as connection:
        query = select(tables.incidents.c.state).where(tables.incidents.c.incident == "inc-1")
        return connection.execute(query).scalar_one()


def events(dashboard) -> list[tuple[str, str, str]]:
    event = tables.incident_events.c
    with reading(dashboard.engine) as connection:
        query = select(event.event, event.actor, event.text).where(event.incident == "inc-1")
        return [tuple(row) for row in connection.execute(query.order_by(event.id))]


def test_acknowledging_with_a_note_shows_both_with_the_persons_name(dashboard) -> None:
    answer = dashboard.client.post(
        FORM, data={"action": "acknowledge", "actor": "Ada", "note": "on my way\nwith a ladder"}
    )
    assert answer.status_code == 303
    assert answer.headers["location"] == "/incidents/inc-1"
    assert state(dashboard) == "acknowledged"
    assert events(dashboard)[-2:] == [
        ("acknowledged", "Ada", "acknowledged by Ada"),
        ("note", "Ada", "on my way\nwith a ladder"),
    ]
    page = dashboard.client.get("/incidents/inc-1").text
    assert "with a ladder" in page
    assert 'value="acknowledge"' not in page, "the button has gone"


def test_resolving_keeps_the_note_as_its_reason(dashboard) -> None:
    dashboard.client.post(FORM, data={"action": "resolve", "note": "lens cleaned"})
    assert state(dashboard) == "resolved"
    assert events(dashboard)[-1] == ("resolved", ANONYMOUS, "lens cleaned")


def test_muting_lasts_as_long_as_was_chosen(dashboard) -> None:
    dashboard.client.post(FORM, data={"action": "mute", "hours": "24"})
    with reading(dashboard.engine) as connection:
        query = select(tables.incidents.c.muted_until_ms).where(tables.incidents.c.incident == "inc-1")
        until = connection.execute(query).scalar_one()
    assert until == dashboard.clock_ms + 24 * 3_600_000
    assert 'value="unmute"' in dashboard.client.get("/incidents/inc-1").text
    dashboard.client.post(FORM, data={"action": "unmute"})
    assert state(dashboard) == "open"


def test_markup_in_notes_and_names_stays_text(dashboard) -> None:
    dashboard.client.post(
        FORM, data={"action": "note", "actor": "<b>Eve</b>", "note": "<script>alert(1)</script>"}
    )
    page = dashboard.client.get("/incidents/inc-1").text
    assert "<script>alert" not in page
    assert "&lt;b&gt;Eve&lt;/b&gt;" in page


def test_an_action_that_does_not_follow_is_a_conflict_and_changes_nothing(dashboard) -> None:
    dashboard.client.post(FORM, data={"action": "resolve"})
    before = events(dashboard)
    answer = dashboard.client.post(FORM, data={"action": "acknowledge", "note": "too late"})
    assert answer.status_code == 409
    assert "What to do" in answer.text
    assert events(dashboard) == before


def test_an_unknown_incident_is_not_found(client: TestClient) -> None:
    assert client.post("/incidents/inc-9/actions", data={"action": "acknowledge"}).status_code == 404


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"action": ""},
        {"action": "explode"},
        {"action": "note", "note": ""},
        {"action": "mute", "hours": "soon"},
        {"action": "mute", "hours": "٣"},
        {"action": "note", "note": "x" * 4001},
    ],
)
def test_forms_that_make_no_sense_are_refused(dashboard, data: dict[str, str]) -> None:
    answer = dashboard.client.post(
        FORM, data=data, headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert answer.status_code == 400
    assert state(dashboard) == "open"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"action=acknowledge", "text/plain", 415),
        (b"action=acknowledge", "multipart/form-data; boundary=x", 415),
        (b"action=acknowledge&note=" + b"x" * MAX_BODY, "application/x-www-form-urlencoded", 413),
        (b"action=note&note=%ff%fe", "application/x-www-form-urlencoded", 303),
        (b"\xff\xff", "application/x-www-form-urlencoded", 400),
        (b"&".join([b"a=b"] * 50), "application/x-www-form-urlencoded", 400),
    ],
)
def test_bodies_that_are_no_form_of_ours_are_refused(
    client: TestClient, content: bytes, kind: str, status: int
) -> None:
    assert client.post(FORM, content=content, headers={"content-type": kind}).status_code == status


def test_every_change_is_in_the_audit_log(dashboard) -> None:
    dashboard.client.post(FORM, data={"action": "acknowledge", "actor": "Ada"})
    audit = tables.audit.c
    with reading(dashboard.engine) as connection:
        last = connection.execute(
            select(audit.actor, audit.action, audit.subject).order_by(audit.id.desc())
        ).first()
    assert tuple(last) == ("Ada", "incident acknowledged", "inc-1")
