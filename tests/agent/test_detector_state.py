"""The detectors' state goes to the card rarely, and always with what was told.

Changes last two windows here. Ten rows at +3 sd bring 20 nats in each of thirty streams: a row's gain is
bounded, so that one rare value is no alarm. One alarm a year at windows of a second takes 17.3, and the bet
that sees it best holds e^-4.2 of the evidence, for most of that lies on the small changes that people ask
about. One window falls short by less than a tenth of a nat: the price of betting on everything at once.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.bundles import tabular_rows
from agent.clocks import ManualClock
from driftpost import Guard
from driftpost_agent.checks import STATE_EVERY_S
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_sync.errors import MessageTooLarge
from driftpost_sync.messages import WindowBody


def record(guard: Guard, clock: ManualClock, windows: int, shift: float = 0.0, first: int = 0) -> None:
    for number in range(windows):
        guard.run(tabular_rows(10, seed=first + number, shift=shift))
        clock.advance(1_000)
        guard.tick()


def state(store: Store, bundle: Bundle) -> bytes:
    kept = store.detector_state(bundle.id)
    return b"" if kept is None else kept[0]


def test_quiet_windows_write_the_state_once_in_hours_and_when_the_guard_closes(
    mlp_bundle: Bundle, tmp_path: Path
) -> None:
    clock = ManualClock(1_000)
    with Store.open(tmp_path / "agent.db", clock=clock) as store:
        guard = Guard(mlp_bundle, clock=clock, store=store, window_seconds=1.0, threaded=False)
        record(guard, clock, 1)
        first = state(store, mlp_bundle)
        record(guard, clock, 20, first=1)
        assert first
        assert state(store, mlp_bundle) == first
        clock.advance(STATE_EVERY_S * 1000)
        record(guard, clock, 1, first=21)
        second = state(store, mlp_bundle)
        assert second != first
        record(guard, clock, 5, first=22)
        assert state(store, mlp_bundle) == second
        guard.close()
        assert state(store, mlp_bundle) != second


def test_an_alarm_is_stored_with_the_state_that_raised_it(mlp_bundle: Bundle, tmp_path: Path) -> None:
    clock = ManualClock(1_000)
    with Store.open(tmp_path / "agent.db", clock=clock) as store:
        guard = Guard(mlp_bundle, clock=clock, store=store, window_seconds=1.0, threaded=False)
        record(guard, clock, 3)
        before = state(store, mlp_bundle)
        record(guard, clock, 2, shift=3.0, first=3)
        assert guard.checks.remembered
        assert state(store, mlp_bundle) != before
        # Killed here: another process goes on with this alarm standing and does not raise it again.
        successor = Guard(mlp_bundle, clock=clock, store=store, window_seconds=1.0, threaded=False)
        record(successor, clock, 3, shift=3.0, first=4)
        assert [finding.state for finding in successor.checks.remembered] == []
        successor.close()
        guard.close()


def test_an_alarm_in_a_window_that_no_message_holds_is_stored_with_its_state(
    mlp_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(_: WindowBody) -> bytes:
        raise MessageTooLarge("a window", 2, 1)

    clock = ManualClock(1_000)
    with Store.open(tmp_path / "agent.db", clock=clock) as store:
        guard = Guard(mlp_bundle, clock=clock, store=store, window_seconds=1.0, threaded=False)
        record(guard, clock, 3)
        with monkeypatch.context() as patch:
            patch.setattr(WindowBody, "to_bytes", too_large)
            record(guard, clock, 2, shift=3.0, first=3)
        assert [finding.state for finding in guard.checks.remembered] == ["raised"]
        # Killed here: another process knows what was told, and that it stands.
        successor = Guard(mlp_bundle, clock=clock, store=store, window_seconds=1.0, threaded=False)
        record(successor, clock, 3, shift=3.0, first=5)
        assert list(successor.checks.remembered) == []
        assert store.finding_counts() == (1, 1)
        successor.close()
        guard.close()
