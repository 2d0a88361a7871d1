import math

import pytest

from driftpost_sketches.drift.budget import MIN_LOG_THRESHOLD, Budget, BudgetError
from driftpost_sketches.errors import SketchError


@pytest.mark.parametrize(
    ("words", "count", "scope", "days"),
    [
        ("1 per device-year", 1, "device", 365.25),
        ("0.5 per fleet-month", 0.5, "fleet", 365.25 / 12),
        ("10 per 1,000 device-days", 10, "device", 1000),
        (" 2  per  Device-Week ", 2, "device", 7),
        ("3 per fleet-hours", 3, "fleet", 1 / 24),
    ],
)
def test_words_become_a_budget(words, count, scope, days):
    budget = Budget.parse(words)
    assert (budget.count, budget.scope) == (count, scope)
    assert budget.period_s == pytest.approx(days * 86400)


@pytest.mark.parametrize(
    "words",
    ["", "once a year", "1 per year", "one per device-year", "1 per device", "0 per device-year",
     "-1 per device-year", "1 per device-century", "1 per site-year", "1e9 per device-year",
     "9" * 300 + " per device-year", None, 1, "1 per device-year please"],
)  # fmt: skip
def test_other_words_are_refused_with_an_example(words):
    with pytest.raises(BudgetError, match="1 per device-year") as caught:
        Budget.parse(words)
    assert isinstance(caught.value, SketchError)
    assert caught.value.words == words


@pytest.mark.parametrize("words", ["0 per device-year", "0.0 per device-year", "-1 per device-year"])
def test_a_budget_of_nothing_or_less_is_told_why_not(words):
    with pytest.raises(BudgetError, match="no test can promise never to be wrong"):
        Budget.parse(words)


def test_a_budget_beyond_reason_is_told_its_bounds():
    with pytest.raises(BudgetError, match="between 1e-06 and 1e"):
        Budget.parse("9999999 per device-year")


@pytest.mark.parametrize(
    "words", ["1 per device-year", "0.25 per fleet-month", "10 per 1000 device-days", "2 per 18 fleet-hours"]
)
def test_the_words_survive(words):
    assert str(Budget.parse(words)) == words
    assert Budget.parse(str(Budget.parse(words))) == Budget.parse(words)


def test_the_threshold_is_the_number_of_windows_that_may_hold_one_false_alarm():
    year = Budget.parse("1 per device-year")
    assert year.log_threshold(300) == pytest.approx(math.log(365.25 * 288))
    assert year.log_threshold(300, devices=50) == year.log_threshold(300)


def test_a_fleet_budget_is_shared_by_its_devices():
    month = Budget.parse("1 per fleet-month")
    assert month.log_threshold(60, devices=100) - month.log_threshold(60) == pytest.approx(math.log(100))


def test_even_the_laxest_budget_asks_for_some_evidence():
    assert Budget.parse("1000 per device-hour").log_threshold(3600) == MIN_LOG_THRESHOLD


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_window_without_length_is_refused(seconds):
    with pytest.raises(ValueError, match="window"):
        Budget.parse("1 per device-year").log_threshold(seconds)
