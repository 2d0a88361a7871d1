"""What other libraries take for the same rows: 30 float features, a row at a time, in their own environments.

    python peers.py NAME

runs in the environment of one of them and prints JSON. Nothing else than that library (and what it brings) is
needed; rows come from the standard library's generator.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

FEATURES = 30
ROUNDS = 5

Update = Callable[[list[float]], object]


def rows(count: int) -> list[list[float]]:
    """Standard normal rows."""
    rng = random.Random(1)
    return [[rng.gauss(0, 1) for _ in range(FEATURES)] for _ in range(count)]


def measured(update: Update, fed: list[Any]) -> float:
    """CPU microseconds a row, the median of rounds."""
    times = []
    for _ in range(ROUNDS):
        before = time.thread_time_ns()
        for row in fed:
            update(row)
        times.append((time.thread_time_ns() - before) / 1000 / len(fed))
    return statistics.median(times)


def whylogs() -> dict[str, Any]:
    """A profile that tracks each row as a dictionary."""
    from whylogs.core import DatasetProfile  # noqa: PLC0415 - only in its own environment

    names = [f"x{k}" for k in range(FEATURES)]
    profile = DatasetProfile()
    fed = [dict(zip(names, row, strict=True)) for row in rows(400)]
    return {
        "what": "`profile.track(row)`",
        "us": measured(profile.track, fed),
        "state_bytes": len(profile.view().serialize()),
    }


def river() -> dict[str, Any]:
    """ADWIN on every feature."""
    from river import drift  # noqa: PLC0415

    detectors = [drift.ADWIN() for _ in range(FEATURES)]

    def update(row: list[float]) -> None:
        for detector, value in zip(detectors, row, strict=True):
            detector.update(value)

    return {"what": "`ADWIN.update` of 30 features", "us": measured(update, rows(4000)), "state_bytes": None}


def datasketches() -> dict[str, Any]:
    """A vector of KLL sketches."""
    import numpy as np  # noqa: PLC0415
    from datasketches import vector_of_kll_floats_sketches  # noqa: PLC0415

    sketches = vector_of_kll_floats_sketches(200, FEATURES)
    fed = [np.array(row, np.float32) for row in rows(20_000)]
    took = measured(sketches.update, fed)
    return {
        "what": "`vector_of_kll_floats_sketches(200, 30).update(row)`",
        "us": took,
        "state_bytes": sum(len(one) for one in sketches.serialize()),
    }


PEERS = {"whylogs": whylogs, "river": river, "datasketches": datasketches}


if __name__ == "__main__":
    name = sys.argv[1]
    print(json.dumps({**PEERS[name](), "version": importlib.metadata.version(name)}))
