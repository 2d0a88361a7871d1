from __future__ import annotations

import pytest

from driftpost_aggregator.times import FUTURE_TOLERANCE_MS, Sent, interval, moment

NOW = 1_790_000_000_000
HOUR = 3_600_000


def test_a_good_wall_clock_is_taken_as_it_is() -> None:
    assert moment(Sent(5_000, NOW, NOW + 80), 1_000, NOW - 4_000) == (NOW - 4_000, "device")


def test_without_a_wall_clock_the_age_follows_from_the_monotonic_one() -> None:
    sent = Sent(mono_ms=10 * HOUR, wall_ms=None, received_ms=NOW)
    assert moment(sent, 9 * HOUR, None) == (NOW - HOUR, "monotonic")


def test_a_clock_that_became_good_by_the_sending_dates_what_came_before_it() -> None:
    sent = Sent(mono_ms=10 * HOUR, wall_ms=NOW - 500, received_ms=NOW)
    assert moment(sent, 9 * HOUR, None) == (NOW - 500 - HOUR, "monotonic")


@pytest.mark.parametrize("wall", [NOW + FUTURE_TOLERANCE_MS + 1, 12_345, NOW + 365 * 86_400_000])
def test_a_wall_time_in_the_future_or_in_1970_is_not_believed(wall: int) -> None:
    assert moment(Sent(2 * HOUR, wall, NOW), HOUR, wall) == (NOW - HOUR, "monotonic")


def test_an_earlier_boot_without_wall_clock_is_dated_by_reception() -> None:
    assert moment(Sent(None, None, NOW), 99, None) == (NOW, "received")


def test_a_monotonic_time_after_the_sending_is_no_age() -> None:
    assert moment(Sent(1_000, None, NOW), 2_000, None) == (NOW, "received")


def test_a_window_keeps_its_monotonic_length_whatever_its_wall_clock_did() -> None:
    sent = Sent(100_000, NOW, NOW)
    start, end, clock = interval(sent, 60_000, 90_000, NOW + 10 * HOUR, NOW - 10_000)
    assert (start, end, clock) == (NOW - 40_000, NOW - 10_000, "device")


def test_a_window_whose_start_alone_has_a_wall_time_is_placed_by_it_when_nothing_better_is_known() -> None:
    start, end, clock = interval(Sent(None, None, NOW), 60_000, 90_000, NOW - 50_000, None)
    assert (start, end, clock) == (NOW - 50_000, NOW - 20_000, "device")


def test_a_window_that_would_end_in_the_future_is_not_placed_by_its_start() -> None:
    years = 9 * 365 * 24 * HOUR
    assert interval(Sent(None, None, NOW), 0, years, NOW, None) == (NOW - years, NOW, "received")
