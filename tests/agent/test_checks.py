"""Closed windows on their way into the store: kept in order when it fails, merged when too many wait."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.bundles import tabular_rows
from agent.clocks import ManualClock
from driftpost import Guard
from driftpost_agent.checks import MAX_WAITING
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_sketches.window import Window
from driftpost_sync.errors import MessageTooLarge
from driftpost_sync.messages import WindowBody


class FullDisk(Store):
    """A real store whose disk is full for a while."""

    full = False

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")
        with super().transaction() as connection:
            yield connection


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FullDisk]:
    with FullDisk.open(tmp_path / "agent.db", clock=ManualClock()) as opened:
        assert isinstance(opened, FullDisk)
        yield opened


def stored(store: Store) -> list[tuple[WindowBody, Window]]:
    with store.lock:
        rows = store._db.execute("select body from messages where kind = 'window' order by seq").fetchall()
    bodies = [WindowBody.from_bytes(row[0]) for row in rows]
    return [(body, Window.from_bytes(body.window)) for body in bodies]


def record(guard: Guard, clock: ManualClock, windows: int) -> None:
    for number in range(windows):
        guard.run(tabular_rows(10, seed=number))
        clock.advance(1_000)
        guard.tick()


def test_a_full_disk_delays_windows_and_loses_none(mlp_bundle: Bundle, store: FullDisk) -> None:
    clock = ManualClock()
    guard = Guard(mlp_bundle, store=store, clock=clock, window_seconds=1.0, threaded=False)
    record(guard, clock, 2)
    store.full = True
    record(guard, clock, 5)
    assert guard.checks.waiting == 5
    assert "full" in guard.checks.store_problem
    assert guard.run(tabular_rows(1)).outputs
    store.full = False
    guard.checks.retry()
    assert guard.checks.waiting == 0
    assert guard.checks.store_problem == ""
    starts = [body.mono_start for body, _ in stored(store)]
    assert starts == [0, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000]
    guard.close()
    assert store.outbox_total().recorded.rows == 71


def test_when_too_many_wait_neighbours_are_merged_and_memory_stays_bounded(
    mlp_bundle: Bundle, store: FullDisk
) -> None:
    clock = ManualClock()
    guard = Guard(mlp_bundle, store=store, clock=clock, window_seconds=1.0, threaded=False)
    store.full = True
    record(guard, clock, MAX_WAITING + 20)
    assert guard.checks.waiting == MAX_WAITING
    store.full = False
    guard.close()
    bodies = stored(store)
    assert sum(window.rows for _, window in bodies) == 10 * (MAX_WAITING + 20)
    assert sum(window.parts for _, window in bodies) == MAX_WAITING + 20
    assert store.outbox_total().recorded.windows == MAX_WAITING + 20
    spans = [(body.mono_start, body.mono_end) for body, _ in bodies]
    assert all(before[1] == after[0] for before, after in pairwise(spans))


def test_a_state_of_other_detectors_begins_anew_and_clears_what_stood(
    mlp_bundle: Bundle, tmp_path: Path
) -> None:
    clock = ManualClock()
    with Store.open(tmp_path / "agent.db", clock=clock) as store:
        options: dict[str, Any] = {"store": store, "clock": clock, "window_seconds": 60.0, "threaded": False}
        with Guard(mlp_bundle, **options) as guard:
            for number in range(10):
                guard.run(tabular_rows(200, seed=number, shift=1.5))
                clock.advance(60_000)
                guard.tick()
        assert store.finding_counts()[1] >= 1
        with Guard(mlp_bundle, policy=mlp_bundle.policy.with_(budget="5 per device-day"), **options):
            assert store.finding_counts()[1] == 0
        assert "began anew" in store.findings()[0]["text"]


def test_replacing_the_model_clears_what_stood_about_the_old_one(mlp_bundle: Bundle, tmp_path: Path) -> None:
    clock = ManualClock()
    with Store.open(tmp_path / "agent.db", clock=clock) as store:
        with Guard(mlp_bundle, store=store, clock=clock, window_seconds=60.0, threaded=False) as guard:
            for number in range(10):
                guard.run(tabular_rows(200, seed=number, shift=1.5))
                clock.advance(60_000)
                guard.tick()
            assert store.finding_counts()[1] >= 1
            guard.checks.abandon("another model was activated")
        assert store.finding_counts()[1] == 0


def test_a_model_that_comes_back_to_a_drift_reports_it_again(mlp_bundle: Bundle, tmp_path: Path) -> None:
    clock = ManualClock()
    with Store.open(tmp_path / "agent.db", clock=clock) as store:
        for turn in (1, 2):
            with Guard(mlp_bundle, store=store, clock=clock, window_seconds=60.0, threaded=False) as guard:
                for number in range(10):
                    guard.run(tabular_rows(200, seed=number, shift=1.5))
                    clock.advance(60_000)
                    guard.tick()
                assert store.finding_counts()[1] >= 1, f"turn {turn}"
                guard.checks.abandon("another model was activated")
            assert store.finding_counts()[1] == 0


def test_a_guard_without_a_store_still_finds_drift(mlp_bundle: Bundle) -> None:
    clock = ManualClock()
    with Guard(mlp_bundle, clock=clock, window_seconds=60.0, threaded=False) as guard:
        for number in range(10):
            guard.run(tabular_rows(200, seed=number, shift=1.5))
            clock.advance(60_000)
            guard.tick()
        findings = list(guard.checks.remembered)
    assert findings[0].state == "raised"
    assert findings[0].bundle == mlp_bundle.id
    assert findings[0].text
    assert findings[0].onset_mono <= findings[0].mono


def test_a_window_that_no_message_can_hold_does_not_hold_up_the_others(
    mlp_bundle: Bundle, store: FullDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    guard = Guard(mlp_bundle, store=store, clock=clock, window_seconds=1.0, threaded=False)
    monkeypatch.setattr("driftpost_sync.messages.limits.MAX_BODY_BYTES", 100)
    record(guard, clock, 1)
    monkeypatch.undo()
    record(guard, clock, 2)
    assert guard.checks.given_up == 1
    assert store.outbox_total().recorded.windows == 2
    guard.close()


def test_what_was_found_in_a_window_that_is_given_up_is_reported(
    mlp_bundle: Bundle, store: FullDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(_: WindowBody) -> bytes:
        raise MessageTooLarge("a window", 2, 1)

    clock = ManualClock()
    guard = Guard(mlp_bundle, store=store, clock=clock, window_seconds=60.0, threaded=False)
    monkeypatch.setattr(WindowBody, "to_bytes", too_large)
    for number in range(10):
        guard.run(tabular_rows(200, seed=number, shift=1.5))
        clock.advance(60_000)
        guard.tick()
    guard.close()
    assert guard.checks.given_up == 10
    assert store.finding_counts()[1] >= 1


def test_while_the_card_is_spared_windows_wait_and_merge_but_what_was_found_is_written(
    mlp_bundle: Bundle, store: FullDisk
) -> None:
    clock = ManualClock()
    guard = Guard(mlp_bundle, store=store, clock=clock, window_seconds=1.0, threaded=False)
    guard.checks.holding = True
    record(guard, clock, MAX_WAITING + 30)
    assert stored(store) == []
    assert guard.checks.waiting <= MAX_WAITING
    assert guard.checks.store_problem == ""
    for number in range(40):
        guard.run(tabular_rows(60, seed=number, shift=3.0))
        clock.advance(1_000)
        guard.tick()
        if store.finding_counts()[0]:
            break
    assert store.finding_counts()[0] >= 1
    assert guard.checks.waiting < 40
    guard.checks.holding = False
    guard.flush()
    guard.close()
    assert store.outbox_total().recorded.rows == sum(window.rows for _, window in stored(store))
    assert store.outbox_total().merged.windows == 0
    assert sum(window.parts for _, window in stored(store)) > MAX_WAITING + 30
