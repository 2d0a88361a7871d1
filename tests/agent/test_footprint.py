"""Memory and writes as the kernel tells them."""

from __future__ import annotations

import os
from pathlib import Path

from driftpost_agent.footprint import footprint


def test_the_own_process_takes_some_memory_and_has_no_model_without_a_child() -> None:
    measured = footprint(None)
    assert 5 < measured.agent_mb < 5_000
    assert measured.model_mb == 0.0


def test_another_process_is_measured_by_its_number() -> None:
    assert footprint(os.getpid()).model_mb > 5


def test_what_the_system_does_not_tell_is_zero(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "statm").write_text("nonsense")
    (tmp_path / "self" / "io").write_text("rchar: 5\n")
    measured = footprint(123, proc=tmp_path)
    assert (measured.agent_mb, measured.model_mb, measured.written_mb) == (0.0, 0.0, 0.0)
