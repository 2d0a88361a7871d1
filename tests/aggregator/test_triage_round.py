"""Whole fleets through ingest and triage: which incidents come out, with which scope, cause and life."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, RowMapping, event, select

from driftpost_aggregator import audit, incidents, triage_round
from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.causes import Cause
from driftpost_aggregator.evidence import PRESENT_MS
from driftpost_aggregator.hidden_drift import hidden_causes
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.merged_watch import MergedWatch
from driftpost_aggregator.registry import MAX_WINDOW_S, OWNER, KnownBundle, register
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.triage_round import MAX_SETTLING_WINDOW_S, Triage
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.window import MAX_COUNT
from paper_fleet import FLEET, NOW, WINDOW_S, PaperBundle, PaperDevice, draw, make_bundle

STEP_MS = int(WINDOW_S * 1000)
ROWS = 60
DIM = {"brightness": -3.0, "sharpness": -2.0}


@pytest.fixture
def engine(engine: Engine) -> Engine:
    """No power fails here: thousands of small commits need not wait for the disk."""

    def hasty(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF").close()

    event.listen(engine, "connect", hasty)
    engine.dispose()
    return engine


@pytest.fixture(scope="module")
def bundle() -> PaperBundle:
    return make_bundle()


class Fleet:
    """A scripted fleet whose windows and findings go through the real ingest, then the real triage."""

    def __init__(
        self,
        engine: Engine,
        bundle: PaperBundle,
        attributes: Sequence[Mapping[str, str]],
        *,
        bucket_s: int = 20,
        rows: int = ROWS,
        budget: str = "1 per fleet-year",
    ) -> None:
        self.engine = engine
        self.bundles = [bundle] * len(attributes)
        self.rows = rows
        self.now = NOW
        self.devices = [PaperDevice(f"m{index}", own) for index, own in enumerate(attributes)]
        self.generator = np.random.default_rng(11)
        self.ingest = Ingest(engine, fleet=FLEET, bucket_s=bucket_s, now_ms=lambda: self.now)
        numbers = itertools.count(1)
        self.triage = Triage(
            engine,
            budget=Budget.parse(budget),
            bucket_s=bucket_s,
            settle_windows=3.0,
            reopen_s=86_400.0,
            now_ms=lambda: self.now,
            new_id=lambda: f"inc-{next(numbers)}",
        )
        first = self.devices[0]
        self.send(first, first.item("describe", bundle.describe.to_bytes()))
        for device in self.devices:
            self.ingest.take([Incoming(device.identity.state, device.presence(), self.now)])

    def send(self, device: PaperDevice, *items: object) -> None:
        payload = device.message(items, self.now)  # type: ignore[arg-type]  # items of several kinds
        self.ingest.take([Incoming(device.identity.up, payload, self.now)])

    def step(
        self,
        shifts: Mapping[int, Mapping[str, float]] | None = None,
        findings: Sequence[tuple[int, Mapping[str, object]]] = (),
        *,
        stuck: Mapping[int, str] | None = None,
    ) -> None:
        """One window of every device, the findings that come with it, and a round of triage."""
        self.now += STEP_MS
        batch = []
        for index, device in enumerate(self.devices):
            values = draw(
                self.generator,
                self.rows,
                shift=(shifts or {}).get(index),
                stuck=(stuck or {}).get(index),
            )
            items = [device.window(self.bundles[index].window(values), self.now)]
            items += [
                device.finding(self.now, **words)  # type: ignore[arg-type]  # keywords of one call
                for number, words in findings
                if number == index
            ]
            batch.append(Incoming(device.identity.up, device.message(items, self.now), self.now))
        self.ingest.take(batch)
        self.triage.round()

    def incidents(self, *states: str) -> list[RowMapping]:
        wanted = states or ("open", "acknowledged", "muted")
        query = select(tables.incidents).where(tables.incidents.c.state.in_(wanted))
        with reading(self.engine) as connection:
            return list(connection.execute(query.order_by(tables.incidents.c.opened_ms)).mappings())

    def events(self, incident: str) -> list[str]:
        query = select(tables.incident_events.c.event).where(tables.incident_events.c.incident == incident)
        with reading(self.engine) as connection:
            return list(connection.execute(query.order_by(tables.incident_events.c.id)).scalars())

    def affected(self, incident: str) -> set[str]:
        table = tables.incident_devices
        query = select(table.c.device).where(table.c.incident == incident, table.c.cleared_ms.is_(None))
        with reading(self.engine) as connection:
            return set(connection.execute(query).scalars())


def cameras(count: int = 8) -> list[dict[str, str]]:
    """Half of the devices have camera B; sites and firmware lie across."""
    return [
        {
            "camera": "B" if index < count // 2 else "A",
            "site": ("north", "south")[index % 2],
            "firmware": ("2.2", "2.3", "2.4")[index % 3],
        }
        for index in range(count)
    ]


def dimmed(*indices: int) -> dict[int, dict[str, float]]:
    return dict.fromkeys(indices, DIM)


def dark(index: int, **more: object) -> tuple[int, dict[str, object]]:
    words: dict[str, object] = {
        "name": f"dark-{index}",
        "streams": (("brightness", 0.7), ("sharpness", 0.3)),
        "effect": -3.0,
        "direction": "down",
    }
    return index, words | more


def test_two_builds_of_one_model_that_drift_alike_are_one_incident(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras())
    other = make_bundle("d" * 64, seed=5)
    for device in fleet.devices[::2]:
        device.bundle = other.describe.bundle
        fleet.ingest.take([Incoming(device.identity.state, device.presence(), fleet.now)])
    fleet.send(fleet.devices[0], fleet.devices[0].item("describe", other.describe.to_bytes()))
    fleet.bundles = [other, bundle] * 4
    fleet.step()
    fleet.step(dimmed(0, 1, 2, 3), [dark(index) for index in range(4)])
    for _ in range(5):
        fleet.step(dimmed(0, 1, 2, 3))
    (incident,) = fleet.incidents()
    assert (incident["scope_key"], incident["affected"], incident["model"]) == ("camera=B", 4, "meter reader")
    assert sorted(incident["bundles"]) == ["b" * 64, "d" * 64]
    assert incident["streams"][0]["effect"] == pytest.approx(-3.0, abs=0.2)


def test_a_broken_build_is_the_cohort_of_those_that_run_it(engine: Engine, bundle: PaperBundle) -> None:
    fleet = Fleet(engine, bundle, cameras())
    other = make_bundle("d" * 64, seed=5)
    for device in fleet.devices[2:6]:
        device.bundle = other.describe.bundle
        fleet.ingest.take([Incoming(device.identity.state, device.presence(), fleet.now)])
    fleet.send(fleet.devices[0], fleet.devices[0].item("describe", other.describe.to_bytes()))
    fleet.bundles = [bundle, bundle, other, other, other, other, bundle, bundle]
    fleet.step()
    words = {"streams": (("confidence", 1.0),), "effect": -2.0, "direction": "down"}
    doubting = {index: {"confidence": -2.0} for index in range(2, 6)}
    fleet.step(doubting, [(index, words) for index in range(2, 6)])
    for _ in range(5):
        fleet.step(doubting)
    (incident,) = fleet.incidents()
    assert (incident["scope_key"], incident["kind"]) == ("bundle=dddddddddddd", "output_shift")


def cleared(index: int) -> tuple[int, dict[str, object]]:
    return dark(index, state="cleared")


def test_without_drift_nothing_is_opened(engine: Engine, bundle: PaperBundle) -> None:
    fleet = Fleet(engine, bundle, cameras())
    for _ in range(40):
        fleet.step()
    assert fleet.incidents("open", "resolved", "absorbed") == []


def test_one_camera_type_that_goes_dark_is_one_cohort_incident(engine: Engine, bundle: PaperBundle) -> None:
    fleet = Fleet(engine, bundle, cameras())
    for _ in range(4):
        fleet.step()
    onset = fleet.now
    fleet.step(dimmed(0, 1, 2, 3), [dark(0, onset_ms=onset)])
    fleet.step(dimmed(0, 1, 2, 3), [dark(1, onset_ms=onset), dark(2, onset_ms=onset)])
    assert fleet.incidents() == [], "the scope is not fixed while devices still join"
    fleet.step(dimmed(0, 1, 2, 3), [dark(3, onset_ms=onset)])
    for _ in range(4):
        fleet.step(dimmed(0, 1, 2, 3))
    (incident,) = fleet.incidents()
    assert (incident["scope"], incident["scope_key"]) == ("cohort", "camera=B")
    assert incident["attributes"] == [["camera", "B"]]
    assert incident["kind"] == "covariate_shift"
    assert (incident["affected"], incident["members"], incident["elsewhere"]) == (4, 4, 0)
    assert incident["onset_ms"] == onset
    assert incident["risk_ratio"] > 1
    assert incident["cause"].startswith("camera=B: 4 of 4 devices; brightness 3.0 sd lower (\N{MINUS SIGN}3")
    assert incident["cause"].endswith("; no other device affected")
    first, second = incident["streams"][:2]
    assert (first["stream"], second["stream"]) == ("brightness", "sharpness")
    assert first["effect"] == pytest.approx(-3.0, abs=0.2)
    assert first["effect_natural"] == pytest.approx(-30.0, abs=2.0)
    assert second["effect"] == pytest.approx(-2.0, abs=0.2)
    assert fleet.affected(incident["incident"]) == {"m0", "m1", "m2", "m3"}
    assert fleet.events(incident["incident"]) == ["opened"]


def test_a_stuck_sensor_beside_a_cohort_stays_an_incident_of_its_own(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras())
    fleet.step()
    stuck = (6, {"kind": "stuck", "streams": (("sharpness", 1.0),), "effect": 0.1, "direction": "none"})
    # The frozen picture also lies far from the mean: its device reports a shift too.
    shifted = (6, {"kind": "shift", "streams": (("contrast", 1.0),), "effect": 1.4, "direction": "up"})
    fleet.step(
        dimmed(0, 1, 2, 3), [dark(0), dark(1), dark(2), dark(3), stuck, shifted], stuck={6: "sharpness"}
    )
    for _ in range(5):
        fleet.step(dimmed(0, 1, 2, 3), stuck={6: "sharpness"})
    found = {(one["scope"], one["scope_key"], one["kind"], one["detail"]) for one in fleet.incidents()}
    assert found == {
        ("cohort", "camera=B", "covariate_shift", "shift"),
        ("device", "m6", "sensor_fault", "stuck"),
    }
    causes = " ".join(one["cause"] for one in fleet.incidents())
    assert "device m6: sharpness repeats one value" in causes
    assert "camera=B: 4 of 4 devices" in causes


def test_one_stuck_sensor_alone_opens_one_device_incident_and_no_fleet_one(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras())
    fleet.step()
    far = {6: {"brightness": 12.0}}
    words = {"kind": "stuck", "streams": (("brightness", 1.0),), "effect": 12.0, "direction": "up"}
    fleet.step(far, [(6, words)], stuck={6: "brightness"})
    for _ in range(15):
        fleet.step(far, stuck={6: "brightness"})
    (incident,) = fleet.incidents("open", "absorbed", "resolved")
    assert (incident["scope"], incident["scope_key"], incident["kind"]) == ("device", "m6", "sensor_fault")


def test_drift_of_every_device_is_one_fleet_incident(engine: Engine, bundle: PaperBundle) -> None:
    fleet = Fleet(engine, bundle, cameras())
    fleet.step()
    everyone = range(8)
    fleet.step(dimmed(*everyone), [dark(index) for index in range(5)])
    fleet.step(dimmed(*everyone), [dark(index) for index in range(5, 8)])
    for _ in range(5):
        fleet.step(dimmed(*everyone))
    (incident,) = fleet.incidents()
    assert (incident["scope"], incident["scope_key"], incident["affected"]) == ("fleet", "", 8)
    assert incident["cause"].startswith("the whole fleet: 8 of 8 devices; brightness 3.0 sd lower")


def test_scattered_devices_that_drift_differently_stay_incidents_of_their_own(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras(12))
    fleet.step()
    shifts = {1: {"brightness": 2.0}, 4: {"sharpness": -2.5}, 9: {"contrast": 3.0}}
    findings = [
        (1, {"streams": (("brightness", 1.0),), "effect": 2.0, "direction": "up"}),
        (4, {"streams": (("sharpness", 1.0),), "effect": -2.5, "direction": "down"}),
        (9, {"streams": (("contrast", 1.0),), "effect": 3.0, "direction": "up"}),
    ]
    fleet.step(shifts, findings)
    for _ in range(6):
        fleet.step(shifts)
    assert sorted((one["scope"], one["scope_key"]) for one in fleet.incidents()) == [
        ("device", "m1"),
        ("device", "m4"),
        ("device", "m9"),
    ]


def test_opposite_drifts_of_two_camera_types_are_two_incidents(engine: Engine, bundle: PaperBundle) -> None:
    attributes = [{"camera": "ABC"[index % 3], "site": "ns"[index // 3 % 2]} for index in range(15)]
    fleet = Fleet(engine, bundle, attributes)
    fleet.step()
    down = [index for index in range(15) if index % 3 == 0]
    up = [index for index in range(15) if index % 3 == 1]
    shifts = {**dimmed(*down), **{index: {"brightness": 3.0} for index in up}}
    bright = {"streams": (("brightness", 1.0),), "effect": 3.0, "direction": "up"}
    fleet.step(shifts, [dark(index) for index in down] + [(index, bright) for index in up])
    for _ in range(5):
        fleet.step(shifts)
    assert sorted((one["scope_key"], one["affected"]) for one in fleet.incidents()) == [
        ("camera=A", 5),
        ("camera=B", 5),
    ]


def test_device_incidents_that_turn_out_to_be_a_cohort_become_one(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras())
    fleet.step()
    fleet.step(dimmed(0), [dark(0)])
    for _ in range(4):
        fleet.step(dimmed(0))
    (first,) = fleet.incidents()
    assert first["scope"] == "device"
    fleet.step(dimmed(0, 1), [dark(1)])
    for _ in range(4):
        fleet.step(dimmed(0, 1))
    fleet.step(dimmed(0, 1, 2, 3), [dark(2), dark(3)])
    for _ in range(4):
        fleet.step(dimmed(0, 1, 2, 3))
    (incident,) = fleet.incidents()
    assert incident["incident"] == first["incident"], "the oldest one carries on"
    assert (incident["scope_key"], incident["affected"]) == ("camera=B", 4)
    assert fleet.events(incident["incident"]) == ["opened", "widened"]
    for absorbed in fleet.incidents("absorbed"):
        assert absorbed["absorbed_into"] == incident["incident"]
    with reading(engine) as connection:
        assert set(connection.execute(select(tables.findings.c.incident)).scalars()) == {incident["incident"]}


def test_an_incident_keeps_its_scope_while_members_clear_and_ends_with_the_last(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras())
    fleet.step()
    fleet.step(dimmed(0, 1, 2, 3), [dark(index) for index in range(4)])
    for _ in range(4):
        fleet.step(dimmed(0, 1, 2, 3))
    (incident,) = fleet.incidents()
    fleet.step({}, [cleared(0), cleared(1), cleared(2)])
    fleet.step({})
    (still,) = fleet.incidents()
    assert (still["scope_key"], still["affected"], still["members"]) == ("camera=B", 1, 4)
    assert fleet.affected(incident["incident"]) == {"m3"}
    fleet.step({}, [cleared(3)])
    for _ in range(30):
        fleet.step({})
    assert fleet.incidents() == []
    (over,) = fleet.incidents("resolved")
    assert over["incident"] == incident["incident"]
    assert fleet.events(over["incident"]) == ["opened", "resolved"]


def test_the_same_cause_within_the_reopening_time_reopens_its_incident(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras())
    fleet.step()
    fleet.step(dimmed(5), [dark(5)])
    for _ in range(4):
        fleet.step(dimmed(5))
    fleet.step({}, [cleared(5)])
    fleet.step({})
    assert [one["state"] for one in fleet.incidents("resolved")] == ["resolved"]
    fleet.step(dimmed(5), [dark(5, name="again")])
    for _ in range(4):
        fleet.step(dimmed(5))
    (incident,) = fleet.incidents()
    assert (incident["incident"], incident["reopened"], incident["resolved_ms"]) == ("inc-1", 1, None)
    assert fleet.events("inc-1") == ["opened", "resolved", "reopened"]


def test_a_shift_that_turns_out_to_be_a_stuck_sensor_becomes_that(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras())
    fleet.step()
    far = {6: {"brightness": 4.0}}
    shift = {"streams": (("brightness", 1.0),), "effect": 4.0, "direction": "up"}
    fleet.step(far, [(6, shift)], stuck={6: "brightness"})
    for _ in range(4):
        fleet.step(far, stuck={6: "brightness"})
    assert [one["kind"] for one in fleet.incidents()] == ["covariate_shift"]
    stuck = {"kind": "stuck", "streams": (("brightness", 1.0),), "effect": 4.0, "direction": "up"}
    fleet.step(far, [(6, stuck)], stuck={6: "brightness"})
    (incident,) = fleet.incidents()
    assert (incident["incident"], incident["kind"], incident["detail"]) == (
        "inc-1",
        "sensor_fault",
        "stuck",
    )


def test_drift_too_small_for_any_device_is_seen_on_the_cohort_s_merged_windows(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras(12), rows=400)
    small = {index: {"contrast": 0.3} for index in range(6)}
    for _ in range(4):
        fleet.step()
    for _ in range(30):
        fleet.step(small)
        if fleet.incidents():
            break
    (incident,) = fleet.incidents()
    assert (incident["scope"], incident["scope_key"]) == ("cohort", "camera=B")
    assert incident["streams"][0]["stream"] == "contrast"
    assert incident["streams"][0]["effect"] == pytest.approx(0.3, abs=0.1)
    assert fleet.affected(incident["incident"]) >= {"m0", "m1"}
    for _ in range(60):
        fleet.step({})
        if not fleet.incidents():
            break
    assert [one["state"] for one in fleet.incidents("resolved")] == ["resolved"]


def test_drift_of_all_too_small_for_any_is_the_fleet_s_not_its_largest_cohort_s(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras(12), rows=400)
    small = {index: {"contrast": 0.3} for index in range(12)}
    for _ in range(30):
        fleet.step(small)
        if fleet.incidents():
            break
    assert [(one["scope"], one["affected"]) for one in fleet.incidents()] == [("fleet", 12)]


def test_a_restart_in_mid_stream_changes_nothing(engine: Engine, bundle: PaperBundle) -> None:
    fleet = Fleet(engine, bundle, cameras(12), rows=400)
    small = {index: {"contrast": 0.3} for index in range(6)}
    for step in range(30):
        fleet.step(small)
        if step % 5 == 4:
            fleet.triage = Triage(
                engine,
                budget=Budget.parse("1 per fleet-year"),
                bucket_s=20,
                settle_windows=3.0,
                reopen_s=86_400.0,
                now_ms=lambda: fleet.now,
                new_id=lambda: f"inc-after-{fleet.now}",
            )
    assert [(one["scope"], one["scope_key"]) for one in fleet.incidents()] == [("cohort", "camera=B")]


def test_a_person_s_changes_are_recorded_and_a_mute_ends_by_itself(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras())
    fleet.step()
    fleet.step(dimmed(5), [dark(5)])
    for _ in range(4):
        fleet.step(dimmed(5))
    incidents.acknowledge(engine, "inc-1", actor="anna", now_ms=fleet.now)
    incidents.note(engine, "inc-1", text="lamp broken", actor="anna", now_ms=fleet.now)
    incidents.mute(engine, "inc-1", until_ms=fleet.now + 25_000, actor="ben", now_ms=fleet.now)
    fleet.step(dimmed(5))
    assert [one["state"] for one in fleet.incidents()] == ["muted"]
    fleet.step(dimmed(5))
    fleet.step(dimmed(5))
    assert [one["state"] for one in fleet.incidents()] == ["open"]
    assert fleet.events("inc-1") == ["opened", "acknowledged", "note", "muted", "unmuted"]
    with reading(engine) as connection:
        assert audit.verify(connection).rows == 6  # the bundle's description is the first


def test_an_incident_that_a_person_resolved_stays_so_until_something_new_is_found(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras())
    fleet.step()
    fleet.step(dimmed(5), [dark(5)])
    for _ in range(4):
        fleet.step(dimmed(5))
    incidents.resolve(engine, "inc-1", actor="anna", now_ms=fleet.now)
    for _ in range(6):
        fleet.step(dimmed(5))
    assert fleet.incidents() == []
    fleet.step(dimmed(5), [dark(5, name="worse")])
    for _ in range(4):
        fleet.step(dimmed(5))
    assert [one["incident"] for one in fleet.incidents()] == ["inc-1"]


def test_findings_on_a_bundle_that_its_device_no_longer_runs_do_not_stand(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras())
    fleet.step()
    fleet.step(dimmed(5), [dark(5)])
    for _ in range(4):
        fleet.step(dimmed(5))
    assert len(fleet.incidents()) == 1
    device = fleet.devices[5]
    device.bundle = "c" * 64
    fleet.ingest.take([Incoming(device.identity.state, device.presence(), fleet.now)])
    fleet.triage.round()
    assert fleet.incidents() == []


def test_a_crashed_model_and_a_full_disk_are_faults_not_drift(engine: Engine, bundle: PaperBundle) -> None:
    fleet = Fleet(engine, bundle, cameras())
    fleet.step()
    crash = {"kind": "crashed", "source": "runtime", "streams": (("model", 1.0),), "log_e": 0.0}
    disk = {"kind": "disk_full", "source": "device", "streams": (("disk", 1.0),), "log_e": 0.0}
    said = "output 'p' of golden call 6 differs from the bundle by 9.8 times its tolerance"
    fault = {"kind": "model_fault", "source": "runtime", "streams": (), "log_e": 0.0, "text": said}
    fleet.step({}, [(2, crash), (5, fault), (7, disk)])
    for _ in range(4):
        fleet.step()
    found = {one["scope_key"]: one for one in fleet.incidents()}
    assert {key: one["kind"] for key, one in found.items()} == {
        "m2": "model_fault",
        "m5": "model_fault",
        "m7": "device_fault",
    }
    assert "golden inputs are answered otherwise" in found["m5"]["title"]
    assert said in found["m5"]["cause"]


def test_a_device_that_claims_impossible_counts_does_not_keep_the_others_from_being_judged(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, [{"camera": "A"}, {"camera": "B"}])
    bad = fleet.devices[0]
    year_ms = 365 * 86_400_000
    bad.booted_ms = NOW - 4 * year_ms
    sketch = bundle.window(draw(fleet.generator, 50))
    counts = np.zeros_like(sketch.counts)
    counts[sketch.layout[:-1]] = MAX_COUNT
    none = np.zeros_like(sketch.missing)
    huge = replace(sketch, rows=MAX_COUNT, counts=counts, missing=none, nonfinite=none, sum1=none, sum2=none)
    windows = [bad.window(huge, NOW - back, length_ms=3 * year_ms) for back in (0, 30_000)]
    fleet.send(bad, *windows, bad.finding(NOW, onset_ms=NOW - 3 * year_ms - 60_000))
    fleet.step(findings=[(1, {"kind": "stuck", "streams": [("brightness", 1.0)]})], stuck={1: "brightness"})
    for _ in range(4):
        fleet.step(stuck={1: "brightness"})
    assert "m1" in {row["scope_key"] for row in fleet.incidents()}


def test_an_incident_does_not_speak_for_devices_that_have_not_reported_since_its_onset(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, cameras())
    for _ in range(4):
        fleet.step()
    onset, everybody = fleet.now, fleet.devices
    fleet.devices = everybody[:6]
    fleet.step(dimmed(0, 1, 2, 3), [dark(index, onset_ms=onset) for index in range(4)])
    for _ in range(4):
        fleet.step(dimmed(0, 1, 2, 3))
    (incident,) = fleet.incidents()
    assert incident["cause"].endswith("; no other device affected of 2 that reported since, 2 did not")
    fleet.devices = everybody
    fleet.step(dimmed(0, 1, 2, 3))
    (incident,) = fleet.incidents()
    assert incident["cause"].endswith("; no other device affected")


def test_a_device_that_describes_day_long_windows_first_does_not_silence_its_model(
    engine: Engine, bundle: PaperBundle
) -> None:
    claimed = replace(bundle, describe=replace(bundle.describe, window_s=MAX_WINDOW_S))
    fleet = Fleet(engine, claimed, [{"camera": "A"}, {"camera": "B"}])
    fleet.step(findings=[(1, {"kind": "stuck", "streams": [("brightness", 1.0)]})], stuck={1: "brightness"})
    fleet.step(stuck={1: "brightness"})
    assert fleet.incidents() == []
    fleet.now += int(3.0 * MAX_SETTLING_WINDOW_S * 1000)
    fleet.step(stuck={1: "brightness"})
    assert [one["scope_key"] for one in fleet.incidents()] == ["m1"]


def plain(count: int = 16) -> list[dict[str, str]]:
    """Attributes that have nothing to do with each other."""
    return [{"camera": "AB"[index % 2], "site": ("north", "south")[index // 2 % 2]} for index in range(count)]


def small(index: int, effect: float, **more: object) -> tuple[int, dict[str, object]]:
    words: dict[str, object] = {
        "name": f"small-{index}",
        "streams": (("brightness", 1.0),),
        "effect": effect,
        "direction": "up" if effect > 0 else "down",
    }
    return index, words | more


def test_devices_that_differ_by_nature_open_no_incident_and_a_fault_among_them_does(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, plain())
    nature = {index: {"brightness": float(x)} for index, x in enumerate(np.linspace(-0.5, 0.5, 16))}
    for _ in range(6):
        fleet.step(nature)
    far = [small(0, -0.5, onset_ms=NOW), small(15, 0.5, onset_ms=NOW)]
    fleet.step(nature, far)
    for _ in range(5):
        fleet.step(nature)
    assert fleet.incidents("open", "resolved", "absorbed") == []
    broken = nature | {7: {"brightness": 4.0}}
    fleet.step(broken, [small(7, 4.0)])
    for _ in range(5):
        fleet.step(broken)
    (incident,) = fleet.incidents("open", "resolved", "absorbed")
    assert (incident["scope"], incident["scope_key"]) == ("device", "m7")


@pytest.mark.parametrize("silent", [range(15, 16), range(6, 16)], ids=["one", "most of the fleet"])
def test_a_device_that_differs_by_nature_does_not_become_an_incident_by_falling_silent(
    engine: Engine, bundle: PaperBundle, silent: range
) -> None:
    fleet = Fleet(engine, bundle, plain())
    nature = {index: {"brightness": float(x)} for index, x in enumerate(np.linspace(-0.5, 0.5, 16))}
    fleet.step(nature, [small(0, -0.5), small(15, 0.5)])
    for _ in range(5):
        fleet.step(nature)
    fleet.devices = fleet.devices[: silent.start]
    for _ in range(6):
        fleet.step(nature)
    fleet.now += 2 * PRESENT_MS
    fleet.step(nature)
    assert fleet.incidents("open", "resolved", "absorbed") == []


def test_a_device_that_moves_within_the_fleets_spread_has_moved_against_its_own_past(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, plain())
    nature = {index: {"brightness": float(x)} for index, x in enumerate(np.linspace(-2.0, 2.0, 16))}
    for _ in range(8):
        fleet.step(nature)
    moved = nature | {3: {"brightness": 0.8}}
    onset = fleet.now
    fleet.step(moved, [small(3, 0.8, onset_ms=onset)])
    for _ in range(6):
        fleet.step(moved)
    (incident,) = fleet.incidents()
    assert (incident["scope"], incident["scope_key"]) == ("device", "m3")


def test_devices_that_drift_together_without_an_attribute_are_one_group(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, plain(24))
    fleet.step()
    group = (0, 5, 10, 15)
    fleet.step(dimmed(*group), [dark(index) for index in group])
    for _ in range(5):
        fleet.step(dimmed(*group))
    (incident,) = fleet.incidents()
    assert (incident["scope"], incident["affected"], incident["members"]) == ("group", 4, 4)
    assert fleet.affected(incident["incident"]) == {f"m{index}" for index in group}
    assert "4 devices without an attribute in common" in incident["title"]
    assert incident["card"]["rest"]["drifts"] is False
    fleet.step(dimmed(*group, 20), [dark(20)])
    for _ in range(4):
        fleet.step(dimmed(*group, 20))
    (incident,) = fleet.incidents()
    assert (incident["affected"], incident["members"]) == (5, 5)
    for index in (*group, 20):
        fleet.step({}, [cleared(index)])
    for _ in range(3):
        fleet.step()
    assert fleet.incidents() == []
    assert len(fleet.incidents("resolved")) == 1


def test_devices_that_send_what_they_do_not_report_are_named_as_suspicious(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, plain(30))
    for _ in range(3):
        fleet.step()
    lies = {3: {"brightness": 4.0}, 14: {"sharpness": -4.0}, 25: {"contrast": 4.0, "confidence": -3.0}}
    for _ in range(8):
        fleet.step(lies)
    (incident,) = fleet.incidents("open", "resolved", "absorbed")
    assert (incident["kind"], incident["scope"], incident["affected"]) == ("poisoning", "group", 3)
    assert fleet.affected(incident["incident"]) == {"m3", "m14", "m25"}
    assert "contradict" in incident["title"]
    # Once they run another bundle nothing speaks against them.
    other = make_bundle("d" * 64, seed=5)
    fleet.send(fleet.devices[3], fleet.devices[3].item("describe", other.describe.to_bytes()))
    for index in (3, 14, 25):
        fleet.devices[index].bundle = other.describe.bundle
        device = fleet.devices[index]
        fleet.ingest.take([Incoming(device.identity.state, device.presence(), fleet.now)])
        fleet.bundles[index] = other
    for _ in range(6):
        fleet.step()
    assert fleet.incidents() == []


def test_what_a_device_said_long_before_it_stood_apart_does_not_excuse_its_silence(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, plain(30))
    apart = {20: {"brightness": 4.0}}  # for longer than all that follows
    fleet.step(apart, [small(20, 4.0, kind="skew"), small(3, 0.5)])
    fleet.step(apart, [small(20, 4.0, kind="skew", state="cleared"), small(3, 0.5, state="cleared")])
    for _ in range(6):
        fleet.step(apart)
    assert fleet.incidents() == []
    for _ in range(8):
        fleet.step(apart | {3: {"sharpness": -4.0}})
    (incident,) = fleet.incidents()
    assert (incident["kind"], incident["scope_key"]) == ("poisoning", "m3")


def test_a_device_that_watches_its_own_normal_is_not_suspected_for_keeping_quiet(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, plain(16))
    installed = {3: {"brightness": 4.0}}
    fleet.step(installed, [small(3, 4.0, kind="skew")])
    fleet.step(installed, [small(3, 4.0, kind="skew", state="cleared")])
    for _ in range(8):
        fleet.step(installed)
    assert [one["kind"] for one in fleet.incidents()] == []
    again = Triage(
        engine,
        budget=Budget.parse("1 per fleet-year"),
        bucket_s=20,
        settle_windows=3.0,
        reopen_s=86_400.0,
        now_ms=lambda: fleet.now,
        new_id=lambda: "other",
    )
    fleet.triage = again
    for _ in range(6):
        fleet.step(installed)
    assert fleet.incidents() == []


def test_a_cohort_that_goes_on_drifting_without_its_pair_is_named_by_one_attribute(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, plain(48), bucket_s=20)
    shifts = {index: {"brightness": 0.35} for index in range(0, 48, 2)}
    for _ in range(2):
        fleet.step()
    for _ in range(30):
        fleet.step(shifts)
        if fleet.incidents():
            break
    (incident,) = fleet.incidents()
    assert (incident["scope"], incident["scope_key"]) == ("cohort", "camera=A")
    assert incident["card"]["rest"]["drifts"] is False
    assert incident["card"]["rest"]["devices"] == 24
    assert incident["card"]["coverage"]["devices"] == 24


def test_rounds_between_two_buckets_do_not_merge_the_same_windows_again(
    engine: Engine, bundle: PaperBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(engine, bundle, cameras(12), rows=400)
    for _ in range(16):
        fleet.step({index: {"contrast": 0.3} for index in range(12)})
    asked: list[int] = []

    def counted(*parts: Any, **more: Any) -> list[Cause]:
        asked.append(fleet.now)
        return hidden_causes(*parts, **more)

    monkeypatch.setattr(triage_round, "hidden_causes", counted)
    (before,) = fleet.incidents()
    for _ in range(5):
        fleet.triage.round()
    assert asked == []
    fleet.step({})
    fleet.step({})
    assert asked
    (incident,) = fleet.incidents()
    assert incident["incident"] == before["incident"]


def test_the_owner_s_description_counts_from_the_next_round_on(engine: Engine, bundle: PaperBundle) -> None:
    rng = np.random.default_rng(3)
    lie = bundle.window(draw(rng, 20_000, shift={"contrast": 0.5}))
    fleet = Fleet(
        engine, replace(bundle, describe=replace(bundle.describe, baseline=lie.to_bytes())), cameras()
    )
    for _ in range(8):
        fleet.step()
    assert [one["scope"] for one in fleet.incidents()] == ["fleet"]
    with writing(engine) as connection:
        assert register(connection, bundle.describe, source=OWNER, now_ms=fleet.now)
    for _ in range(10):
        fleet.step()
    assert fleet.incidents() == []


def test_detectors_are_built_once_for_each_bundle_that_runs(
    engine: Engine, bundle: PaperBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(engine, bundle, cameras())
    fleet.step()
    built: list[str] = []

    def counted(known: KnownBundle, *parts: Any) -> MergedWatch:
        built.append(known.bundle)
        return MergedWatch(known, *parts)

    monkeypatch.setattr(triage_round, "MergedWatch", counted)
    for _ in range(3):
        fleet.step()
    assert built == []


def test_those_who_have_not_said_so_yet_are_part_of_the_fleet_s_drift(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, plain(32), budget="1 per fleet-hour")
    faint = {index: {"brightness": 0.5} for index in range(32)}
    fleet.step()
    said = [index for index in range(32) if index % 8 != 0]
    fleet.step(faint, [small(index, 0.5) for index in said])
    for _ in range(14):
        fleet.step(faint)
    (incident,) = fleet.incidents("open", "resolved")
    assert (incident["scope"], incident["scope_key"]) == ("fleet", "")


def test_drift_of_a_pair_of_attributes_is_not_told_of_either_alone(
    engine: Engine, bundle: PaperBundle
) -> None:
    fleet = Fleet(engine, bundle, plain(48), bucket_s=20)
    pair = [index for index in range(48) if index % 2 == 0 and index // 2 % 2 == 1]
    shifts = {index: {"brightness": 0.5} for index in pair}
    for _ in range(2):
        fleet.step()
    for _ in range(30):
        fleet.step(shifts)
        if fleet.incidents():
            break
    (incident,) = fleet.incidents()
    assert (incident["scope"], incident["scope_key"]) == ("cohort", "camera=A & site=south")
    assert incident["attributes"] == [["camera", "A"], ["site", "south"]]
    assert incident["affected"] <= incident["members"] == 12
