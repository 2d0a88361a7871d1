import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftpost_sketches.privacy.accountant import DAY_MS, Accountant, epsilon_of, rho_of, share_of_day

HOUR_MS = 3_600_000


@given(st.floats(1e-3, 50), st.floats(1e-12, 0.1))
def test_a_budget_is_worth_the_epsilon_it_was_made_of(epsilon, delta):
    assert epsilon_of(rho_of(epsilon, delta), delta) == pytest.approx(epsilon, rel=1e-6)


def test_concentrated_composition_beats_adding_up_epsilons_of_many_releases():
    one = rho_of(0.1, 1e-6)
    assert epsilon_of(24 * one, 1e-6) < 0.6 < 24 * 0.1


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-6), (-1, 1e-6), (math.inf, 1e-6), (1, 0), (1, 1)])
def test_a_budget_that_is_none_is_refused(epsilon, delta):
    with pytest.raises(ValueError, match="epsilon"):
        rho_of(epsilon, delta)


@given(
    st.integers(60_000, 2 * DAY_MS),
    st.lists(st.integers(1, 3 * HOUR_MS), max_size=60),
    st.floats(0.1, 3.0),
)
def test_the_data_of_no_day_loses_more_than_a_day_s_budget(release_ms, lengths, greed):
    account = Accountant(daily=1.0)
    cost = greed * share_of_day(1.0, release_ms)
    releases, now = [], 0
    for length in lengths:
        start, now = now, now + length
        if account.affords(cost, start):
            account = account.charge(cost, start, now)
            releases.append((start, now))
    for first, _ in releases:
        for begin in (first, max(first - DAY_MS + 1, 0)):
            touched = sum(start < begin + DAY_MS and end > begin for start, end in releases)
            assert touched * cost <= 1.0 + 1e-6


@pytest.mark.parametrize("release_ms", [HOUR_MS, 5 * 60_000, DAY_MS, 7 * HOUR_MS])
def test_releases_of_the_planned_length_are_always_afforded(release_ms):
    account, cost = Accountant(daily=0.02), share_of_day(0.02, release_ms)
    for number in range(1_000):
        start = number * release_ms
        assert account.affords(cost, start)
        account = account.charge(cost, start, start + release_ms)
    assert account.spent == pytest.approx(1_000 * cost)
    assert len(account.recent) <= DAY_MS // release_ms + 3


def test_a_total_budget_ends_for_good():
    account = Accountant(daily=1.0, total=0.5)
    account = account.charge(0.3, 0, HOUR_MS)
    assert not account.affords(0.3, 1_000 * DAY_MS)
    assert account.exhausted(0.3)
    assert not account.exhausted(0.2)


def test_what_is_not_afforded_can_not_be_charged():
    with pytest.raises(ValueError, match="left"):
        Accountant(daily=1.0).charge(1.1, 0, HOUR_MS)


def test_an_account_remembers_its_past():
    account = Accountant(daily=1.0, total=9.0).charge(0.4, 0, HOUR_MS).charge(0.4, HOUR_MS, 2 * HOUR_MS)
    plain = account.to_plain()
    again = Accountant(daily=1.0, total=9.0).remembering(plain["spent"], plain["recent"])
    assert again == account
