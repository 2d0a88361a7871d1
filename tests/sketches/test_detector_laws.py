"""Laws of the device's detector over random streams: symmetry, restarts, and flat memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import Role, Schema
from simulated_streams import windows

LOG_THRESHOLD = 14.0
REFERENCE, LIVE, STREAMS = 1_500, 600, 2


@st.composite
def worlds(draw):
    """Reference and live rows: skewed or not, with memory or none, one stream changed in one of many ways."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    noise = rng.normal(size=(REFERENCE + LIVE, STREAMS))
    if draw(st.booleans()):
        noise = np.exp(0.5 * noise)
    rho = draw(st.sampled_from([0.0, 0.5, 0.8]))
    for t in range(1, len(noise)):
        noise[t] += rho * noise[t - 1]
    live = noise[REFERENCE:]
    start = draw(st.integers(0, LIVE - 200))
    after = live[start:, 0]
    change = draw(st.sampled_from(["none", "up", "down", "wider", "narrower", "stuck", "coarse", "missing"]))
    spread = noise[:REFERENCE, 0].std()
    if change == "up":
        after += 1.5 * spread
    elif change == "down":
        after -= 1.5 * spread
    elif change == "wider":
        after *= 2.5
    elif change == "narrower":
        after *= 0.3
    elif change == "stuck":
        after[:] = after[0]
    elif change == "coarse":
        after[:] = np.round(after / spread) * spread
    elif change == "missing":
        after[rng.random(len(after)) < 0.3] = np.nan
    return noise[:REFERENCE], live


def calibrated(reference):
    schema = Schema([fit_numeric(f"x{i}", column, Role.INPUT) for i, column in enumerate(reference.T)])
    return Calibration.fit(schema, reference)


def findings(reference, live, size=20):
    calibration = calibrated(reference)
    detector = DriftDetector(calibration, LOG_THRESHOLD)
    found = []
    for at, (window, transitions) in enumerate(windows(calibration.schema, live, size)):
        found += [(at, alarm) for alarm in detector.step(transitions, window)]
    return found


def told(found, mirrored=False):
    other = {"up": "down", "down": "up", "none": "none"}
    return [
        (
            at,
            alarm.state,
            alarm.kind,
            other[alarm.direction] if mirrored and alarm.kind in MIRRORED else alarm.direction,
            alarm.onset_windows_ago,
            tuple(name for name, _ in alarm.streams),
        )
        for at, alarm in found
    ]


MIRRORED = {"shift", "shape", "saturated"}  # kinds whose direction is a side of the stream's own axis


@given(worlds(), st.sampled_from([2.0**-20, 0.25, 8.0, 2.0**20]), st.sampled_from([0.0, 4096.0]))
@settings(max_examples=25, deadline=None)
def test_another_unit_and_another_zero_change_nothing_that_is_found(world, factor, offset):
    """Powers of two and whole numbers, so that the values are exactly those in another unit."""
    reference, live = (np.round(part * 1024) / 1024 for part in world)
    plain = findings(reference, live)
    moved = findings(reference * factor + offset * factor, live * factor + offset * factor)
    # What depends on the zero is left out: a factor between values is one only where zero is zero.
    if offset and any(a.kind == "wrong_scale" for _, a in plain + moved):
        return
    assert told(moved) == told(plain)
    for (_, a), (_, b) in zip(plain, moved, strict=True):
        assert b.log_e == pytest.approx(a.log_e, rel=1e-4)
        assert b.effect == pytest.approx(a.effect, rel=1e-3, abs=1e-3)


@given(worlds())
@settings(max_examples=25, deadline=None)
def test_the_mirror_image_of_a_change_is_found_as_its_mirror_image(world):
    reference, live = world
    plain, mirrored = findings(reference, live), findings(-reference, -live)
    assert told(mirrored, mirrored=True) == told(plain)
    for (_, a), (_, b) in zip(plain, mirrored, strict=True):
        assert b.log_e == pytest.approx(a.log_e, rel=0.02, abs=0.1)


@given(worlds(), st.lists(st.integers(1, LIVE // 20 - 1), max_size=4, unique=True), st.integers(3, 40))
@settings(max_examples=25, deadline=None)
def test_restarts_at_any_window_change_nothing(world, cuts, size):
    reference, live = world
    calibration = calibrated(reference)
    whole, parts = (DriftDetector(calibration, LOG_THRESHOLD) for _ in range(2))
    for at, (window, transitions) in enumerate(windows(calibration.schema, live, size)):
        if at in cuts:
            state = parts.state_to_bytes()
            parts = DriftDetector(Calibration.from_bytes(calibration.to_bytes()), LOG_THRESHOLD)
            parts.restore(state)
        assert parts.step(transitions, window) == whole.step(transitions, window)
        assert np.array_equal(parts.evidence(), whole.evidence())
    assert parts.state_to_bytes() == whole.state_to_bytes()


def test_a_million_updates_leave_memory_and_state_flat():
    rng = np.random.default_rng(1)
    calibration = calibrated(rng.normal(size=(REFERENCE, 1)))
    detector = DriftDetector(calibration, LOG_THRESHOLD)
    accumulator = WindowAccumulator(calibration.schema)
    block = rng.normal(size=(500, 1))
    sizes = []

    def run(blocks):
        for number in range(blocks):
            # Drifts come and go, so that alarms stand and clear all the time.
            accumulator.update(block + (2.0 if number % 20 < 5 else 0.0))
            window, transitions = accumulator.take()
            detector.step(transitions, window)
        sizes.append(len(detector.state_to_bytes()))

    run(200)
    tracemalloc.start()
    run(200)
    before, _ = tracemalloc.get_traced_memory()
    run(1_600)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20_000  # bytes, while 800,000 rows passed
    assert peak - before < 500_000
    assert max(sizes) < 4_000
