"""Results of finished parts of a run, so that a run that was interrupted goes on where it was.

A part is kept under everything that decides its result: what was asked for, and the code that measured it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmarks.drift

import driftpost_sketches


class Parts:
    """A directory of results.

    Args:
        directory: made where it is missing; None keeps nothing.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._code = _code() if directory is not None else ""

    def get(self, name: str, measure: Callable[[], Any], **asked: object) -> tuple[Any, bool]:
        """The result of a part and whether it was there already; measured and kept where it was not.

        Args:
            name: of the part, as a file may be called.
            measure: gives what JSON can hold.
            asked: everything else that decides the result.
        """
        if self._directory is None:
            return measure(), False
        words = json.dumps([self._code, asked], sort_keys=True, default=str)
        path = self._directory / f"{name}-{hashlib.sha256(words.encode()).hexdigest()[:12]}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8")), True
        result = measure()
        self._directory.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(".part")
        written.write_text(json.dumps(result), encoding="utf-8")
        written.replace(path)
        # What is measured and what is read again are the same: keys are texts in both.
        return json.loads(path.read_text(encoding="utf-8")), False


def _code() -> str:
    digest = hashlib.sha256()
    for package in (driftpost_sketches, benchmarks.drift):
        for root in package.__path__:
            for path in sorted(Path(root).rglob("*.py")):
                digest.update(path.read_bytes())
    return digest.hexdigest()
