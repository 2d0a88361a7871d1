"""What the guard adds to a model call, measured side by side in one process.

    python overhead.py digits-onnx.bundle guard.db

prints the two costs as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from camera import record, to_model_input
from digits import load_pool
from driftpost import Bundle, Guard
from driftpost_models.runtime import load_model

CALLS = 4_000  # several of the guard's blocks of rows, so that their cost is in the mean
ROUNDS = 5
SEED = 3


def measure(bundle_path: Path, store: Path) -> tuple[float, float]:
    """Time the same calls with and without the guard, alternating.

    The guard does everything that it does on a device: checks, recording, sketching, a store on disk. CPU
    time of all threads is counted, so that work it defers is not hidden.

    Args:
        bundle_path: The bundle.
        store: Where the guard may keep its windows.

    Returns:
        Microseconds a call without and with the guard; medians of the rounds.
    """
    bundle = Bundle.open(bundle_path, None)
    spec = bundle.inputs[0]
    frames, _ = record(load_pool("test"), CALLS, np.random.default_rng(SEED))
    rows = to_model_input(frames).reshape(CALLS, *(size or 1 for size in spec.shape))
    calls = [{spec.name: row} for row in rows]
    bare, guarded = [], []
    with Guard(bundle, store=store) as guard:
        plain = load_model(bundle.model_bytes, kind=bundle.model_kind)
        for _ in range(ROUNDS):
            start = time.process_time_ns()
            for call in calls:
                plain.run(call)
            bare.append(time.process_time_ns() - start)
            start = time.process_time_ns()
            for call in calls:
                guard.run(call)
            guard.flush()
            guarded.append(time.process_time_ns() - start)
        plain.close()
    return float(np.median(bare)) / CALLS / 1000, float(np.median(guarded)) / CALLS / 1000


if __name__ == "__main__":
    without, with_guard = measure(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"bare_us": without, "guarded_us": with_guard}))
