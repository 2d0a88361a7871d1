import math
from dataclasses import replace

import pytest

from examples.run_facts import ACCOUNT, COHORT, DELIVERY, DEVICE, DRIFT_MS, FINDING, RIGHT
from scenario import DEVICES, FROZEN_DEVICE, cohort, effect_of
from summary import accuracy, checks, passed, windows_after


@pytest.fixture
def facts():
    return RIGHT


@pytest.fixture
def calm(facts):
    return replace(facts, drift=False, incidents=[], findings=[], deliveries=[], requests={})


def broken(facts):
    return [check.promise for check in checks(facts) if not check.kept]


def test_a_right_run_keeps_every_promise(facts):
    assert broken(facts) == []
    assert passed(facts)


def test_a_calm_run_keeps_every_promise(calm):
    assert passed(calm)


@pytest.mark.parametrize(
    "incidents",
    [
        pytest.param([DEVICE], id="cohort missed"),
        pytest.param([COHORT], id="device missed"),
        pytest.param([], id="both missed"),
        pytest.param([replace(COHORT, devices=cohort() - {"meter-2"}), DEVICE], id="a member left out"),
        pytest.param([replace(COHORT, devices=cohort() | {"meter-1"}), DEVICE], id="a stranger let in"),
        pytest.param([replace(COHORT, scope_key="site=north"), DEVICE], id="wrong attribute"),
        pytest.param([replace(COHORT, scope="fleet", scope_key=""), DEVICE], id="wrong scope"),
        pytest.param([COHORT, replace(COHORT, id="i-2"), DEVICE], id="cohort twice"),
        pytest.param(
            [COHORT, replace(DEVICE, detail="shift", kind="covariate_shift")], id="not called stuck"
        ),
        pytest.param([COHORT, replace(DEVICE, scope_key="meter-7")], id="wrong device"),
        pytest.param([COHORT, DEVICE, replace(DEVICE, id="i-3", scope_key="meter-1")], id="one too many"),
        pytest.param(
            [COHORT, DEVICE, replace(DEVICE, id="i-3", scope_key="meter-1", state="resolved")],
            id="one too many, resolved since",
        ),
    ],
)
def test_wrong_incidents_break_a_promise(facts, incidents):
    assert not passed(replace(facts, incidents=incidents))


EARLY = replace(
    COHORT,
    id="i-0",
    scope="device",
    scope_key="meter-2",
    state="absorbed",
    absorbed_into="i-cohort",
    devices=frozenset({"meter-2"}),
)


def test_a_devices_incident_that_ended_in_its_own_cohorts_is_no_other_incident(facts):
    assert passed(replace(facts, incidents=[EARLY, COHORT, DEVICE]))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"scope_key": "meter-1", "devices": frozenset({"meter-1"})}, id="of a healthy device"),
        pytest.param({"scope": "cohort", "scope_key": "site=north"}, id="of another cohort"),
        pytest.param({"scope": "fleet", "scope_key": ""}, id="of the fleet"),
        pytest.param({"devices": frozenset({"meter-2", "meter-1"})}, id="holding a healthy device"),
        pytest.param({"absorbed_into": "i-device"}, id="into the frozen device's"),
        pytest.param({"state": "resolved"}, id="not absorbed"),
    ],
)
def test_absorption_does_not_hide_an_incident_that_should_not_have_been(facts, change):
    hidden = replace(EARLY, **change)
    assert broken(replace(facts, incidents=[hidden, COHORT, DEVICE])) == ["no other incident"]


def test_a_finding_in_the_quiet_stretch_breaks_a_promise_though_no_incident_came_of_it(facts):
    early = replace(FINDING, at_ms=DRIFT_MS - 1)
    assert broken(replace(facts, findings=[early, *facts.findings])) == ["no alarm in the quiet stretch"]


def test_a_finding_of_a_healthy_device_breaks_a_promise(facts):
    false = replace(FINDING, device="meter-1")
    assert broken(replace(facts, findings=[*facts.findings, false])) == [
        "no finding of a device that nothing happened to"
    ]


