"""What the detectors cost a device: CPU time a row and a window, bytes of state, seconds of calibration."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from benchmarks.drift.product import WINDOW_S

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import Role, Schema

FloatArray = npt.NDArray[np.float64]

STREAMS = 41
REFERENCE_ROWS = 50_000
BLOCK_ROWS = 256  # the recorder's
WINDOW_ROWS = 300  # one a second in five minutes
WINDOWS = 200
REPEATS = 5  # of which the fastest counts: what else the machine did is not the detector's
BUDGET = "1 per 1,000 device-days"


def costs(seed: int) -> dict[str, tuple[float, str]]:
    """By name: value and unit."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(REFERENCE_ROWS, STREAMS))
    watched, plain = (_schema(reference, tracked) for tracked in (True, False))
    started = time.perf_counter()
    calibration = Calibration.fit(watched, reference)
    fitted = time.perf_counter() - started
    detector = DriftDetector(calibration, Budget.parse(BUDGET).log_threshold(WINDOW_S))
    live = rng.normal(size=(WINDOWS * WINDOW_ROWS, STREAMS))
    blocks = np.split(live, range(BLOCK_ROWS, len(live), BLOCK_ROWS))

    def sketch(schema: Schema) -> float:
        accumulator = WindowAccumulator(schema)

        def run() -> None:
            for block in blocks:
                accumulator.update(block)

        return _fastest(run) / len(live)

    accumulator = WindowAccumulator(watched)
    taken = []
    for window in np.split(live, WINDOWS):
        accumulator.update(window)
        taken.append(accumulator.take())

    def step() -> None:
        for window, transitions in taken:
            detector.step(transitions, window)

    counting = sketch(watched) - sketch(plain)
    stepping = _fastest(step) / WINDOWS
    return {
        "detector.row": (1e6 * (counting + stepping / WINDOW_ROWS), "us a row, 41 streams"),
        "detector.row_transitions": (1e6 * counting, "us a row, 41 streams"),
        "detector.window": (1e6 * stepping, "us a window, 41 streams"),
        "detector.state": (len(detector.state_to_bytes()) / STREAMS, "bytes a stream"),
        "detector.calibration": (fitted, "s, 41 streams of 50,000 rows"),
    }


def _schema(reference: FloatArray, tracked: bool) -> Schema:
    columns = enumerate(reference.T)
    return Schema([fit_numeric(f"x{i}", column, Role.INPUT, tracked=tracked) for i, column in columns])


def _fastest(work: Callable[[], object]) -> float:
    took = []
    for _ in range(REPEATS):
        started = time.thread_time()
        work()
        took.append(time.thread_time() - started)
    return min(took)
