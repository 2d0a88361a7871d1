"""How often the account of windows is sent."""

from __future__ import annotations

import itertools

from driftpost_agent.ledger_schedule import FIRST_INTERVAL_S, LedgerSchedule


def sent(schedule: LedgerSchedule, seconds: int, first_acknowledged: int) -> list[int]:
    return [now for now in range(seconds) if schedule.due(float(now), acknowledged=now >= first_acknowledged)]


def test_the_first_acknowledged_window_brings_an_account_and_the_next_follow_ever_more_rarely() -> None:
    times = sent(LedgerSchedule(3600.0, 0.0), 4 * 3600, first_acknowledged=75)
    first = int(FIRST_INTERVAL_S)
    assert times[:4] == [75, 75 + first, 75 + 3 * first, 75 + 7 * first]
    intervals = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert intervals == sorted(intervals)
    assert intervals[-2:] == [3600, 3600]
    assert len(times) < 12


def test_as_long_as_nothing_is_acknowledged_the_setting_holds() -> None:
    assert sent(LedgerSchedule(3600.0, 0.0), 7300, first_acknowledged=99_999) == [3600, 7200]


def test_a_setting_below_the_first_interval_is_kept() -> None:
    assert sent(LedgerSchedule(5.0, 0.0), 18, first_acknowledged=2) == [2, 7, 12, 17]
