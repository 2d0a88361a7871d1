import numpy as np
import pytest

from driftpost_sketches.drift.scope import explain

EIGHT = [f"d{i}" for i in range(1, 9)]
ATTRIBUTES = {
    device: {
        "site": ["north", "east", "south", "west"][i // 2],
        "camera": "AB"[i % 2],
        "firmware": ["1.0", "2.0"][(i // 4) % 2],
        "runtime": "onnx" if device in ("d1", "d3", "d4", "d6") else "tflite",
    }
    for i, device in enumerate(EIGHT)
}
CAMERA_B = ["d2", "d4", "d6", "d8"]


def told(devices, attributes=ATTRIBUTES, everyone=EIGHT, **options):
    found = explain(everyone, attributes, dict.fromkeys(devices, 5.0), **options)
    return [(e.scope, e.attributes, e.affected) for e in found]


def test_nothing_drifted_needs_no_explanation():
    assert explain(EIGHT, ATTRIBUTES, {}) == []
    assert explain(EIGHT, ATTRIBUTES, dict.fromkeys(EIGHT, 0.0)) == []
    assert explain([], {}, {"d1": 1.0}) == []


def test_four_devices_that_share_a_camera_are_that_cohort():
    (cause,) = explain(EIGHT, ATTRIBUTES, dict.fromkeys(CAMERA_B, 5.0))
    assert (cause.scope, cause.attributes) == ("cohort", (("camera", "B"),))
    assert cause.members == cause.affected == tuple(CAMERA_B)
    assert cause.support == 1.0
    assert cause.risk_ratio > 5 > cause.risk_ratio_low > 0
    assert cause.alternatives == ()


def test_a_fifth_device_stands_beside_the_cohort():
    assert told([*CAMERA_B, "d5"]) == [
        ("cohort", (("camera", "B"),), tuple(CAMERA_B)),
        ("device", (), ("d5",)),
    ]


@pytest.mark.parametrize(
    "devices", [["d5"], ["d1", "d4"], ["d2", "d4"], ["d1", "d4", "d6"], ["d2", "d4", "d6"]]
)
def test_a_few_devices_that_may_share_something_by_chance_stay_single(devices):
    assert told(devices) == [("device", (), (device,)) for device in devices]


@pytest.mark.parametrize("devices", [EIGHT, EIGHT[:7]])
def test_all_or_nearly_all_devices_are_the_fleet(devices):
    assert told(devices) == [("fleet", (), tuple(devices))]


def test_attributes_that_always_go_together_are_reported_as_a_tie():
    attributes = {d: {**a, "lens": a["camera"].lower()} for d, a in ATTRIBUTES.items()}
    (cause,) = explain(EIGHT, attributes, dict.fromkeys(CAMERA_B, 5.0))
    assert {cause.attributes, *cause.alternatives} == {(("camera", "B"),), (("lens", "b"),)}


def test_single_devices_come_by_score():
    found = explain(EIGHT, ATTRIBUTES, {"d1": 1.0, "d4": 9.0})
    assert [e.affected for e in found] == [("d4",), ("d1",)]


def test_missing_attributes_and_unknown_devices_do_no_harm():
    assert told(["d2", "stranger"], attributes={"d2": {"camera": "B"}}) == [("device", (), ("d2",))]
    assert told(["d2"], attributes={}) == [("device", (), ("d2",))]
    assert told(EIGHT, attributes={}) == [("fleet", (), tuple(EIGHT))]
    assert told(["d1", "d1"], everyone=["d1"]) == [("device", (), ("d1",))]


def test_unrelated_devices_of_a_small_fleet_hardly_ever_become_a_cohort():
    wrong = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        attributes = {
            d: {k: str(rng.integers(n)) for k, n in (("site", 4), ("camera", 2), ("fw", 2))} for d in EIGHT
        }
        few = rng.choice(EIGHT, rng.integers(1, 4), replace=False)
        wrong += any(scope != "device" for scope, *_ in told(few, attributes))
    assert wrong <= 6


@pytest.fixture(scope="module")
def large():
    rng = np.random.default_rng(0)
    devices = [f"n{i}" for i in range(100_000)]
    columns = {
        "site": np.minimum(rng.pareto(1, 100_000) * 8, 199).astype(int),
        "camera": rng.integers(0, 5, 100_000),
        "firmware": rng.integers(0, 8, 100_000),
        "serial": np.arange(100_000),
    }
    attributes = {d: {k: str(v[i]) for k, v in columns.items()} for i, d in enumerate(devices)}
    return rng, devices, attributes, columns


def test_two_causes_and_stray_devices_are_told_apart_among_a_hundred_thousand(large):
    rng, devices, attributes, columns = large
    pair = (columns["camera"] == 1) & (columns["firmware"] == 3) & (rng.random(100_000) < 0.9)
    site = (columns["site"] == 12) & (rng.random(100_000) < 0.8)
    stray = rng.random(100_000) < 0.0005
    drifted = {devices[i]: 1.0 for i in np.flatnonzero(pair | site | stray)}
    found = explain(devices, attributes, drifted)
    assert {e.attributes for e in found if e.scope == "cohort"} == {
        (("camera", "1"), ("firmware", "3")),
        (("site", "12"),),
    }
    assert {d for e in found for d in e.affected} == set(drifted)
    best = found[0]
    assert best.support == pytest.approx(0.9, abs=0.02)
    assert best.risk_ratio_low > 20


def test_a_fleet_wide_drift_is_the_fleet_however_many_devices_have_not_yet_noticed(large):
    rng, devices, attributes, _ = large
    drifted = {devices[i]: 1.0 for i in np.flatnonzero(rng.random(100_000) < 0.7)}
    (cause,) = explain(devices, attributes, drifted)
    assert (cause.scope, len(cause.members)) == ("fleet", 100_000)


def test_devices_that_drift_at_random_name_no_cohort(large):
    rng, devices, attributes, _ = large
    drifted = {devices[i]: 1.0 for i in np.flatnonzero(rng.random(100_000) < 0.002)}
    assert {e.scope for e in explain(devices, attributes, drifted)} == {"device"}
