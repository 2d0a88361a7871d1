"""What the agent takes of its board: memory, and bytes written to the card; read from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Footprint:
    """Megabytes (2^20 bytes); 0 where the system does not tell.

    Attributes:
        agent_mb: resident memory of the agent's process.
        model_mb: resident memory of the model's process.
        written_mb: what the agent's process caused to be written to disk since its start.
    """

    agent_mb: float
    model_mb: float
    written_mb: float


def footprint(model_pid: int | None, proc: Path = Path("/proc")) -> Footprint:
    """Measure this process and the model's.

    Args:
        model_pid: process id of the model's child, None without one.
        proc: the process file system.
    """
    return Footprint(
        agent_mb=_resident_mb(proc / "self"),
        model_mb=_resident_mb(proc / str(model_pid)) if model_pid else 0.0,
        written_mb=_written_mb(proc / "self"),
    )


def resident_mb(pid: int) -> float:
    """Resident memory of a process, MiB; 0 where the system does not tell."""
    return _resident_mb(Path("/proc") / str(pid))


def _resident_mb(process: Path) -> float:
    try:
        pages = int((process / "statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _written_mb(process: Path) -> float:
    try:
        lines = (process / "io").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(": ", 1) for line in lines)["write_bytes"]) / 2**20
    except (OSError, ValueError, KeyError):
        return 0.0
