from __future__ import annotations

import random

from driftpost_sync.backoff import Backoff


class Fixed:
    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


def test_waits_double_up_to_the_cap():
    backoff = Backoff(1000, 60_000, Fixed(1.0))
    assert [backoff.next_ms() for _ in range(8)] == [2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]


def test_no_wait_is_shorter_than_half_the_base():
    backoff = Backoff(1000, 60_000, Fixed(0.0))
    assert {backoff.next_ms() for _ in range(5)} == {500}


def test_a_fleet_that_lost_its_broker_together_comes_back_spread_out():
    waits = []
    for seed in range(2000):
        backoff = Backoff(1000, 120_000, random.Random(seed))
        for _ in range(6):
            wait = backoff.next_ms()
        waits.append(wait)
    # After six failures in step, the busiest second of the 64 sees nothing like the whole fleet.
    busiest = max(sum(second * 1000 <= wait < (second + 1) * 1000 for wait in waits) for second in range(64))
    assert busiest < 2000 * 0.05


def test_years_of_failures_do_not_overflow():
    backoff = Backoff(1000, 60_000, Fixed(1.0))
    backoff.failures = 10_000_000
    assert backoff.next_ms() == 60_000


def test_a_special_wait_is_jittered_too():
    assert Backoff(1000, 60_000, Fixed(0.0)).next_ms(at_least_ms=30_000) == 15_000
    assert Backoff(1000, 60_000, Fixed(0.9)).next_ms(at_least_ms=30_000) == 42_000


def test_reset_starts_over():
    backoff = Backoff(1000, 60_000, Fixed(1.0))
    backoff.next_ms()
    backoff.next_ms()
    backoff.reset()
    assert backoff.next_ms() == 2000
