"""What simulated sensor faults are called: true kind against named kind, over many seeds.

    python -m benchmarks.drift.faults [SENSORS] [SEED]

Each run learns 20,000 rows of one sensor (of unit variance, beside three sound ones), and the fault begins at
any row of a window of 100 rows. The name is that of the first alarm, at a threshold of a million to one;
recordings end 5,000 rows after the fault.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import Role, Schema

FloatArray = npt.NDArray[np.float64]
Fault = Callable[[FloatArray, np.random.Generator], FloatArray]

REFERENCE, WINDOW, BEGIN, END = 20_000, 100, 1_000, 6_000
THRESHOLD = math.log(1e6)
OFFSET = 20.0  # natural units between zero and the sensor's usual level, in its standard deviations

STREAMS = {"independent": 0.0, "AR(1) 0.5": 0.5, "AR(1) 0.9": 0.9}


def _stuck(x: FloatArray, _: np.random.Generator) -> FloatArray:
    return np.full_like(x, x[0])


FAULTS: dict[str, Fault] = {
    "offset +1 sd": lambda x, _: x + 1.0,
    "offset -0.5 sd": lambda x, _: x - 0.5,
    "noise of 1 sd added": lambda x, rng: x + rng.normal(size=len(x)),
    "swings x1.6": lambda x, _: OFFSET + 1.6 * (x - OFFSET),
    "swings /1.6": lambda x, _: OFFSET + (x - OFFSET) / 1.6,
    "stuck": _stuck,
    "clipped at +0.7 sd": lambda x, _: np.minimum(x, OFFSET + 0.7),
    "clipped at -0.3 sd": lambda x, _: np.maximum(x, OFFSET - 0.3),
    "steps of 0.5 sd": lambda x, _: np.round(2.0 * x) / 2.0,
    "30 % missing": lambda x, rng: np.where(rng.random(len(x)) < 0.3, np.nan, x),
    "times 255": lambda x, _: 255.0 * x,
    "over 255": lambda x, _: x / 255.0,
    "times 1000": lambda x, _: 1000.0 * x,
    "minus 128": lambda x, _: x - 128.0,
}
EXPECTED = {
    "offset +1 sd": "shift", "offset -0.5 sd": "shift", "noise of 1 sd added": "noisy",
    "swings x1.6": "scale", "swings /1.6": "scale", "stuck": "stuck", "clipped at +0.7 sd": "saturated",
    "clipped at -0.3 sd": "saturated", "steps of 0.5 sd": "quantized", "30 % missing": "missing",
    "times 255": "wrong_scale", "over 255": "wrong_scale", "times 1000": "wrong_scale",
    "minus 128": "wrong_scale",
}  # fmt: skip


def sensor(rng: np.random.Generator, rows: int, rho: float) -> FloatArray:
    """A stationary AR(1) of unit variance around `OFFSET`, with three more beside it: float64[rows, 4]."""
    noise = rng.normal(size=(rows + 200, 4))
    out = np.empty_like(noise)
    out[0] = noise[0]
    step = math.sqrt(1.0 - rho * rho)
    for i in range(1, len(noise)):
        out[i] = rho * out[i - 1] + step * noise[i]
    return np.asarray(out[200:] + OFFSET)


def named(calibration: Calibration, live: FloatArray, begin: int) -> tuple[str, int]:
    """Kind of the first alarm, and the row at which it came; ("none", rows) without one.

    Args:
        calibration: of the reference.
        live: float64[rows, 4].
        begin: first row of the fault.
    """
    detector = DriftDetector(calibration, THRESHOLD)
    accumulator = WindowAccumulator(calibration.schema)
    for start in range(0, len(live), WINDOW):
        accumulator.update(live[start : start + WINDOW])
        window, transitions = accumulator.take()
        for alarm in detector.step(transitions, window):
            if start + WINDOW <= begin:
                return "false alarm", start + WINDOW
            return alarm.kind if alarm.streams[0][0] == "x0" else "other stream", start + WINDOW
    return "none", len(live)


def confusion(
    rho: float, sensors: int, seed: int, faults: tuple[str, ...] = tuple(FAULTS)
) -> dict[str, Counter[str]]:
    """Names given to each fault, over sensors."""
    table: dict[str, Counter[str]] = {fault: Counter() for fault in faults}
    for number in range(sensors):
        rng = np.random.default_rng([seed, number, round(100 * rho)])
        reference = sensor(rng, REFERENCE, rho)
        schema = Schema([fit_numeric(f"x{i}", column, Role.INPUT) for i, column in enumerate(reference.T)])
        calibration = Calibration.fit(schema, reference)
        sound = sensor(rng, END, rho)
        begin = BEGIN + int(rng.integers(WINDOW))
        for fault in faults:
            live = sound.copy()
            live[begin:, 0] = FAULTS[fault](live[begin:, 0], rng)
            table[fault][named(calibration, live, begin)[0]] += 1
    return table


def main() -> None:
    """Prints the table."""
    given = [int(word) for word in sys.argv[1:]]
    sensors, seed = (*given, *(50, 1)[len(given) :])
    for name, rho in STREAMS.items():
        print(f"\n{name}, {sensors} sensors, seed {seed}")
        for fault, counts in confusion(rho, sensors, seed).items():
            right = counts[EXPECTED[fault]]
            said = ", ".join(f"{kind} {n}" for kind, n in counts.most_common())
            print(f"  {fault:22} {EXPECTED[fault]:12} {right:4} of {sensors}: {said}")


if __name__ == "__main__":
    main()
