"""A model that crashes, seen and unseen."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.bundles import tabular_rows
from agent.clocks import ManualClock
from driftpost_agent.model_watch import STABLE_S, ModelWatch
from driftpost_agent.runtime_findings import CRASH_LOOP, MODEL_CRASHED, RuntimeFindings
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


@pytest.mark.parametrize("stop", [False, True])
def test_a_crash_loop_is_a_finding_and_the_owner_decides_whether_it_is_tried_on(
    watched: Watched, mlp_bundle: Bundle, stop: bool
) -> None:
    watch = ModelWatch(watched.findings, lambda: watched.now, crash_limit=3, stop=stop)
    for number in range(3):
        assert not watched.findings.stands(CRASH_LOOP)
        watched.now += 5.0
        watch.failed(RuntimeCrashed("signal", f"SIGSEGV {number}"), "b")
    assert watched.findings.stands(CRASH_LOOP)
    assert bool(watch.stopped) is stop
    assert "3 times" in watch.stopped if stop else True
    watch.begin()
    assert (watch.stopped, watch.problem) == ("", "")
    assert not watched.findings.stands(CRASH_LOOP)


def test_a_stable_minute_forgives_the_crashes_before_it(watched: Watched, mlp_bundle: Bundle) -> None:
    watch = ModelWatch(watched.findings, lambda: watched.now, crash_limit=2)
    with started(mlp_bundle) as runtime:
        for number in range(4):
            watch.failed(RuntimeCrashed("signal", f"SIGSEGV {number}"), "b")
            watched.now += STABLE_S + 1
            watch.look(runtime, "b")
            assert watch.problem == ""
    assert not watched.findings.stands(CRASH_LOOP)


def test_one_crash_that_a_call_and_a_look_both_see_counts_once(watched: Watched, mlp_bundle: Bundle) -> None:
    watch = ModelWatch(watched.findings, lambda: watched.now, crash_limit=2)
    with started(mlp_bundle) as runtime:
        runtime.end_child("for the test")
        crash = runtime.last_crash
        assert crash is not None
        watch.failed(crash, "b")
        watch.look(runtime, "b")
    assert not watched.findings.stands(CRASH_LOOP)


def test_a_model_that_outgrows_its_limit_is_ended_and_the_next_call_starts_it_again(
    watched: Watched, mlp_bundle: Bundle
) -> None:
    watch = ModelWatch(watched.findings, lambda: watched.now, memory_mb=1.0)
    with started(mlp_bundle) as runtime:
        pid = runtime.pid
        watch.look(runtime, "b")
        assert "model.memory_mb is 1" in watch.problem
        assert watched.findings.stands(MODEL_CRASHED)
        assert runtime.pid is None
        assert len(runtime.run({"x": tabular_rows(1)})["p"]) == 1
        assert runtime.pid not in {None, pid}
        watched.watch.look(runtime, "b")  # without a limit it may be as large as it is
        assert runtime.pid is not None


@contextmanager
def started(bundle: Bundle) -> Iterator[IsolatedRuntime]:
    runtime = IsolatedRuntime(bundle.model_bytes, kind=bundle.model_kind)
    try:
        yield runtime
    finally:
        runtime.close()
