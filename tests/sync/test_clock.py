from __future__ import annotations

import time

from driftpost_sync import clock as clock_module
from driftpost_sync.clock import EARLIEST_WALL_MS, SystemClock, boot_id, kernel_says_synchronised


def test_monotonic_time_does_not_go_back_and_counts_milliseconds():
    clock = SystemClock()
    first = clock.mono_ms()
    second = clock.mono_ms()
    assert 0 <= second - first < 1000
    assert abs(first - time.clock_gettime(time.CLOCK_BOOTTIME) * 1000) < 1000


def test_wall_time_is_withheld_until_the_kernel_is_synchronised_and_then_stays():
    answers = iter([False, True, False])
    clock = SystemClock(synchronised=lambda: next(answers))
    assert clock.wall_ms() is None
    clock._asked_ms -= 2000
    now = clock.wall_ms()
    assert now is not None
    assert abs(now - time.time() * 1000) < 1000
    clock._asked_ms -= 2000
    assert clock.wall_ms() is not None


def test_the_kernel_is_not_asked_at_every_reading():
    asked = []
    clock = SystemClock(synchronised=lambda: bool(asked.append(1)))
    for _ in range(100):
        assert clock.wall_ms() is None
    assert len(asked) <= 2


def test_a_clock_in_1970_is_never_good(monkeypatch):
    clock = SystemClock(trust_wall=True)
    monkeypatch.setattr(clock_module.time, "time_ns", lambda: 12_345_000_000)
    assert clock.wall_ms() is None
    monkeypatch.setattr(clock_module.time, "time_ns", lambda: EARLIEST_WALL_MS * 1_000_000)
    assert clock.wall_ms() == EARLIEST_WALL_MS


def test_the_kernel_answers_whether_it_is_synchronised():
    assert kernel_says_synchronised() in (True, False)


def test_a_machine_without_adjtimex_is_taken_as_not_synchronised(monkeypatch):
    class NoLibrary:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(clock_module.ctypes, "CDLL", lambda *_, **__: NoLibrary())
    assert kernel_says_synchronised() is False


def test_the_boot_id_stays_the_same():
    assert boot_id() == boot_id()
