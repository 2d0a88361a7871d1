import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "container" / "image_check.py"


def _run(*command):
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_a_machine_that_runs_a_bundle_passes_with_its_versions_and_answers(bundle):
    checked = _run(sys.executable, SCRIPT, bundle)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    lines = checked.stdout.splitlines()
    assert any(line.startswith("onnxruntime ") for line in lines)
    assert any("guarded call  ok: {'probabilities': [" in line for line in lines)
    assert any('"verdict": "ok"' in line for line in lines)
    assert lines[-1] == "all good"


def test_a_machine_that_answers_differently_fails_with_the_difference(bundle, tmp_path):
    """What another processor's arithmetic looks like: the golden answers are those of a different model."""
    tampering = (
        "import dataclasses, sys\nfrom pathlib import Path\n"
        "import numpy as np\nfrom driftpost import Bundle\n"
        "bundle = Bundle.open(Path(sys.argv[1]), None)\n"
        "outputs = {name: np.roll(array, 1, axis=-1) for name, array in bundle.golden.outputs.items()}\n"
        "golden = dataclasses.replace(bundle.golden, outputs=outputs)\n"
        "dataclasses.replace(bundle, golden=golden).write(Path(sys.argv[2]), None)\n"
    )
    other = tmp_path / "other.bundle"
    made = _run(sys.executable, "-c", tampering, bundle, other)
    assert made.returncode == 0, made.stderr
    checked = _run(sys.executable, SCRIPT, other)
    assert checked.returncode == 1
    assert "times its tolerance" in checked.stdout
    assert checked.stdout.splitlines()[-1] == "1 of 1 bundles failed"
