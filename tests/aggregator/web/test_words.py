"""Numbers and times as people read them."""

from __future__ import annotations

import math

import pytest

from driftpost_aggregator.web import words
from driftpost_aggregator.web.words import DASH, MINUS


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (1.0, "1"),
        (0.1234, "0.123"),
        (12.345, "12.3"),
        (123.45, "123"),
        (1234.5, "1,234"),
        (-0.5, "-0.5"),
        (1e-7, "1.00e-07"),
        (1e7, "1.00e+07"),
        (math.nan, DASH),
        (math.inf, DASH),
        (None, DASH),
    ],
)
def test_numbers_have_the_digits_that_say_something(value: float | None, shown: str) -> None:
    assert words.number(value) == shown


@pytest.mark.parametrize(
    ("value", "spread", "shown"),
    [
        (117.8236, 16.03, "118"),
        (0.03012, 0.0121, "0.030"),
        (-13.94, 16.0, f"{MINUS}14"),
        (0.0001, 16.0, "0"),
        (52.04, 5.04, "52.0"),
        (12345.6, 2300.0, "12,300"),
        (5.0, 0.0, "5"),
        (5.0, math.nan, "5"),
        (math.nan, 1.0, DASH),
        (1e-9, 1e-12, "1.00e-09"),
    ],
)
def test_values_are_rounded_to_their_spread(value: float, spread: float, shown: str) -> None:
    assert words.rounded(value, spread) == shown


def test_changes_have_a_sign_unless_there_is_none() -> None:
    assert words.rounded(3.2, 16.0, sign=True) == "+3"
    assert words.rounded(-3.2, 16.0, sign=True) == f"{MINUS}3"
    assert words.rounded(0.01, 16.0, sign=True) == "0"
    assert (words.shift(0.834), words.shift(-0.834)) == ("+0.83 sd", f"{MINUS}0.83 sd")
    assert (words.shift(0.001), words.shift(-0.001), words.shift(0)) == ("0 sd", "0 sd", "0 sd")
    assert (words.sd(12.34), words.shift(math.nan)) == ("12.3 sd", DASH)
    assert (words.signed(0.5), words.signed(-0.5), words.signed(0), words.signed(None)) == (
        "+0.5",
        f"{MINUS}0.5",
        "0",
        DASH,
    )


@pytest.mark.parametrize(
    ("part", "of", "shown"),
    [
        (0, 1, "0 %"),
        (1, 1, "100 %"),
        (1, 3, "33.3 %"),
        (1, 10_000, "<0.1 %"),
        (9_999, 10_000, ">99.9 %"),
        (1, 0, DASH),
        (None, 1, DASH),
        (math.nan, 1, DASH),
    ],
)
def test_shares_never_round_to_all_or_nothing(part: float | None, of: float, shown: str) -> None:
    assert words.percent(part, of) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.4, "0.4 s"),
        (59, "59 s"),
        (61, "1 min 1 s"),
        (725, "12 min"),
        (7260, "2 h 1 min"),
        (90_000, "1 d 1 h"),
        (40 * 86_400, "40 d"),
        (-61, f"{MINUS}1 min 1 s"),
        (math.inf, DASH),
        (None, DASH),
    ],
)
def test_durations_use_the_two_largest_units(seconds: float | None, shown: str) -> None:
    assert words.duration(seconds) == shown


def test_times_are_utc_and_survive_what_no_calendar_can_say() -> None:
    assert words.stamp(0) == "1970-01-01 00:00:00 UTC"
    assert words.iso(1_790_000_000_123) == "2026-09-21T14:13:20.123Z"
    for impossible in (10**18, -(10**18)):
        assert words.stamp(impossible) == DASH
        assert words.iso(impossible) is None
    assert words.ago(1000, 62_000) == "1 min 1 s ago"
    assert words.ago(62_000, 1000) == "in 1 min 1 s"
    assert words.ago(None, 0) == "never"


def test_counts_and_sizes_fit_into_little_room() -> None:
    assert [words.compact(value) for value in (0, 999, 1234, 12_345, 1_234_567, 123_456_789)] == [
        "0",
        "999",
        "1.23k",
        "12.3k",
        "1.23M",
        "123M",
    ]
    assert [words.size(value) for value in (10, 1500, 2_500_000)] == ["10 B", "1.5 kB", "2.5 MB"]
    assert words.whole(1234567) == "1,234,567"
    assert words.short_id("abcdefghijkl") == "abcdefghij…"
    assert words.short_id("") == DASH


def test_scopes_are_phrases() -> None:
    assert words.scope("fleet", [], "") == "whole fleet"
    assert words.scope("cohort", [["site", "north"], ["camera", "B"]], "x") == "site = north, camera = B"
    assert words.scope("device", [], "d1") == "d1"
