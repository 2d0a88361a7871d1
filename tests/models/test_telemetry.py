import os
import subprocess
import sys
from pathlib import Path

from models import onnx_files

LOAD = """
import sys
from pathlib import Path
from driftpost_models.isolated import IsolatedRuntime
from driftpost_models.runtime import load_model
for load in (load_model, IsolatedRuntime):
    load(Path(sys.argv[1])).close()
"""


def test_loading_a_model_starts_no_telemetry_whatever_the_environment_says(tmp_path: Path) -> None:
    """The runtime's telemetry begins by writing a session file to the folder for temporary files."""
    model = tmp_path / "model.onnx"
    model.write_bytes(onnx_files.classifier())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # CI is a variable that also keeps it quiet, and would make this test pass for nothing.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TMPDIR")}
    environment |= {
        "TMPDIR": str(scratch),
        "HOME": str(scratch),
        "ORT_DISABLE_TELEMETRY": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    subprocess.run([sys.executable, "-c", LOAD, str(model)], check=True, env=environment, timeout=60)
    assert list(scratch.rglob("*")) == []
