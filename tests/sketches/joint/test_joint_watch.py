import math
from dataclasses import replace

import numpy as np
import pytest

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.drift.joint.evidence import JointEvidence
from driftpost_sketches.drift.joint.merge import merge_devices
from driftpost_sketches.drift.marginal import MarginalDetector
from driftpost_sketches.errors import IncompatibleSketch, MalformedSketch
from hanging_together import calibrated, closed, factor_rows, watched

THRESHOLD = 14.0
REFERENCE = factor_rows(np.random.default_rng(0), 8_000)
CALIBRATION = calibrated(REFERENCE)


def quiet(seed, rows):
    return factor_rows(np.random.default_rng(seed), rows)


def turned(seed, rows, stream=2):
    out = quiet(seed, rows)
    out[:, stream] *= -1.0
    return out


def test_a_stream_that_turns_round_is_found_and_named_though_no_margin_moved():
    said = watched(CALIBRATION, np.vstack([quiet(1, 5_000), turned(2, 1_000)]))
    assert [(alarm.state, alarm.kind) for _, alarm in said] == [("raised", "joint")]
    at, alarm = said[0]
    assert 100 <= at <= 104, "within five windows of fifty rows"
    assert alarm.streams[0][0] == "x2"
    assert sum(share for _, share in alarm.streams) == pytest.approx(1.0)
    assert (alarm.unit, alarm.direction) == ("correlation", "down")
    assert -1.6 < alarm.effect < -0.4
    assert at - alarm.onset_windows_ago == 100
    assert "x2 moves against" in alarm.text
    assert "no single stream shows it" in alarm.text
    assert alarm.log_e >= THRESHOLD


def test_a_pair_that_begins_to_hang_together_is_found_and_named():
    rng = np.random.default_rng(5)
    calibration = calibrated(rng.normal(size=(8_000, 6)))
    rows = rng.normal(size=(4_000, 6))
    rows[2_000:, 4] = 0.8 * rows[2_000:, 1] + 0.6 * rows[2_000:, 4]
    ((at, alarm),) = watched(calibration, rows)
    assert alarm.kind == "joint"
    assert 40 <= at <= 45
    assert {name for name, _ in alarm.streams} == {"x1", "x4"}
    assert 0.5 < alarm.effect < 1.0


def test_without_the_joint_part_the_same_change_stays_unseen():
    bare = replace(CALIBRATION, joint=None)
    detector = DriftDetector(bare, THRESHOLD)
    rows = np.vstack([quiet(1, 5_000), turned(2, 3_000)])
    assert not watched(CALIBRATION, rows, detector=detector)


def test_it_is_held_and_cleared_once_and_can_be_raised_again():
    rows = np.vstack([quiet(1, 2_000), turned(2, 3_000), quiet(3, 3_000), turned(4, 1_000)])
    said = watched(CALIBRATION, rows)
    assert [(alarm.state, alarm.kind) for _, alarm in said] == [
        ("raised", "joint"), ("cleared", "joint"), ("raised", "joint"),
    ]  # fmt: skip
    assert 100 <= said[1][0] <= 120
    assert "back to what the reference showed" in said[1][1].text


def test_while_it_stands_it_is_among_the_standing():
    detector = DriftDetector(CALIBRATION, THRESHOLD)
    watched(CALIBRATION, turned(2, 2_000), detector=detector)
    assert [alarm.kind for alarm in detector.standing] == ["joint"]


def test_where_single_streams_tell_of_the_same_change_the_joint_test_is_silent():
    rows = quiet(1, 4_000)
    # So far out that its relation to the others is gone as well.
    rows[2_000:, 2] = 3.0 + np.random.default_rng(9).normal(size=2_000)
    said = watched(CALIBRATION, rows)
    assert said
    assert "joint" not in {alarm.kind for _, alarm in said}


def test_a_constant_shift_of_one_stream_is_no_joint_change():
    rows = quiet(1, 6_000)
    rows[2_000:, 1] += 0.7
    assert "joint" not in {alarm.kind for _, alarm in watched(CALIBRATION, rows)}


@pytest.mark.parametrize("cut", [1, 17, 43, 60])
def test_restarted_from_bytes_anywhere_it_says_the_same(cut):
    rows = np.vstack([quiet(1, 1_000), turned(2, 1_500), quiet(3, 1_500)])
    all_windows = list(closed(CALIBRATION, rows))
    one, other = DriftDetector(CALIBRATION, THRESHOLD), DriftDetector(CALIBRATION, THRESHOLD)
    for window, transitions in all_windows[:cut]:
        assert one.step(transitions, window) == other.step(transitions, window)
    restarted = DriftDetector(CALIBRATION, THRESHOLD)
    restarted.restore(other.state_to_bytes())
    assert restarted.state_to_bytes() == one.state_to_bytes()
    for window, transitions in all_windows[cut:]:
        assert one.step(transitions, window) == restarted.step(transitions, window)
    assert restarted.state_to_bytes() == one.state_to_bytes()


