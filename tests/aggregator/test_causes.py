from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from driftpost_aggregator.causes import (
    Cause,
    Finding,
    Kind,
    Measured,
    StreamEvidence,
    Surroundings,
    clusters,
    find_causes,
    stream_evidence,
    together,
)
from driftpost_aggregator.wording import sentence, since, stream_words, title

NOW = 1_790_000_000_000  # 2026-09-21 14:13:20 UTC
FLEET = [f"m{index}" for index in range(8)]
ATTRIBUTES = {name: {"camera": "B" if index < 4 else "A"} for index, name in enumerate(FLEET)}


def finding(device: str, **changes: object) -> Finding:
    values: dict[str, object] = {
        "device": device,
        "incarnation": 1,
        "seq": 1,
        "bundle": "b",
        "kind": "shift",
        "source": "drift",
        "streams": (("brightness", 1.0),),
        "log_e": 20.0,
        "effect": -3.0,
        "effect_natural": -30.0,
        "unit": "level",
        "direction": "down",
        "onset_ms": NOW,
        "received_ms": NOW,
        "text": "brightness: 30 level lower",
    }
    return Finding(**(values | changes))  # type: ignore[arg-type]  # each test gives fields of their types


def measured(error: float = 0.05, spread: float = 1.0, **shift: float) -> Measured:
    return Measured(
        shift,
        {name: 10 * value for name, value in shift.items()},
        dict.fromkeys(shift, spread),
        dict.fromkeys(shift, error),
    )


def causes(findings: list[Finding], **shown: Measured) -> list[Cause]:
    around = Surroundings(FLEET, ATTRIBUTES, shown, inputs=frozenset({"brightness", "sharpness"}))
    return find_causes(findings, around)


@pytest.mark.parametrize(
    ("kind", "source", "expected"),
    [
        ("stuck", "drift", Kind.SENSOR_FAULT),
        ("dead", "drift", Kind.MODEL_FAULT),
        ("wrong_scale", "drift", Kind.MODEL_FAULT),
        ("missing", "drift", Kind.DATA_QUALITY),
        ("saturated", "drift", Kind.SENSOR_FAULT),
        ("shift", "drift", Kind.COVARIATE_SHIFT),
        ("frozen", "quality", Kind.SENSOR_FAULT),
        ("nonfinite_input", "quality", Kind.DATA_QUALITY),
        ("nonfinite_output", "quality", Kind.MODEL_FAULT),
        ("out_of_range", "quality", Kind.COVARIATE_SHIFT),
        ("crashed", "runtime", Kind.MODEL_FAULT),
        ("model_fault", "runtime", Kind.MODEL_FAULT),
        ("disk_full", "device", Kind.DEVICE_FAULT),
    ],
)
def test_each_finding_of_one_device_has_its_kind(kind: str, source: str, expected: Kind) -> None:
    (found,) = causes([finding("m1", kind=kind, source=source)])
    assert (found.kind, found.scope, found.scope_key) == (expected, "device", "m1")


def test_saturation_shared_by_a_cohort_is_the_world_s_not_the_sensor_s() -> None:
    (found,) = causes([finding(name, kind="saturated") for name in FLEET[:4]])
    assert (found.kind, found.scope_key) == (Kind.COVARIATE_SHIFT, "camera=B")


def test_drift_of_outputs_alone_is_an_output_shift() -> None:
    (found,) = causes([finding("m1", streams=(("confidence", 0.8), ("class", 0.2)))])
    assert found.kind is Kind.OUTPUT_SHIFT


def test_while_nobody_says_what_an_input_is_drift_is_taken_for_the_inputs() -> None:
    (found,) = find_causes([finding("m1")], Surroundings(FLEET, ATTRIBUTES))
    assert found.kind is Kind.COVARIATE_SHIFT


def test_devices_that_moved_in_opposite_directions_are_two_groups() -> None:
    findings = [finding(name) for name in FLEET[:4]]
    shown = {
        "m0": measured(brightness=-3.0),
        "m1": measured(brightness=-2.0, sharpness=-0.4),
        "m2": measured(brightness=2.5),
        "m3": measured(brightness=-0.01, sharpness=3.0),
    }
    assert clusters(findings, shown) == [{"m0", "m1"}, {"m2"}, {"m3"}]


def test_noise_within_its_standard_error_does_not_split_a_group() -> None:
    generator = np.random.default_rng(3)
    shown = {
        name: measured(
            error=0.3,
            brightness=-3.0,
            **{f"noise{index}": float(generator.normal(0, 0.3)) for index in range(40)},
        )
        for name in FLEET[:4]
    }
    assert clusters([finding(name) for name in FLEET[:4]], shown) == [set(FLEET[:4])]


