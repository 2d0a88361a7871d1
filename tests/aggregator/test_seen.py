from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftpost_aggregator import seen
from driftpost_aggregator.errors import MessageRejected
from driftpost_aggregator.seen import Seen


@given(st.lists(st.integers(1, 40), max_size=80))
def test_every_number_is_new_exactly_once_in_any_order(numbers: list[int]) -> None:
    taken, record = set(), Seen()
    for number in numbers:
        assert record.add(number) is (number not in taken)
        taken.add(number)
        record = Seen.from_row(record.through, record.beyond)
    assert {number for number in range(45) if number in record} == taken


def test_numbers_in_order_need_no_ranges() -> None:
    record = Seen()
    for number in range(1, 1001):
        record.add(number)
    assert (record.through, record.beyond) == (1000, b"\x90")


def test_a_backlog_drained_newest_first_is_one_range_until_the_gap_closes() -> None:
    record = Seen(through=5)
    for number in range(100, 6, -1):
        record.add(number)
    assert record.through == 5
    assert len(record.beyond) < 10
    record.add(6)
    assert (record.through, record.beyond) == (100, b"\x90")


@pytest.mark.parametrize("number", [0, -1, 1 << 53])
def test_a_number_outside_the_protocol_is_rejected(number: int) -> None:
    with pytest.raises(MessageRejected, match="outside"):
        Seen().add(number)


def test_a_device_that_invents_gaps_is_stopped_but_may_still_close_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seen, "MAX_GAPS", 3)
    record = Seen()
    for number in (10, 20, 30):
        record.add(number)
    for refused in (record.check, record.add):
        with pytest.raises(MessageRejected, match="gaps"):
            refused(40)
    for fine in (1, 11, 20):
        record.check(fine)
    assert record.add(11)
    assert record.add(1)
    assert 40 not in record
