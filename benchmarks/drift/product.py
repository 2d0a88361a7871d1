"""driftpost's own detectors on simulated devices, by the code that runs on the device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from benchmarks.drift.changes import CHANGES, HORIZON_ROWS, WARM_UP_ROWS
from benchmarks.drift.screen import highest_evidence, surely_silent
from benchmarks.drift.streams import DAY_ROWS, SOURCES, live, reference

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.derived.fit import Derived, fit_derived
from driftpost_sketches.derived.phase import HOUR_OF_DAY
from driftpost_sketches.derived.wishes import SeasonWish
from driftpost_sketches.drift.budget import PERIODS, Budget
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import Role, Schema
from driftpost_sketches.transitions import Transitions
from driftpost_sketches.window import Window

FloatArray = npt.NDArray[np.float64]

WINDOW_ROWS = 20
WINDOW_S = PERIODS["day"] * WINDOW_ROWS / DAY_ROWS
BUDGETS = (1000, 100, 10)  # false alarms per 1,000 device-days, the laxest first


def calibrate(seed: int, source: str, device: int, purpose: str) -> Calibration:
    """What a bundle would hold for this device."""
    if SOURCES[source].seasonal:
        derived = _derived(seed, source, device, purpose)
        first = len(derived.plan.columns)
        schema = Schema(derived.schema.streams[first:])
        return Calibration.fit(schema, derived.values[:, first:], ceiling=derived.ceiling)
    values = reference(seed, source, device, purpose)
    return Calibration.fit(_schema(values), values)


def watched(seed: int, source: str, device: int, purpose: str, values: FloatArray) -> FloatArray:
    """What the detectors see of rows from midnight on: the rows, or what is left beyond the hour's usual."""
    if not SOURCES[source].seasonal:
        return values
    plan = _derived(seed, source, device, purpose).plan
    return plan.apply(values, _seconds(len(values)))[:, values.shape[1] :]


@lru_cache(maxsize=1)
def _derived(seed: int, source: str, device: int, purpose: str) -> Derived:
    values = reference(seed, source, device, purpose)
    return fit_derived(_schema(values), values, seconds=_seconds(len(values)), season=SeasonWish(HOUR_OF_DAY))


def _seconds(rows: int) -> FloatArray:
    return np.arange(rows, dtype=np.float64) * (PERIODS["day"] / DAY_ROWS)


def _schema(values: FloatArray) -> Schema:
    return Schema([fit_numeric(f"x{i}", column, Role.INPUT) for i, column in enumerate(values.T)])


def detector_for(calibration: Calibration, budget: int) -> DriftDetector:
    """A fresh detector at so many false alarms per 1,000 device-days."""
    return DriftDetector(calibration, log_threshold(budget))


def log_threshold(budget: int) -> float:
    """Log evidence that an alarm takes at so many false alarms per 1,000 device-days."""
    return Budget.parse(f"{budget} per 1,000 device-days").log_threshold(WINDOW_S)


def windows(accumulator: WindowAccumulator, values: FloatArray) -> Iterator[tuple[Window, Transitions]]:
    """Every whole window of some rows, in order."""
    for start in range(0, len(values) - WINDOW_ROWS + 1, WINDOW_ROWS):
        accumulator.update(values[start : start + WINDOW_ROWS])
        yield accumulator.take()


class Quiet(NamedTuple):
    """What a device did while nothing changed.

    Attributes:
        raised: alarms by budget.
        peak: largest log evidence at the laxest budget, if none of it had become an alarm. At a stricter
            budget evidence is charged at least as much, so one that asks for more would have been silent.
    """

    raised: dict[int, int]
    peak: float


def watch_quietly(seed: int, source: str, device: int, days: int, *budgets: int) -> Quiet:
    """Watches days in which nothing changes, without a break.

    Args:
        seed: of the run.
        source: kind of stream.
        device: which one.
        days: device-days.
        budgets: the laxest first. A device that is silent at one is silent at all that follow (see `Quiet`):
            they need not be run.
    """
    calibration = calibrate(seed, source, device, "null")
    rows = live(seed, source, device, "null", days * DAY_ROWS)
    values = watched(seed, source, device, "null", rows)
    raised = dict.fromkeys(budgets, 0)
    peak = -np.inf
    for budget in budgets:
        detector, threshold = detector_for(calibration, budget), log_threshold(budget)
        if budget == budgets[0]:
            peak = highest_evidence(calibration.schema, detector, values, WINDOW_ROWS)
        if surely_silent(peak, threshold):
            break
        for window, transitions in windows(WindowAccumulator(calibration.schema), values):
            raised[budget] += sum(alarm.state == "raised" for alarm in detector.step(transitions, window))
        if not raised[budget]:
            break
    return Quiet(raised, float(peak))


def false_alarms(seed: int, source: str, device: int, days: int, *budgets: int) -> dict[int, int]:
    """Alarms raised by budget while nothing changes; see `watch_quietly`."""
    return watch_quietly(seed, source, device, days, *budgets).raised


def too_short(seed: int, source: str, device: int, budget: int) -> list[str]:
    """What the builder says about this reference at a budget; empty when it suffices."""
    words = f"{budget} per 1,000 device-days"
    return calibrate(seed, source, device, "null").short_for(Budget.parse(words), WINDOW_S)


def delays(seed: int, source: str, device: int, budget: int, trials: int) -> dict[str, list[float]]:
    """Rows from a change in one stream of thirty until an alarm names it; infinity where none does.

    The change begins with a window. Trial k changes stream k of the same device; each begins from the state
    that the detector has after the warm-up.
    """
    calibration = calibrate(seed, source, device, "delay")
    detector = detector_for(calibration, budget)
    values = live(seed, source, device, "delay", WARM_UP_ROWS + HORIZON_ROWS)
    seen = watched(seed, source, device, "delay", values)
    for window, transitions in windows(WindowAccumulator(calibration.schema), seen[:WARM_UP_ROWS]):
        detector.step(transitions, window)
    state = detector.state_to_bytes()
    found: dict[str, list[float]] = {name: [] for name in CHANGES}
    for stream in range(trials):
        peaceful = values[WARM_UP_ROWS:, stream].copy()
        for name, change in CHANGES.items():
            values[WARM_UP_ROWS:, stream] = change(peaceful, float(values[WARM_UP_ROWS - 1, stream]))
            detector.restore(state)
            seen = watched(seed, source, device, "delay", values)
            found[name].append(_delay(calibration.schema, detector, seen, stream))
        values[WARM_UP_ROWS:, stream] = peaceful
    return found


def _delay(schema: Schema, detector: DriftDetector, values: FloatArray, stream: int) -> float:
    accumulator = WindowAccumulator(schema)
    # The last quiet window again, so that the first step of the change is counted as well.
    accumulator.update(values[WARM_UP_ROWS - WINDOW_ROWS : WARM_UP_ROWS])
    accumulator.take()
    for at, (window, transitions) in enumerate(windows(accumulator, values[WARM_UP_ROWS:])):
        for alarm in detector.step(transitions, window):
            if alarm.state == "raised" and schema.streams[stream].name in dict(alarm.streams):
                return float((at + 1) * WINDOW_ROWS)
    return float("inf")
