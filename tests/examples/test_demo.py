"""The demo itself, as `make demo` runs it, on a shorter schedule."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from digits import HERE

LONGEST_S = 240.0


def children_of(pid: int) -> set[int]:
    """Every living descendant of a process."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z":
            parents[int(status.parent.name)] = int(fields[1])
    found: set[int] = set()
    wave = {pid}
    while wave:
        wave = {child for child, parent in parents.items() if parent in wave} - found
        found |= wave
    return found


def demo(tmp_path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "demo.py"), "--short", *flags],
        check=False,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )


@pytest.mark.slow
def test_a_drifting_cohort_and_a_stuck_sensor_are_told_apart_and_retraining_is_asked_for(tmp_path):
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BROKEN" not in done.stdout
    assert re.search(r"cohort camera=B.* opened \d+ windows", done.stdout)
    assert re.search(r"device meter-5: sensor_fault, stuck", done.stdout)
    assert "verified" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_drift_there_is_no_incident_and_no_request(tmp_path):
    done = demo(tmp_path, "--no-drift")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no incident at all: none" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "processes"), [("starting broker", 0), ("quiet stretch", 11)], ids=["starting", "playing"]
)
def test_an_interrupted_demo_leaves_no_process_and_keeps_its_logs(tmp_path, moment, processes):
    with subprocess.Popen(
        [sys.executable, str(HERE / "demo.py"), "--short"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    ) as process:
        timer = threading.Timer(LONGEST_S, process.kill)
        timer.start()
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith(moment):
                break
        descendants = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        lines += process.stdout.readlines()
        status = process.wait()
        timer.cancel()
    assert status == 130, "".join(lines)
    assert len(descendants) >= processes
    assert not any(Path(f"/proc/{pid}").exists() for pid in descendants)
    (kept,) = tmp_path.iterdir()
    assert "bundle-onnx.log" in {path.name for path in (kept / "logs").iterdir()}
