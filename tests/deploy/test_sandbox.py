"""The agent's unit bans writable code (MemoryDenyWriteExecute); the kernel offers the ban to any process."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[2] / "examples" / "digits" / "models"
# prctl(2): refuse mappings that are writable and executable, in this process and its children.
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, PR_GET_MDWE = 65, 1, 66

INFERENCE = f"""
import ctypes, mmap, sys
from pathlib import Path
import numpy as np

assert ctypes.CDLL(None).prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0) == 0
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except OSError:
    pass
else:
    sys.exit("writable code is still allowed")

from driftpost_models.isolated import IsolatedRuntime

runtime = IsolatedRuntime(Path(sys.argv[1]))
try:
    inputs = {{spec.name: np.zeros([d or 1 for d in spec.shape], spec.dtype) for spec in runtime.inputs}}
    outputs = runtime.run(inputs)
    print(runtime.kind, runtime.restarts, sum(output.size for output in outputs.values()))
finally:
    runtime.close()
"""


@pytest.mark.skipif(
    sys.platform != "linux" or ctypes.CDLL(None).prctl(PR_GET_MDWE, 0, 0, 0, 0) < 0,
    reason="this kernel can not ban writable code (Linux 6.3 or newer can)",
)
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_model_process_needs_no_writable_code(kind):
    result = subprocess.run(
        [sys.executable, "-c", INFERENCE, str(MODELS / f"digits_int8.{kind}")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [kind, "0", "10"]
