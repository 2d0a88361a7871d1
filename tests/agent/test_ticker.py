"""The recorder's thread: on time, woken, outliving a failure, ended in time."""

from __future__ import annotations

import threading

from driftpost_agent.ticker import Ticker


def test_it_ticks_when_woken_and_proves_progress() -> None:
    ticked, beats = threading.Event(), threading.Event()
    ticker = Ticker(ticked.set, lambda: 3600.0, interval_s=3600.0, progress=beats.set)
    ticker.start()
    ticker.wake()
    assert ticked.wait(10)
    assert beats.wait(10)
    assert ticker.stop()


def test_it_ticks_at_a_windows_end_without_being_woken() -> None:
    ticked = threading.Event()
    ticker = Ticker(ticked.set, lambda: 0.01, interval_s=3600.0)
    ticker.start()
    assert ticked.wait(10)
    assert ticker.stop()


def test_a_tick_that_fails_does_not_end_it() -> None:
    seen: list[int] = []
    enough = threading.Event()

    def fail() -> None:
        seen.append(1)
        if len(seen) == 3:
            enough.set()
        raise ValueError("a bad window")

    ticker = Ticker(fail, lambda: 0.0, interval_s=0.001)
    ticker.start()
    assert enough.wait(10)
    assert ticker.stop()


def test_stopping_before_starting_is_fine() -> None:
    assert Ticker(lambda: None, lambda: 1.0).stop()
