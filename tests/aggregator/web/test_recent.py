"""Shared answers: computed once, fresh for as long as they should be, and bounded in number."""

from __future__ import annotations

import threading

import pytest

from driftpost_aggregator.web.recent import Recent


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_an_answer_is_computed_again_only_when_it_is_too_old() -> None:
    clock, counted = Clock(), iter(range(10))
    recent: Recent[int] = Recent(2.0, monotonic=clock)
    assert [recent.get("a", lambda: next(counted)) for _ in range(3)] == [0, 0, 0]
    clock.seconds = 1.9
    assert recent.get("a", lambda: next(counted)) == 0
    clock.seconds = 2.0
    assert recent.get("a", lambda: next(counted)) == 1


def test_keys_do_not_share_answers() -> None:
    recent: Recent[str] = Recent(2.0, monotonic=Clock())
    assert [recent.get(key, key.upper) for key in "aba"] == ["A", "B", "A"]


def test_the_least_recently_used_go_first() -> None:
    recent: Recent[int] = Recent(2.0, most=2, monotonic=Clock())
    recent.get("a", lambda: 1)
    recent.get("b", lambda: 2)
    recent.get("a", lambda: 0)
    recent.get("c", lambda: 3)
    assert recent.get("a", lambda: -1) == 1
    assert recent.get("b", lambda: -1) == -1


def test_a_failure_is_not_remembered() -> None:
    recent: Recent[int] = Recent(2.0, monotonic=Clock())

    def fails() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        recent.get("a", fails)
    assert recent.get("a", lambda: 1) == 1


def test_many_who_ask_at_once_get_one_computation() -> None:
    recent: Recent[int] = Recent(60.0)
    entered, go = threading.Event(), threading.Event()
    computed: list[int] = []
    answers: list[int] = []

    def slow() -> int:
        computed.append(1)
        entered.set()
        assert go.wait(10)
        return 7

    threads = [threading.Thread(target=lambda: answers.append(recent.get("a", slow))) for _ in range(8)]
    threads[0].start()
    assert entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert answers == [7] * 8
    assert computed == [1]
