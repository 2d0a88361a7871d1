"""A model that crashes, seen and unseen."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.bundles import tabular_rows
from agent.clocks import ManualClock
from driftpost_agent.model_watch import STABLE_S, ModelWatch
from driftpost_agent.runtime_findings import MODEL_CRASHED, RuntimeFindings
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_models.errors import InferenceFailed, RuntimeBackingOff, RuntimeCrashed
from driftpost_models.isolated import IsolatedRuntime


class Watched:
    def __init__(self, store: Store) -> None:
        self.now = 0.0
        self.findings = RuntimeFindings(store, ManualClock())
        self.watch = ModelWatch(self.findings, lambda: self.now)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with Store.open(tmp_path / "agent.db", clock=ManualClock()) as store:
        yield Watched(store)


def test_only_crashes_count_and_not_errors_or_the_wait_after_one(watched: Watched) -> None:
    assert not watched.watch.failed(InferenceFailed("bad tensor"), "b")
    assert not watched.watch.failed(RuntimeBackingOff(2.0), "b")
    assert watched.watch.failed(RuntimeCrashed("signal", "SIGSEGV"), "b")
    assert "SIGSEGV" in watched.watch.problem
    assert watched.findings.stands(MODEL_CRASHED)


def test_a_model_that_dies_between_two_calls_is_noticed_and_recovers(
    watched: Watched, mlp_bundle: Bundle
) -> None:
    runtime = IsolatedRuntime(mlp_bundle.model_bytes)
    watched.watch.look(runtime, "b")
    assert watched.watch.problem == ""
    assert runtime.pid is not None
    os.kill(runtime.pid, signal.SIGKILL)
    while runtime.alive:
        pass
    watched.watch.look(runtime, "b")
    assert "next call starts it again" in watched.watch.problem
    runtime.run({"x": tabular_rows(1)})
    watched.watch.look(runtime, "b")
    assert "SIGKILL" in watched.watch.problem
    watched.now = STABLE_S - 1
    watched.watch.look(runtime, "b")
    assert watched.findings.stands(MODEL_CRASHED)
    watched.now = STABLE_S + 1
    watched.watch.look(runtime, "b")
    assert not watched.findings.stands(MODEL_CRASHED)
    assert watched.watch.problem == ""
    runtime.close()
