"""Fleets of devices merged: what few can not do, what many do, and what differs by nature."""

import math

import numpy as np
import pytest

from driftpost_sketches.cells import CELLS
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.ebh import e_bh
from driftpost_sketches.drift.marginal import MarginalDetector
from simulated_streams import independent, numeric_schema, windows

ROWS, STREAMS = 100, 2


@pytest.fixture(scope="module")
def fitted():
    values = independent(np.random.default_rng(0), 50_000, STREAMS)
    schema = numeric_schema(values)
    return schema, Calibration.fit(schema, values).baseline


@pytest.fixture
def detector(fitted):
    return MarginalDetector(*fitted, {}, {}, 0.02, math.log(1e5))


def read(detector, schema, values):
    return detector.read(next(windows(schema, values, len(values)))[0])


def play(detector, schema, rng, offsets, buckets, *, rows=None, lie=None):
    """Steps a fleet whose device d is `offsets[d]` away; returns alarms and the last merge."""
    alarms = []
    for bucket in range(buckets):
        parts = []
        for d, offset in enumerate(offsets(bucket) if callable(offsets) else offsets):
            values = independent(rng, ROWS if rows is None else rows[d], STREAMS) + offset
            if lie is not None and d in lie:
                values = lie[d](rng, values)
            parts.append(read(detector, schema, values))
        merged = detector.merge(*(np.array(column) for column in zip(*parts, strict=True)))
        alarms += detector.step_merged(merged)
    return alarms, merged


def test_a_fleet_that_does_not_drift_raises_no_alarm(fitted, detector):
    rng = np.random.default_rng(1)
    assert play(detector, fitted[0], rng, np.zeros(40), 60)[0] == []


def test_devices_that_differ_by_nature_are_no_drift(fitted, detector):
    rng = np.random.default_rng(2)
    assert play(detector, fitted[0], rng, rng.normal(0, 0.3, 60), 60)[0] == []


def test_a_changing_mix_of_devices_is_no_drift(fitted, detector):
    rng = np.random.default_rng(3)
    old = rng.normal(0, 0.2, 50)

    def mix(bucket):
        joined = [1.0] * 10 if bucket >= 20 else []
        return np.concatenate([old[: 50 - bucket // 3], joined])

    assert play(detector, fitted[0], rng, mix, 60)[0] == []


@pytest.mark.parametrize("shift", [0.15, -0.3, 1.0])
def test_a_shift_of_the_whole_fleet_is_found(fitted, detector, shift):
    rng = np.random.default_rng(4)
    told, _ = play(detector, fitted[0], rng, np.full(40, shift), 30)
    assert told
    assert told[0].direction == ("up" if shift > 0 else "down")
    assert told[0].effect == pytest.approx(shift, abs=0.1)


def play_nights(detector, schema, rng, devices, buckets):
    """A slow wave that all devices share: its memory is the stream's, and it does not average out."""
    alarms = []
    for bucket in range(buckets):
        wave = 0.6 * math.sin(2 * math.pi * bucket / 20)
        parts = [read(detector, schema, independent(rng, ROWS, STREAMS) + wave) for _ in range(devices)]
        merged = detector.merge(*(np.array(column) for column in zip(*parts, strict=True)))
        alarms += detector.step_merged(merged)
    return alarms


@pytest.fixture(scope="module")
def nightly():
    """A detector whose reference has seen many nights."""
    rng = np.random.default_rng(12)
    rows = 100 * 20 * ROWS
    wave = 0.6 * np.sin(2 * np.pi * np.arange(rows) / (20 * ROWS))
    values = independent(rng, rows, STREAMS) + wave[:, None]
    schema = numeric_schema(values)
    fitted = Calibration.fit(schema, values)
    taus = {name: fitted.tau(name) for name in fitted.tracked_names}
    sizes = {name: fitted.n_ref(name) for name in fitted.tracked_names}
    return lambda: MarginalDetector(schema, fitted.baseline, taus, sizes, 0.02, math.log(1e5))


def test_a_night_that_falls_on_every_device_is_one_night(nightly):
    detector = nightly()
    assert play_nights(detector, detector.reference.schema, np.random.default_rng(13), 40, 40) == []


def test_a_shift_of_the_whole_fleet_is_found_beside_its_nights(nightly):
    detector = nightly()
    rng = np.random.default_rng(14)
    assert play(detector, detector.reference.schema, rng, np.full(30, 2.0), 40)[0]


LIES = {
    "far off": lambda rng, values: values + 50,
    "just off": lambda rng, values: values + 0.4,
    "stuck": lambda rng, values: np.zeros_like(values) + 0.3,
    "missing": lambda rng, values: values * np.nan,
    "loud": lambda rng, values: np.tile(values, (50, 1)) + 2,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_tenth_of_lying_devices_can_not_raise_a_fleet_alarm(fitted, detector, lie):
    rng = np.random.default_rng(5)
    liars = dict.fromkeys(range(4), LIES[lie])
    assert play(detector, fitted[0], rng, np.zeros(40), 40, lie=liars)[0] == []


@pytest.mark.parametrize("against", [-50.0, -0.6])
def test_a_tenth_of_lying_devices_can_not_hide_a_fleet_s_drift(fitted, detector, against):
    rng = np.random.default_rng(6)
    liars = dict.fromkeys(range(4), lambda rng, values: values + against)
    assert play(detector, fitted[0], rng, np.full(40, 0.3), 30, lie=liars)[0]


def test_one_device_s_weight_is_capped_whatever_it_counts(fitted, detector):
    rng = np.random.default_rng(8)
    rows = [ROWS] * 19 + [1_000_000 // 10]
    _, merged = play(detector, fitted[0], rng, np.append(np.zeros(19), 0.2), 1, rows=rows)
    sums = merged.sums[:, :CELLS]
    location = detector.reference._location
    shift = np.einsum("tc,tc->t", sums / sums.sum(axis=1, keepdims=True), location)
    assert (np.abs(shift) < 0.1).all()


def test_a_trifle_in_a_million_rows_is_no_alarm(fitted, detector):
    rng = np.random.default_rng(9)
    assert play(detector, fitted[0], rng, np.full(10, 0.015), 5, rows=[20_000] * 10)[0] == []


def test_two_devices_are_merged_without_one_speaking_for_both(fitted, detector):
    rng = np.random.default_rng(10)
    assert play(detector, fitted[0], rng, [0.0, 0.15], 40)[0] == []


def test_devices_named_by_e_values_hold_their_share_of_false_names():
    rng = np.random.default_rng(11)
    shares = []
    for _ in range(400):
        z = rng.normal(size=200)
        z[:20] += 4.5
        log_e = {d: 3.0 * x - 4.5 for d, x in enumerate(z)}
        named = e_bh(log_e, 0.1)
        shares.append(sum(d >= 20 for d in named) / max(len(named), 1))
    assert np.mean(shares) <= 0.1
    assert len(named) >= 8


def test_without_evidence_nobody_is_named():
    assert e_bh({}) == []
    assert e_bh({"a": math.nan, "b": 0.0, "c": -math.inf}) == []
    assert e_bh({"a": math.nan, "b": 9.0}) == ["b"]
    with pytest.raises(ValueError, match="alpha"):
        e_bh({"a": 1.0}, 1.0)
