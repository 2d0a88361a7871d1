"""A bare process with the model: onnxruntime, numpy, and nothing else. The others are compared with it.

    python -m benchmarks.device.bare MODEL

calls the model and prints JSON: resident megabytes, and CPU seconds of importing.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.device.resident import resident_mb

CALLS = 2000


def main(model: Path) -> None:
    """Measure and print."""
    began = time.process_time()
    import numpy as np  # noqa: PLC0415 - import time is what is measured
    import onnxruntime  # noqa: PLC0415

    imported = time.process_time() - began
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.read_bytes(), options, providers=["CPUExecutionProvider"])
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    # Not drawn at random: numpy's generators bring two megabytes and OpenSSL along.
    row = np.sin(np.arange(np.prod(given.shape))).astype(np.float32).reshape(given.shape)
    for number in range(CALLS):
        session.run([answer.name], {given.name: row * np.float32(number % 7 / 7)})
    print(json.dumps({"mb": resident_mb(["self"]), "import_s": imported}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
