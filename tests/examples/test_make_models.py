"""The training script, in an environment that has what it needs (its docstring says how to make one)."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from digits import HERE, load_pool

ROOT = HERE.parents[1]


def training_python() -> str | None:
    """An interpreter with TensorFlow and scikit-learn: this one, or the training environment's."""
    if all(importlib.util.find_spec(name) for name in ("tensorflow", "sklearn", "onnx", "onnxruntime")):
        return sys.executable
    beside = ROOT / ".venv-train" / "bin" / "python"
    return str(beside) if beside.exists() else None


@pytest.mark.slow
@pytest.mark.skipif(training_python() is None, reason="TensorFlow is not installed (see make_models.py)")
def test_the_script_makes_models_as_accurate_as_the_shipped_ones(tmp_path: Path):
    done = subprocess.run(
        [str(training_python()), str(HERE / "make_models.py"), "--out", str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    report = json.loads(done.stdout[done.stdout.index("{") :])
    assert report["onnx_accuracy"] >= 0.96
    assert report["tflite_accuracy"] >= 0.96
    assert report["agreement"] >= 0.99
    for name in ("reference", "test"):
        made, shipped = load_pool(name, tmp_path / "data" / "digits.npz"), load_pool(name)
        np.testing.assert_array_equal(made.images, shipped.images)
        np.testing.assert_array_equal(made.labels, shipped.labels)
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        "digits_int8.onnx",
        "digits_int8.tflite",
    }
