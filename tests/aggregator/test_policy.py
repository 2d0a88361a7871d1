"""Ranking, what is written down for replays, replays, and requests from which nothing comes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sqlalchemy import Engine, select, update

from aggregator.test_retrain import CANDIDATE, DAY, NOW, ask, open_incident
from driftpost_aggregator import incidents as life
from driftpost_aggregator.backtest import backtest, per_week, recorded, replay
from driftpost_aggregator.escalation import escalate_overdue
from driftpost_aggregator.policy_history import Losses, write_down
from driftpost_aggregator.retrain import report, settle_delivery
from driftpost_aggregator.retrain_policy import Candidate, priority_of, refusal
from driftpost_aggregator.settings import RetrainPolicy
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading, writing

HOUR = 3_600_000


@pytest.mark.parametrize(
    ("policy", "loss", "words"),
    [
        (RetrainPolicy(min_loss=0.05), 0.04, "loss of accuracy 4.0% is below 5.0%"),
        (RetrainPolicy(min_loss=0.05), 0.06, None),
        (RetrainPolicy(min_loss=0.05), None, "assumed loss of accuracy 2.0% is below 5.0%"),
        (RetrainPolicy(min_loss=0.05, assumed_loss=0.1), None, None),
        (RetrainPolicy(min_loss=0.01), -0.2, "loss of accuracy 0.0% is below 1.0%"),
    ],
)
def test_an_incident_asks_from_a_loss_of_accuracy_on(
    policy: RetrainPolicy, loss: float | None, words: str | None
) -> None:
    assert refusal(policy, replace(CANDIDATE, loss=loss), [], NOW) == words


def test_requests_are_ranked_by_gain_times_devices_over_cost() -> None:
    policy = RetrainPolicy(assumed_loss=0.02, cost=1.0, costs={"dear": 10.0})
    many = replace(CANDIDATE, affected=100, members=100)
    assert priority_of(policy, many) == pytest.approx(2.0)
    assert priority_of(policy, replace(many, loss=0.1)) == pytest.approx(10.0)
    assert priority_of(policy, replace(many, loss=0.1, model="dear")) == pytest.approx(1.0)
    assert priority_of(policy, replace(many, loss=-0.1)) == 0.0


def test_the_worthiest_incident_gets_the_last_request_of_the_week(engine: Engine) -> None:
    open_incident(engine, "inc-1", affected=4)
    open_incident(engine, "inc-2", affected=40, members=40, scope_key="camera=C")
    (request,) = ask(engine, RetrainPolicy(per_week=1))
    with reading(engine) as connection:
        row = connection.execute(select(tables.retrain_requests)).one()
    assert (row.request, row.incident, row.devices) == (request, "inc-2", 40)
    assert row.priority == pytest.approx(0.8)
    assert row.gain_source == "assumed"
    assert json.loads(row.body)["data"]["ranking"] == {
        "gain": 0.02, "gain_source": "assumed", "devices": 40, "cost": 1.0, "priority": 0.8,
    }  # fmt: skip


def test_what_the_policy_looks_at_is_written_down_when_it_changes_and_not_else(engine: Engine) -> None:
    open_incident(engine)
    losses = Losses()
    off = RetrainPolicy(enabled=False)
    for minute in range(5):
        ask(engine, off, now_ms=NOW + minute * 60_000)
    with writing(engine) as connection:
        connection.execute(update(tables.incidents).values(affected=3, updated_ms=NOW + HOUR))
    ask(engine, off, now_ms=NOW + HOUR)
    life.resolve(engine, "inc-1", actor="anna", now_ms=NOW + 2 * HOUR)
    for minute in range(3):
        ask(engine, off, now_ms=NOW + 2 * HOUR + minute)
    with reading(engine) as connection:
        found = recorded(connection, 0)
    assert [(at, one.state, one.affected) for at, one in found] == [
        (NOW, "open", 4),
        (NOW + HOUR, "open", 3),
        (NOW + 2 * HOUR, "resolved", 3),
    ]
    assert losses.__dict__ == {"_held": {}}


def at(hours: float, name: str = "inc-1", **changes: object) -> tuple[int, Candidate]:
    plain = replace(CANDIDATE, incident=name, scope_key=f"camera={name}")
    return NOW + round(hours * HOUR), replace(plain, **changes)  # type: ignore[arg-type]  # fields of their types


def test_a_replay_asks_when_the_history_reaches_the_policy() -> None:
    history = [at(0, affected=0), at(1, affected=1), at(2, affected=4), at(3, state="resolved")]
    (asked,) = replay(RetrainPolicy(), history)
    assert (asked.at_ms, asked.why) == (NOW + 2 * HOUR, "")
    (refused,) = replay(RetrainPolicy(min_devices=5), history)
    assert refused.why == "4 devices are affected, below 5"
    assert refused.at_ms == NOW + 2 * HOUR


def test_a_replay_asks_when_the_cooldown_is_over_although_nothing_else_happened() -> None:
    history = [at(0), at(1, "inc-2", scope_key="camera=inc-1")]
    decisions = replay(RetrainPolicy(cooldown_s=10 * 3600), history)
    assert [(one.candidate.incident, one.at_ms, one.why) for one in decisions] == [
        ("inc-1", NOW, ""),
        ("inc-2", NOW + 10 * HOUR, ""),
    ]


def test_a_replay_asks_for_nothing_after_the_end_of_what_was_recorded() -> None:
    history = [at(0), at(1, "inc-2", scope_key="camera=inc-1")]
    policy = RetrainPolicy(cooldown_s=10 * 3600)
    end = history[-1][0] + 3_600_000
    decisions = replay(policy, history, until_ms=end)
    assert [one.candidate.incident for one in decisions if not one.why] == ["inc-1"]
    assert "cooldown" in decisions[1].why
    assert max(one.at_ms for one in decisions) <= end


def test_a_replay_keeps_to_the_week_s_budget_and_takes_the_worthiest_first() -> None:
    history = [at(0, f"inc-{number}", affected=number, members=number) for number in range(2, 9)]
    decisions = replay(RetrainPolicy(per_week=2), [*history, at(1, "inc-8", state="resolved", affected=0)])
    assert [one.candidate.incident for one in decisions if not one.why][:2] == ["inc-7", "inc-8"]
    later = [one for one in decisions if one.at_ms > NOW and not one.why]
    assert {one.at_ms for one in later} == {NOW + week * 7 * DAY for week in (1, 2, 3)}


def test_an_incident_that_ended_does_not_ask_later() -> None:
    history = [
        at(0),
        at(1, "inc-2", scope_key="camera=inc-1"),
        at(2, "inc-2", scope_key="camera=inc-1", state="resolved"),
    ]
    decisions = replay(RetrainPolicy(cooldown_s=10 * 3600), history)
    assert [bool(one.why) for one in decisions] == [False, True]
    assert "cooldown" in decisions[1].why


def test_a_reopened_incident_is_another_episode() -> None:
    history = [at(0), at(1, state="resolved"), at(30, episode=1)]
    assert [one.candidate.episode for one in replay(RetrainPolicy(), history) if not one.why] == [0, 1]


def test_an_empty_history_asks_for_nothing() -> None:
    assert replay(RetrainPolicy(), []) == []


def test_a_backtest_stands_beside_what_was_really_asked_for(engine: Engine) -> None:
    open_incident(engine, "inc-1")
    open_incident(engine, "inc-2", scope_key="camera=C", affected=2, members=10)
    ask(engine)
    with reading(engine) as connection:
        decisions = backtest(connection, RetrainPolicy(min_share=0.0), days=7, now_ms=NOW + HOUR)
    told = {one.candidate.incident: (one.why, one.request) for one in decisions}
    assert told == {"inc-1": ("", "rr-1"), "inc-2": ("", None)}
    assert per_week(decisions, 7) == 2.0
    assert decisions[0].to_dict()["asks"]


def test_a_backtest_of_a_short_time_begins_with_what_stood_then(engine: Engine) -> None:
    open_incident(engine, "inc-1")
    ask(engine, RetrainPolicy(enabled=False))
    with reading(engine) as connection:
        (one,) = backtest(connection, RetrainPolicy(), days=1, now_ms=NOW + 30 * DAY)
    assert (one.at_ms, one.why) == (NOW + 29 * DAY, "")


def test_a_backtest_begins_with_what_stood_then_however_much_was_recorded_before(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driftpost_aggregator.backtest.MAX_SNAPSHOTS", 2)
    with writing(engine) as connection:
        for hours in range(5):
            write_down(connection, [at(hours, affected=hours)[1]], NOW + hours * HOUR)
        write_down(connection, [at(5, state="resolved")[1]], NOW + 5 * HOUR)
    with reading(engine) as connection:
        assert recorded(connection, NOW + DAY) == []
        ((_, one),) = recorded(connection, NOW + 4 * HOUR + 1)[:1]
    assert (one.affected, one.state) == (4, "open")


def escalated(engine: Engine, now_ms: int) -> list[str]:
    return escalate_overdue(engine, answer_s=86_400, finish_s=7 * 86_400, now_ms=now_ms)


def last_event(engine: Engine) -> tuple[str, str]:
    column = tables.incident_events.c
    with reading(engine) as connection:
        row = connection.execute(select(column.event, column.text).order_by(column.id.desc()).limit(1)).one()
    return row.event, row.text


def test_a_request_that_nobody_takes_up_is_escalated_once(engine: Engine) -> None:
    open_incident(engine)
    ask(engine)
    assert escalated(engine, NOW + DAY - 1) == []
    assert escalated(engine, NOW + DAY) == ["rr-1"]
    assert escalated(engine, NOW + 3 * DAY) == []
    event, text = last_event(engine)
    assert event == "escalated"
    assert "delivered to nobody within 24.0 hours" in text


def test_what_is_taken_up_has_time_and_failure_has_none(engine: Engine) -> None:
    open_incident(engine)
    ask(engine)
    report(engine, "rr-1", "running", actor="ci", now_ms=NOW + HOUR)
    assert escalated(engine, NOW + 7 * DAY) == []
    assert escalated(engine, NOW + 7 * DAY + HOUR) == ["rr-1"]
    report(engine, "rr-1", "failed", detail="out of memory", actor="ci", now_ms=NOW + 8 * DAY)
    assert escalated(engine, NOW + 8 * DAY) == ["rr-1"]
    assert "out of memory" in last_event(engine)[1]


def test_each_state_in_which_nothing_comes_is_escalated_by_itself(engine: Engine) -> None:
    open_incident(engine)
    ask(engine, targets=("pipeline",))
    assert escalated(engine, NOW + DAY) == ["rr-1"]
    with writing(engine) as connection:
        connection.execute(update(tables.deliveries).values(state="delivered"))
        settle_delivery(connection, "rr-1", NOW + DAY + HOUR)
    assert escalated(engine, NOW + 2 * DAY) == []
    assert escalated(engine, NOW + 2 * DAY + HOUR) == ["rr-1"]
    assert "no pipeline has taken up request rr-1 within 24.0 hours" in last_event(engine)[1]
    assert escalated(engine, NOW + 9 * DAY) == []


def test_what_is_done_is_never_escalated(engine: Engine) -> None:
    open_incident(engine)
    ask(engine)
    report(engine, "rr-1", "done", new_bundle="n" * 64, actor="ci", now_ms=NOW)
    assert escalated(engine, NOW + 100 * DAY) == []
