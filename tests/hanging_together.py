"""Streams that hang together by common factors, for tests of the joint detector."""

import math

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import Role, Schema


def factor_rows(rng, rows, streams=8, *, rho=0.0, loading=0.8, tails=None):
    """float64[rows, streams]: one factor in all of them; AR(1) of `rho` throughout."""
    noise = rng.normal(size=(rows + 200, streams + 1))
    if tails is not None:
        noise = rng.standard_t(tails, size=noise.shape)
    if rho:
        for t in range(1, len(noise)):
            noise[t] = rho * noise[t - 1] + math.sqrt(1 - rho * rho) * noise[t]
    noise = noise[200:]
    return loading * noise[:, :1] + math.sqrt(1 - loading * loading) * noise[:, 1:]


def calibrated(reference, **wishes):
    """A calibration with a joint part, of streams x0, x1, ..."""
    schema = Schema([fit_numeric(f"x{i}", column, Role.INPUT) for i, column in enumerate(reference.T)])
    return Calibration.fit(schema, reference, joint=True, **wishes)


def accumulator_of(calibration):
    return WindowAccumulator(calibration.schema, calibration.joint.features)


def closed(calibration, rows, size=50):
    """Every window of some rows, with its transitions."""
    accumulator = accumulator_of(calibration)
    for start in range(0, len(rows) - size + 1, size):
        accumulator.update(rows[start : start + size])
        yield accumulator.take()


def watched(calibration, rows, *, size=50, log_threshold=14.0, detector=None):
    """(window number, alarm) of everything that a detector says about some rows."""
    detector = detector or DriftDetector(calibration, log_threshold)
    return [
        (at, alarm)
        for at, (window, transitions) in enumerate(closed(calibration, rows, size))
        for alarm in detector.step(transitions, window)
    ]
