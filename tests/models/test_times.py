from __future__ import annotations

import numpy as np
import pytest

from driftpost_models.errors import ConfigError
from driftpost_models.times import all_seconds, regular, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86_400.0), ("1970-01-01T00:01:00Z", 60.0), ("1970-01-01T01:01:00+01:00", 60.0),
        (" 1970-01-01 00:01:00 ", 60.0), ("60", 60.0), ("60.5", 60.5), ("-1", -1.0),
    ],
)  # fmt: skip
def test_points_in_time_are_seconds_since_1970_in_utc(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


def test_local_time_is_read_as_it_stands_on_the_wall() -> None:
    assert seconds_of("1970-01-01T01:01:00+01:00", local=True) == 3660.0
    assert seconds_of("1970-01-01T01:01:00", local=True) == 3660.0


@pytest.mark.parametrize("text", ["", "noon", "nan", "inf", "1e12", "2026-13-01"])
def test_what_is_no_point_in_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the words are the interpreter's
        seconds_of(text)


def test_a_column_names_the_row_that_is_none() -> None:
    assert all_seconds(np.array([1.0, 2.0])).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="'soon' in row 2 is no point in time"):
        all_seconds(["1970-01-01", "soon"])


def test_regular_rows_follow_from_the_first() -> None:
    assert regular("1970-01-01T00:01", 30.0, 3).tolist() == [60.0, 90.0, 120.0]
    with pytest.raises(ConfigError, match="--start"):
        regular("soon", 30.0, 3)