def test_a_change_of_spread_is_a_direction_too() -> None:
    shown = {"m0": measured(spread=0.3, brightness=0.0), "m1": measured(spread=3.0, brightness=0.0)}
    assert clusters([finding("m0"), finding("m1")], shown) == [{"m0"}, {"m1"}]


def test_without_windows_findings_alone_say_where_a_device_moved() -> None:
    up = finding("m1", direction="up", effect=3.0)
    assert clusters([finding("m0"), up, finding("m2")], {}) == [{"m0", "m2"}, {"m1"}]


def test_effects_are_medians_so_that_one_device_can_not_speak_for_a_cohort() -> None:
    shown = {
        name: measured(brightness=value)
        for name, value in zip(FLEET[:5], (-3.0, -3.1, -2.9, -3.0, 900.0), strict=True)
    }
    around = Surroundings(FLEET, ATTRIBUTES, shown)
    (part,) = stream_evidence([finding(name) for name in FLEET[:5]], around)
    assert (part.effect, part.effect_natural, part.direction) == (-3.0, -30.0, "down")


def test_streams_stand_in_order_of_contribution_weighted_by_evidence() -> None:
    findings = [
        finding("m0", streams=(("brightness", 0.6), ("sharpness", 0.4)), log_e=10.0),
        finding("m1", streams=(("sharpness", 0.9), ("brightness", 0.1)), log_e=30.0),
    ]
    parts = stream_evidence(findings, Surroundings(FLEET, ATTRIBUTES))
    assert [part.stream for part in parts] == ["sharpness", "brightness"]
    assert sum(part.share for part in parts) == pytest.approx(1.0)


def test_findings_of_devices_that_nobody_knows_are_left_out() -> None:
    assert causes([finding("ghost")]) == []


def test_a_device_reports_its_earliest_onset_and_first_news() -> None:
    early = finding("m1", seq=2, onset_ms=NOW - 50, received_ms=NOW + 10)
    (found,) = causes([finding("m1"), early])
    assert (found.onset_ms, found.first_raised_ms, found.last_raised_ms) == (NOW - 50, NOW, NOW)
    assert found.findings == (("m1", 1, 1), ("m1", 1, 2))


def part(effect: float = -3.24, spread: float = 1.0, unit: str = "level") -> StreamEvidence:
    return StreamEvidence("brightness", 1.0, effect, 10 * effect, unit, spread, "down")


@pytest.mark.parametrize(
    ("evidence", "detail", "words"),
    [
        (part(), "shift", "brightness 3.2 sd lower (\N{MINUS SIGN}32.4 level)"),
        (part(effect=0.5, unit=""), "shift", "brightness 0.5 sd higher"),
        (part(effect=0.1, spread=2.5), "scale", "brightness spreads 2.5 times as much"),
        (part(effect=0.1, spread=1e-9), "quantized", "brightness hardly moves any more"),
        (part(effect=0.0, spread=0.0), "shape", "brightness hardly moves any more"),
        (part(effect=-16.0, spread=0.0, unit=""), "shift", "brightness 16.0 sd lower"),
        (part(effect=0.01, spread=1.01), "shape", "brightness changed its shape"),
        (part(), "stuck", "brightness repeats one value"),
        (part(), "dead", "brightness gives one answer to everything"),
        (part(), "wrong_scale", "brightness is fed on the wrong scale"),
        (part(), "missing", "brightness is missing"),
        (part(effect=0.123), "new_category", "brightness has categories never seen before (+12% of rows)"),
        (
            part(effect=0.29, unit="share"),
            "label_shift",
            "brightness has other shares of its categories (+29% of rows)",
        ),
        (
            part(effect=-0.4, unit="share"),
            "quantized",
            "brightness 0.4 sd lower (\N{MINUS SIGN}4 share), moves in coarser steps than before",
        ),
        (
            part(),
            "saturated",
            "brightness 3.2 sd lower (\N{MINUS SIGN}32.4 level), is piled up at an end of its range",
        ),
    ],
)
def test_a_stream_s_change_reads_as_a_person_would_say_it(
    evidence: StreamEvidence, detail: str, words: str
) -> None:
    assert stream_words(evidence, detail) == words


def test_a_cause_reads_as_one_sentence() -> None:
    findings = [finding(name, onset_ms=NOW - 680_000) for name in FLEET[:4]]
    (found,) = causes(findings, **{name: measured(brightness=-3.2) for name in FLEET[:4]})
    assert sentence(found, NOW) == (
        "camera=B: 4 of 4 devices; brightness 3.2 sd lower (\N{MINUS SIGN}32 level), since 14:02 UTC; "
        "no other device affected"
    )
    assert title(found) == "camera=B: inputs drifted, brightness 3.2 sd lower (\N{MINUS SIGN}32 level)"


