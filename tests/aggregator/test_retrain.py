from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace

import jsonschema
import pytest
from cloudevents.core.formats.json import JSONFormat
from sqlalchemy import Engine, func, insert, select, update

from driftpost_aggregator import incidents as life
from driftpost_aggregator import retrain
from driftpost_aggregator.errors import NotPossible, UnknownRequest
from driftpost_aggregator.retrain import report, request_retraining
from driftpost_aggregator.retrain_event import MAX_BODY_BYTES
from driftpost_aggregator.retrain_policy import Asked, Candidate, refusal
from driftpost_aggregator.settings import RetrainPolicy
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading, writing
from realdata import REALDATA, needs_realdata

NOW = 1_790_000_000_000
DAY = 86_400_000
CANDIDATE = Candidate("inc-1", 0, "meter reader", "cohort", "camera=B", "covariate_shift", "open", 3.0, 4, 4)


def open_incident(engine: Engine, name: str = "inc-1", **changes: object) -> None:
    values: dict[str, object] = {
        "incident": name,
        "model": "meter reader",
        "bundle": "b" * 64,
        "bundles": ["b" * 64],
        "scope": "cohort",
        "scope_key": "camera=B",
        "attributes": [["camera", "B"]],
        "kind": "covariate_shift",
        "detail": "shift",
        "state": "open",
        "severity": 3.0,
        "title": "camera=B: inputs drifted",
        "cause": "camera=B: 4 of 4 devices; brightness 3.2 sd lower",
        "onset_ms": NOW - 60_000,
        "opened_ms": NOW,
        "updated_ms": NOW,
        "affected": 4,
        "members": 4,
        "elsewhere": 0,
        "streams": [
            {
                "stream": "brightness",
                "share": 1.0,
                "effect": -3.2,
                "effect_natural": -32.0,
                "unit": "level",
                "spread": 1.0,
                "direction": "down",
            }
        ],
        "log_e": 40.0,
        "reopened": 0,
    }
    with writing(engine) as connection:
        connection.execute(insert(tables.incidents).values(**(values | changes)))
        connection.execute(
            insert(tables.incident_devices),
            [
                {"incident": name, "device": f"m{index}", "onset_ms": NOW, "raised_ms": NOW}
                for index in range(4)
            ],
        )


def ask(
    engine: Engine,
    policy: RetrainPolicy | None = None,
    *,
    now_ms: int = NOW,
    targets: tuple[str, ...] = ("pipeline",),
    public_url: str | None = "https://driftpost.example/",
) -> list[str]:
    with reading(engine) as connection:
        made = connection.execute(select(func.count()).select_from(tables.retrain_requests)).scalar_one()
    numbers = itertools.count(made + 1)
    return request_retraining(
        engine,
        policy or RetrainPolicy(),
        fleet="meters",
        public_url=public_url,
        targets=targets,
        now_ms=now_ms,
        new_id=lambda: f"rr-{next(numbers)}",
    )


def row(engine: Engine, request: str = "rr-1") -> object:
    table = tables.retrain_requests
    with reading(engine) as connection:
        return connection.execute(select(table).where(table.c.request == request)).one()


def test_a_fitting_incident_asks() -> None:
    assert refusal(RetrainPolicy(), CANDIDATE, [], NOW) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "muted"}, "muted"),
        ({"state": "resolved"}, "resolved"),
        ({"scope": "device"}, "scope device"),
        ({"kind": "sensor_fault"}, "kind sensor_fault"),
        ({"severity": 0.1}, "effect 0.1 is below 0.2"),
        ({"affected": 1}, "1 devices are affected"),
        ({"affected": 4, "members": 10}, "4 of 10 devices are below 50%"),
    ],
)
def test_an_incident_outside_the_policy_does_not_ask_and_says_why(
    changes: dict[str, object], words: str
) -> None:
    candidate = replace(CANDIDATE, **changes)  # type: ignore[arg-type]  # each row gives fields of their types
    assert words in (refusal(RetrainPolicy(), candidate, [], NOW) or "")


def test_a_policy_that_is_switched_off_asks_for_nothing() -> None:
    assert refusal(RetrainPolicy(enabled=False), CANDIDATE, [], NOW) == "retraining is switched off"


