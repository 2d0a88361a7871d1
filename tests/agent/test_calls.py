"""A guard that closes waits for the calls that began before it, and for no others."""

from __future__ import annotations

import threading

import pytest

from driftpost_agent.calls import Calls
from driftpost_agent.errors import GuardClosed


def test_closing_waits_for_calls_that_began_before() -> None:
    calls = Calls(threading.Lock())
    for _ in range(2):
        next(calls.numbers)
    calls.end()
    assert calls.close()
    assert not calls.wait(0.01)
    ender = threading.Thread(target=calls.end, name="caller")
    ender.start()
    assert calls.wait(5.0)
    ender.join()


def test_closing_twice_happens_once() -> None:
    calls = Calls(threading.Lock())
    assert calls.close()
    assert not calls.close()
    assert calls.wait(0.0)


def test_calls_that_come_too_late_are_refused_and_not_waited_for() -> None:
    calls = Calls(threading.Lock())
    running = next(calls.numbers)
    calls.close()
    late = next(calls.numbers)
    with pytest.raises(GuardClosed):
        calls.refuse(late)
    assert not calls.wait(0.0), f"call {running} still runs; the late one must not stand for it"
    calls.end()
    assert calls.wait(0.0)


def test_a_call_that_began_before_and_finds_the_guard_closed_has_ended() -> None:
    calls = Calls(threading.Lock())
    number = next(calls.numbers)
    calls.close()
    with pytest.raises(GuardClosed):
        calls.refuse(number)
    assert calls.wait(0.0)
