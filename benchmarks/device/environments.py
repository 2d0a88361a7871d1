"""Environments for libraries that driftpost must not depend on: made once, kept, done without if need be."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

INSTALL_S = 600.0


def environment(place: Path, requirements: Path) -> tuple[Path | None, str]:
    """The interpreter of an environment that holds these requirements.

    Returns:
        Its path, or None and the reason.
    """
    python, stamp = place / "bin" / "python", place / "requirements.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python, ""
    shutil.rmtree(place, ignore_errors=True)
    try:
        for command in (
            [sys.executable, "-m", "venv", str(place)],
            [
                str(python),
                "-m",
                "pip",
                "--quiet",
                "--disable-pip-version-check",
                "install",
                "--requirement",
                str(requirements),
            ],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.strip().splitlines() if line] or ["no reason given"]
        return None, lines[-1][:200]
    except subprocess.TimeoutExpired:
        return None, f"not installed within {INSTALL_S:.0f} s"
    stamp.write_text(wanted, encoding="utf-8")
    return python, ""