def test_a_fault_without_streams_speaks_in_its_device_s_words() -> None:
    (found,) = causes([finding("m3", kind="disk_full", source="device", streams=(), text="98 % full")])
    assert sentence(found, NOW) == "device m3: 98 % full, since 14:13 UTC; no other device affected"


@pytest.mark.parametrize(
    ("silent", "words"),
    [
        ((), "no other device affected"),
        (FLEET[4:5], "no other device affected of 3 that reported since, 1 did not"),
        (FLEET[4:], "no other device has reported since"),
        (FLEET[:4], "no other device affected"),
    ],
    ids=["none silent", "one silent", "all others silent", "only the affected silent"],
)
def test_a_device_that_sent_nothing_since_the_onset_is_not_called_unaffected(
    silent: Sequence[str], words: str
) -> None:
    onset_ms = NOW - 680_000
    findings = [finding(name, onset_ms=onset_ms) for name in FLEET[:4]]
    shifts = {name: measured(brightness=-3.2) for name in FLEET[:4]}
    (found,) = causes(findings, **shifts)
    last = {name: onset_ms if name in silent else onset_ms + 1 for name in FLEET}
    around = Surroundings(FLEET, {}, last_window_ms=last)
    assert sentence(around.with_others(found), NOW).endswith(f"; {words}")


def test_an_onset_before_today_carries_its_date() -> None:
    assert since(NOW - 86_400_000, NOW) == "2026-09-20 14:13 UTC"


def test_a_cohort_whose_runtime_computes_otherwise_is_one_model_fault_that_names_it() -> None:
    said = (
        "output 'p' of golden call 3 differs from the bundle by 4 times its tolerance; 5 of 12 golden calls"
    )
    fault = {"kind": "model_fault", "source": "runtime", "streams": (), "log_e": 0.0, "text": said}
    (found,) = causes([finding(name, **fault) for name in FLEET[:4]])
    assert (found.kind, found.scope_key, found.detail) == (Kind.MODEL_FAULT, "camera=B", "model_fault")
    assert title(found) == (
        "camera=B: model fault, golden inputs are answered otherwise than when the bundle was built"
    )
    assert said in sentence(found, NOW)


def test_devices_that_began_to_drift_one_after_the_other_are_a_group_and_others_stand_alone() -> None:
    minute = 60_000
    onsets = {"m0": 0, "m1": 30 * minute, "m2": 80 * minute, "m5": 300 * minute, "m6": 310 * minute}
    findings = [finding(name, onset_ms=NOW + at) for name, at in onsets.items()]
    assert together(findings, set(onsets), by_stream=False) == [{"m0", "m1", "m2"}, {"m5"}, {"m6"}]
    findings[1] = finding("m1", onset_ms=NOW + 30 * minute, streams=(("sharpness", 1.0),))
    groups = together(findings[:3], set(onsets), by_stream=True)
    assert sorted(map(sorted, groups)) == [["m0"], ["m1"], ["m2"]]


def test_only_devices_beyond_their_nature_are_believed_and_faults_always() -> None:
    findings = [finding("m1"), finding("m2"), finding("m6", kind="stuck"), finding("m7", attributed=True)]
    around = Surroundings(
        FLEET,
        {name: {} for name in FLEET},
        {"m1": measured(brightness=-3.0), "m2": measured(brightness=3.0), "m7": measured(sharpness=3.0)},
        inputs=frozenset({"brightness"}),
        apart={"m1": 40.0},
        compared=frozenset(FLEET),
    )
    found = find_causes(findings, around)
    assert sorted(cause.scope_key for cause in found) == ["m1", "m6", "m7"]
    assert all(cause.scope == "device" for cause in found)


def test_where_devices_can_not_be_compared_their_word_stands() -> None:
    around = Surroundings(FLEET, {name: {} for name in FLEET}, {"m1": measured(brightness=-3.0)})
    assert [cause.scope_key for cause in find_causes([finding("m1")], around)] == ["m1"]


@pytest.mark.parametrize(
    ("natural", "words"),
    [
        (0.042, "error rate of answers '0' +4.2%"),
        (-0.1, "error rate of answers '0' \N{MINUS SIGN}10.0%"),
        (0.0, "error rate of answers '0' changed"),
    ],
)
def test_an_error_rate_that_nobody_measured_is_not_told_as_no_change(natural: float, words: str) -> None:
    evidence = StreamEvidence("error_rate:0", 1.0, 0.0, natural, "share", 1.0, "up")
    assert stream_words(evidence, "concept") == words