def test_an_alarm_in_the_quiet_stretch_breaks_a_promise_whatever_came_of_it(facts):
    early = replace(COHORT, opened_ms=DRIFT_MS - 1)
    assert "no alarm in the quiet stretch" in broken(replace(facts, incidents=[early, DEVICE]))


@pytest.mark.parametrize(
    "deliveries",
    [
        pytest.param([], id="none"),
        pytest.param([replace(DELIVERY, accepted=False, problem="signature: no")], id="unsigned"),
        pytest.param([DELIVERY, replace(DELIVERY, webhook_id="msg_2")], id="two"),
        pytest.param(
            [replace(DELIVERY, event={"data": {"incident": {"id": "i-device"}}})], id="other incident"
        ),
        pytest.param([replace(DELIVERY, webhook_id="msg_9")], id="unknown to the aggregator"),
    ],
)
def test_a_wrong_retrain_request_breaks_a_promise(facts, deliveries):
    assert not passed(replace(facts, deliveries=deliveries))


def test_a_repeated_delivery_of_one_request_is_no_second_request(facts):
    assert passed(replace(facts, deliveries=[DELIVERY, replace(DELIVERY, duplicate=True)]))


def test_the_pipelines_answer_must_have_come_back(facts):
    assert broken(replace(facts, requests={"msg_1": "delivered"})) == [
        "the pipeline's answer reached the aggregator"
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"fed": 901},
        {"recorded": 899},
        {"stored": 940},
        {"merged": 860},
        {"pending": 1},
        {"quarantined": 1},
        {"lost": 1},
        {"unsent_findings": 1},
        {"fed": 0, "recorded": 0, "stored": 0, "merged": 0},
    ],
)
def test_a_row_lost_or_doubled_anywhere_breaks_a_promise(facts, change):
    accounts = {**facts.accounts, "meter-3": replace(ACCOUNT, **change)}
    wrong = replace(facts, accounts=accounts)
    assert len(broken(wrong)) == 1
    assert "meter-3" in next(check.detail for check in checks(wrong) if not check.kept)


def test_a_device_without_an_account_breaks_a_promise(facts):
    accounts = {name: account for name, account in facts.accounts.items() if name != "meter-8"}
    assert not passed(replace(facts, accounts=accounts))


def test_a_camera_that_failed_breaks_a_promise(facts):
    assert not passed(replace(facts, failures=["meter-1: connection refused"]))


@pytest.mark.parametrize(
    "change",
    [
        {"incidents": [COHORT]},
        {"findings": [FINDING]},
        {"deliveries": [DELIVERY]},
        {"requests": {"msg_1": "created"}},
    ],
)
def test_anything_found_without_drift_breaks_a_promise(calm, change):
    assert not passed(replace(calm, **change))


def test_windows_after_onset_count_the_one_that_was_under_way():
    assert windows_after(DRIFT_MS, replace(COHORT, opened_ms=DRIFT_MS + 1)) == 1
    assert windows_after(DRIFT_MS, replace(COHORT, opened_ms=DRIFT_MS + 4_000)) == 2
    assert windows_after(DRIFT_MS, replace(COHORT, opened_ms=DRIFT_MS + 4_001)) == 3


def test_accuracy_weighs_devices_by_their_frames(facts):
    assert accuracy(facts, "quiet", cohort()) == pytest.approx(0.975)
    assert accuracy(facts, "drift", cohort()) == pytest.approx(0.5)
    assert math.isnan(accuracy(facts, "other", cohort()))


def test_only_the_camera_separates_the_drifting_devices_from_the_others():
    drifting = cohort()
    assert len(drifting) == 4
    assert FROZEN_DEVICE not in drifting
    for key in ("site", "firmware", "runtime"):
        for value in {device.attributes[key] for device in DEVICES}:
            holders = [device for device in DEVICES if device.attributes[key] == value]
            assert 2 * len(drifting & {device.name for device in holders}) == len(holders), (key, value)
    changed = {device.name for device in DEVICES if effect_of(device) != effect_of(DEVICES[0])}
    assert changed == drifting | {FROZEN_DEVICE}
