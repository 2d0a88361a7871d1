"""A budget of bytes a day: half at once, the rest at a pace, never more than the whole in any 24 hours."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from driftpost_agent.allowance import HOUR_MS, HOURS, DailyAllowance


def test_half_of_the_budget_may_be_used_at_once() -> None:
    allowance = DailyAllowance(4800, 0)
    allowance.spend(2399, 0)
    assert allowance.may(0)
    allowance.spend(1, 0)
    assert not allowance.may(0)


def test_who_has_used_half_is_paced_and_not_shut_out() -> None:
    allowance = DailyAllowance(4800, 0)
    allowance.spend(2400, 0)
    assert not allowance.may(HOUR_MS - 1)
    assert allowance.may(HOUR_MS)
    allowance.spend(100, HOUR_MS)
    assert not allowance.may(HOUR_MS + 1)
    assert allowance.may(2 * HOUR_MS)


def test_what_was_used_a_day_ago_is_free_again() -> None:
    allowance = DailyAllowance(4800, 0)
    allowance.spend(4800, 0)
    assert allowance.used(23 * HOUR_MS) == 4800
    assert allowance.used(24 * HOUR_MS) == 0
    assert allowance.may(24 * HOUR_MS)


def test_a_budget_of_none_never_says_no() -> None:
    allowance = DailyAllowance(None, 0)
    allowance.spend(1 << 50, 0)
    assert allowance.may(0)


def test_a_restart_counts_on_and_a_clock_that_jumps_back_takes_nothing_away() -> None:
    first = DailyAllowance(4800, 0)
    first.spend(3000, 5 * HOUR_MS)
    second = DailyAllowance(4800, 100)
    second.restore(first.to_plain(6 * HOUR_MS), 100)
    assert second.used(100) == 3000
    assert second.used(0) == 3000
    third = DailyAllowance(4800, 0)
    third.restore(["hostile", -1, True], 0)
    assert third.used(0) == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 5 * HOUR_MS), st.integers(0, 300)),
        max_size=200,
    )
)
def test_whoever_asks_first_never_uses_more_than_the_budget_and_one_step_a_slot(steps) -> None:
    budget, largest = 2400, 300
    allowance = DailyAllowance(budget, 0)
    now, used = 0, deque[tuple[int, int]]()
    for wait, size in steps:
        now += wait
        if allowance.may(now):
            allowance.spend(size, now)
            used.append((now, size))
        day = sum(taken for at, taken in used if at > now - (HOURS - 1) * HOUR_MS)
        assert day <= budget + largest * HOURS
        assert allowance.used(now) >= day