def test_its_state_stays_small_however_long_it_watches():
    detector = DriftDetector(CALIBRATION, THRESHOLD)
    sizes = []
    for part in range(4):
        watched(CALIBRATION, quiet(part, 20_000), size=20, detector=detector)
        sizes.append(len(detector.state_to_bytes()))
    assert max(sizes) <= 4096 * len(CALIBRATION.schema)
    assert sizes[-1] <= 1.2 * sizes[1]


def test_a_state_without_the_joint_part_is_refused_and_the_other_way_round():
    bare = DriftDetector(replace(CALIBRATION, joint=None), THRESHOLD)
    whole = DriftDetector(CALIBRATION, THRESHOLD)
    with pytest.raises(IncompatibleSketch):
        whole.restore(bare.state_to_bytes())
    with pytest.raises(IncompatibleSketch):
        bare.restore(whole.state_to_bytes())


def test_a_damaged_joint_state_is_refused_and_changes_nothing():
    detector = DriftDetector(CALIBRATION, THRESHOLD)
    watched(CALIBRATION, turned(2, 2_000), detector=detector)
    joint = detector._joint
    before = joint.to_bytes()
    for size in range(0, len(before), 97):
        with pytest.raises(MalformedSketch):
            joint.restore(before[:size])
    with pytest.raises(MalformedSketch, match="too many"):
        joint.restore(before + b"\0")
    with pytest.raises(IncompatibleSketch):
        joint.restore(bytes([before[0] ^ 1]) + before[1:])
    head = 16 + 8 + 2 + 2 + 1
    nan = before[:head] + np.array([math.nan]).tobytes() + before[head + 8 :]
    with pytest.raises(MalformedSketch, match="evidence"):
        joint.restore(nan)
    assert joint.to_bytes() == before


def test_windows_without_joint_sums_are_passed_over():
    detector = DriftDetector(CALIBRATION, THRESHOLD)
    accumulator = WindowAccumulator(CALIBRATION.schema)
    accumulator.update(turned(2, 2_000))
    window, transitions = accumulator.take()
    assert detector.step(transitions, window) == []


def test_merged_windows_of_a_fleet_show_what_no_device_can():
    """A correlation that fell by a little everywhere: found in the merged windows of forty devices."""
    names = CALIBRATION.tracked_names
    fleet = MarginalDetector(
        CALIBRATION.schema,
        CALIBRATION.baseline,
        {name: CALIBRATION.tau(name) for name in names},
        {name: CALIBRATION.n_ref(name) for name in names},
        0.02,
        THRESHOLD,
        CALIBRATION.joint,
    )
    rng = np.random.default_rng(6)
    raised = []
    for bucket in range(24):
        merged = None
        for _ in range(40):
            rows = factor_rows(rng, 25)
            if bucket >= 12:
                rows[:, 3] = 0.6 * rows[:, 3] + 0.8 * rng.normal(size=25)
            ((window, _),) = closed(CALIBRATION, rows, 25)
            merged = window if merged is None else merged.merge(window)
        raised += [(bucket, alarm) for alarm in fleet.step(merged)]
    (first, *_) = raised
    assert first[0] in range(12, 18)
    assert first[1].kind == "joint"
    assert first[1].streams[0][0] == "x3"
    state = fleet.state_to_bytes()
    fleet.restore(state)
    assert fleet.state_to_bytes() == state


def device_sums(seed, devices, rows, changed):
    """Joint sums of some devices; `changed` of them have one stream that is twice out of its relation."""
    plan, lengths, sums = CALIBRATION.joint, [], []
    for device in range(devices):
        values = turned(seed + device, rows) if device < changed else quiet(seed + device, rows)
        ((window, _),) = closed(CALIBRATION, values, rows)
        lengths.append(window.joint_rows)
        sums.append(window.joint)
    return plan, np.array(lengths), np.array(sums)


def test_a_tenth_of_the_devices_can_not_raise_a_joint_alarm_for_all():
    plan, lengths, sums = device_sums(100, 40, 100, changed=4)
    rows, merged = merge_devices(plan, lengths, sums)
    evidence = JointEvidence(plan, THRESHOLD)
    n = np.array([float(rows)])
    assert evidence.logs(evidence.standardise(merged[None].astype(float), n), n)[0] < math.log(20.0)


def test_a_change_that_devices_share_survives_their_robust_merge():
    plan, lengths, sums = device_sums(200, 40, 100, changed=40)
    rows, merged = merge_devices(plan, lengths, sums)
    evidence = JointEvidence(plan, THRESHOLD)
    n = np.array([float(rows)])
    assert rows == 4_000
    assert evidence.logs(evidence.standardise(merged[None].astype(float), n), n)[0] > 100.0
