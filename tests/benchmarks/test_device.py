"""Budgets of memory, flash and message size, on real processes and a real disk: 41 streams, checks on.

Times are no test's matter: they depend on what else the machine does. `make bench` measures them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.device import models
from benchmarks.device.flash import WINDOWS, written

from driftpost_models.build import build_bundle

FEATURES = 35  # and class, confidence, margin, entropy, latency, verdict: 41 streams
FLASH_MB = 3.0
MEMORY_MB = 20.0
WINDOW_BYTES = 2_000
# The process varies by a few hundred kilobytes from run to run; this much of the budget is left over.
MARGIN_MB = 4.0

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells memory and writes of a process"
)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder on a disk: a RAM disk, where temporary folders often are, is charged for nothing."""
    root = Path(__file__).parents[2] / "build"
    root.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def files(place: Path) -> tuple[Path, Path]:
    """The MLP with 35 inputs, and its bundle."""
    model, reference, config = place / "mlp.onnx", place / "reference.npy", place / "mlp.toml"
    models.mlp(model, FEATURES)
    np.save(reference, models.tabular_rows(FEATURES)(6_000, 7))
    output = models.output_name(model)
    config.write_text(f'[probes.outputs."{output}"]\nas = "classification"\n', encoding="utf-8")
    built = build_bundle(
        model, reference, place / "mlp.bundle", name="mlp", version="1", config=config
    ).bundle
    assert len(built.schema) == 41
    return model, place / "mlp.bundle"


def _program(name: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.device.{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        # As on a device: open windows wait in shared memory, not in a folder of the tests on the disk.
        env={name: value for name, value in os.environ.items() if name != "DRIFTPOST_SHARED_MEMORY"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_a_day_of_windows_writes_less_than_the_budget(place: Path, files: tuple[Path, Path]) -> None:
    before = written()
    probe = place / "probe"
    probe.write_bytes(b"\1" * 65_536)
    with probe.open("rb") as file:
        os.fsync(file.fileno())
    if written() - before < 65_536:
        pytest.skip("this file system's writes are not counted")
    folder = place / "flash"
    folder.mkdir()
    day = _program("flash", files[1], folder)
    assert day["windows"] >= WINDOWS
    assert day["day_mb"] <= FLASH_MB
    # The log had been folded back at least once: its pages are in the number, not put off.
    assert day["folded"] >= 1
    assert day["window_bytes_most"] <= WINDOW_BYTES
    shutil.rmtree(folder)


def test_the_agent_takes_less_above_a_bare_process_than_the_budget(
    place: Path, files: tuple[Path, Path]
) -> None:
    bare = _program("bare", files[0])
    agent = _program("footprint", "agent_in_process", files[1], place / "agent")
    assert agent["mb"] - bare["mb"] <= MEMORY_MB - MARGIN_MB