def asked(**changes: object) -> Asked:
    plain = Asked("inc-0", 0, "meter reader", "cohort", "camera=B", NOW - DAY // 2)
    return replace(plain, **changes)  # type: ignore[arg-type]  # each call gives fields of their types


@pytest.mark.parametrize(
    ("earlier", "words"),
    [
        ([asked(incident="inc-1", created_ms=NOW - 30 * DAY)], "asked already"),
        ([asked()], "within the cooldown"),
        ([asked(created_ms=NOW - DAY - 1)], None),
        ([asked(scope_key="camera=C")], None),
        ([asked(scope_key=f"site={number}") for number in range(5)], "5 requests within a week"),
        ([asked(scope_key=f"site={number}", created_ms=NOW - 8 * DAY) for number in range(5)], None),
    ],
)
def test_earlier_requests_hold_back_the_next(earlier: list[Asked], words: str | None) -> None:
    answer = refusal(RetrainPolicy(), CANDIDATE, earlier, NOW)
    assert answer is None if words is None else words in (answer or "")


def test_one_incident_asks_once_however_often_it_is_looked_at(engine: Engine) -> None:
    open_incident(engine)
    assert ask(engine) == ["rr-1"]
    assert ask(engine) == []
    assert ask(engine, now_ms=NOW + 30 * DAY) == []


def test_an_episode_after_reopening_asks_again_once_the_cooldown_is_over(engine: Engine) -> None:
    open_incident(engine)
    ask(engine)
    with writing(engine) as connection:
        connection.execute(update(tables.incidents).values(reopened=1))
    assert ask(engine, now_ms=NOW + DAY // 2) == []
    assert ask(engine, now_ms=NOW + DAY + 1) == ["rr-2"]


def test_the_weekly_budget_holds_within_one_round(engine: Engine) -> None:
    for number in range(4):
        open_incident(engine, f"inc-{number}", scope_key=f"camera={number}")
    assert len(ask(engine, RetrainPolicy(per_week=2))) == 2


def test_a_muted_incident_asks_when_its_mute_is_over(engine: Engine) -> None:
    open_incident(engine)
    life.mute(engine, "inc-1", until_ms=NOW + 1, actor="anna", now_ms=NOW)
    assert ask(engine) == []
    life.unmute(engine, "inc-1", actor="anna", now_ms=NOW)
    assert ask(engine) == ["rr-1"]


def test_the_event_carries_the_evidence(engine: Engine) -> None:
    open_incident(engine)
    ask(engine)
    body = row(engine).body  # type: ignore[attr-defined]  # a row of the table
    event = json.loads(body)
    data = event.pop("data")
    assert event == {
        "specversion": "1.0",
        "id": "rr-1",
        "source": "/driftpost/fleets/meters",
        "type": "io.driftpost.retrain.requested.v1",
        "subject": "incidents/inc-1",
        "time": "2026-09-21T14:13:20Z",
        "datacontenttype": "application/json",
    }
    assert data["incident"]["attributes"] == [{"key": "camera", "value": "B"}]
    assert data["incident"]["cause"].startswith("camera=B: 4 of 4 devices")
    assert data["affected"] == {
        "devices": 4,
        "of": 4,
        "share": 1.0,
        "elsewhere": 0,
        "names": ["m0", "m1", "m2", "m3"],
    }
    assert data["streams"][0]["effect_natural"] == -32.0
    assert data["links"] == {
        "incident": "https://driftpost.example/incidents/inc-1",
        "request": "https://driftpost.example/requests/rr-1",
        "report": "https://driftpost.example/api/v1/requests/rr-1/status",
    }
    assert JSONFormat().read(None, body).get_id() == "rr-1"


@needs_realdata
def test_the_event_satisfies_the_published_schema_of_cloudevents(engine: Engine) -> None:
    open_incident(engine)
    ask(engine)
    schema = json.loads((REALDATA / "interop/cloudevents/cloudevents_schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(json.loads(row(engine).body), schema)  # type: ignore[attr-defined]  # a row


def test_an_event_of_a_huge_cohort_stays_below_twenty_kilobytes(engine: Engine) -> None:
    stream = {
        "stream": "s" * 190,
        "share": 0.01,
        "effect": 1.0,
        "effect_natural": 1.0,
        "unit": "u" * 40,
        "spread": 1.0,
        "direction": "up",
    }
    open_incident(engine, streams=[stream] * 90, cause="c" * 900, affected=5_000, members=5_000)
    with writing(engine) as connection:
        connection.execute(
            insert(tables.incident_devices),
            [
                {"incident": "inc-1", "device": f"{index:04}" + "d" * 59, "onset_ms": 1, "raised_ms": 1}
                for index in range(300)
            ],
        )
    ask(engine)
    body = row(engine).body  # type: ignore[attr-defined]  # a row of the table
    assert len(body) < 20_000
    assert json.loads(body)["data"]["streams_total"] == 90


def test_an_event_of_streams_with_endless_names_stays_below_twenty_kilobytes(engine: Engine) -> None:
    part = {"share": 0.1, "effect": 1.0, "effect_natural": 1.0, "unit": "", "spread": 1.0, "direction": "up"}
    streams = [{"stream": f"{number}" + "\U0001f600" * 900, **part} for number in range(16)]
    open_incident(engine, streams=streams, cause="\U0001f600" * 3_000)
    assert len(ask(engine)) == 1
    with reading(engine) as connection:
        body = connection.execute(select(tables.retrain_requests.c.body)).scalar_one()
    assert len(body) <= MAX_BODY_BYTES
    data = json.loads(body)["data"]
    assert data["streams_total"] == 16
    assert data["streams"] == streams[: len(data["streams"])]
    assert data["streams"]


def test_without_a_public_address_the_event_has_no_links(engine: Engine) -> None:
    open_incident(engine)
    ask(engine, public_url=None)
    assert json.loads(row(engine).body)["data"]["links"] == {}  # type: ignore[attr-defined]  # a row


def test_the_pipeline_s_reports_move_the_request_forward_and_are_recorded(engine: Engine) -> None:
    open_incident(engine)
    ask(engine)
    for state in ("accepted", "running", "running"):
        report(engine, "rr-1", state, actor="pipeline", now_ms=NOW + 1)
    report(engine, "rr-1", "done", new_bundle="e" * 64, detail="98 %", actor="pipeline", now_ms=NOW + 2)
    done = row(engine)
    assert (done.state, done.new_bundle, done.detail) == ("done", "e" * 64, "98 %")  # type: ignore[attr-defined]
    with reading(engine) as connection:
        texts = connection.execute(
            select(tables.incident_events.c.text).order_by(tables.incident_events.c.id)
        ).scalars()
        assert list(texts)[1:] == [
            "retraining accepted",
            "retraining running",
            f"retraining done, bundle {'e' * 12}: 98 %",
        ]


@pytest.mark.parametrize(
    ("first", "second"), [("done", "running"), ("failed", "done"), ("running", "accepted"), ("done", "what")]
)
def test_a_report_that_goes_backwards_is_refused(engine: Engine, first: str, second: str) -> None:
    open_incident(engine)
    ask(engine)
    report(engine, "rr-1", first, actor="pipeline", now_ms=NOW)
    with pytest.raises(NotPossible, match=f"is {first} and can not become {second}"):
        report(engine, "rr-1", second, actor="pipeline", now_ms=NOW)


def test_a_report_on_an_unknown_request_is_refused(engine: Engine) -> None:
    with pytest.raises(UnknownRequest):
        report(engine, "rr-9", "done", actor="pipeline", now_ms=NOW)


def test_two_aggregators_that_decide_at_once_make_one_request(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_incident(engine)
    real: Callable[..., object] = retrain._judged
    calls = itertools.count()

    def judged(*arguments: object) -> object:
        answer = real(*arguments)
        if next(calls) == 0:
            monkeypatch.setattr(retrain, "_judged", real)
            assert ask(engine) == ["rr-1"]
        return answer

    monkeypatch.setattr(retrain, "_judged", judged)
    assert ask(engine) == []
    with reading(engine) as connection:
        assert connection.execute(select(func.count()).select_from(tables.retrain_requests)).scalar() == 1
