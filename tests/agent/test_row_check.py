"""One comparison judges a row as two comparisons a value do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftpost_agent.row_check import RowCheck

LOW, HIGH = np.array([-1, 0, 5], np.float32), np.array([1, 0, np.finfo(np.float32).max], np.float32)


@given(st.lists(st.floats(width=32), min_size=3, max_size=3))
def test_a_row_passes_exactly_when_every_value_is_finite_and_within_its_limits(values: list[float]) -> None:
    row = np.array(values, np.float32)
    wanted = bool(np.all(np.isfinite(row)) and np.all(row >= LOW) and np.all(row <= HIGH))
    assert RowCheck([(LOW[:1], HIGH[:1]), (LOW[1:], HIGH[1:])]).passes(row.tobytes()) is wanted


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_limits_themselves_pass_and_the_next_number_does_not(position: int) -> None:
    check = RowCheck([(LOW, HIGH)])
    for edge, away in ((LOW, -np.inf), (HIGH, np.inf)):
        row = np.array([0, 0, 7], np.float32)
        row[position] = edge[position]
        assert check.passes(row.tobytes())
        with np.errstate(over="ignore"):
            row[position] = np.nextafter(row[position], np.float32(away))
        assert not check.passes(row.tobytes())


def test_a_row_of_nothing_passes() -> None:
    assert RowCheck([]).passes(b"")
