from __future__ import annotations

import numpy as np
import pytest

from driftpost_models.input_limits import MAX_ELEMENTS, InputLimits, LimitsObserver
from driftpost_models.runtime import TensorSpec


def _observe(rows: np.ndarray, *cuts: int) -> InputLimits:
    observer = LimitsObserver(TensorSpec("x", (1, *rows.shape[1:]), rows.dtype), rows)
    for part in np.split(rows, cuts):
        observer.update(part)
    return observer.limits()


def test_small_rows_have_limits_of_each_element_and_large_ones_of_all() -> None:
    small = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    found = _observe(small)
    assert found.low.tolist() == [0, 1, 2, 3]
    assert found.high.tolist() == [8, 9, 10, 11]
    large = np.random.default_rng(0).integers(0, 200, (5, MAX_ELEMENTS + 1)).astype(np.uint8)
    assert _observe(large).low.tolist() == [large.min()]
    assert _observe(large).high.tolist() == [large.max()]


def test_it_does_not_matter_how_the_reference_is_cut() -> None:
    rows = np.random.default_rng(0).integers(-128, 128, (40, 6)).astype(np.int8)
    rows[10:14] = rows[10]
    whole = _observe(rows)
    assert whole.longest_run == 4
    for cuts in ((1,), (12,), (11, 13), (20, 30)):
        assert _observe(rows, *cuts).to_dict() == whole.to_dict()


def test_the_ends_are_the_dtypes_for_codes_and_the_datas_for_floats() -> None:
    codes = _observe(np.array([[-128, 0, 127, 127]], np.int8))
    assert (codes.floor, codes.ceiling) == (-128, 127)
    assert (codes.low_share, codes.high_share) == (0.25, 0.5)
    floats = _observe(np.array([[0.0, 0.5, 1.0, 0.0], [0.0, 0.0, 0.0, 0.9]], np.float32))
    assert (floats.floor, floats.ceiling) == (0.0, 1.0)
    assert (floats.low_share, floats.high_share) == (0.75, 0.25)
    wide = _observe(np.array([[5, 7]], np.int64))
    assert (wide.floor, wide.ceiling) == (5, 7)


def test_values_that_are_not_finite_set_no_limits() -> None:
    rows = np.array([[np.nan, 1.0, np.inf], [2.0, 3.0, np.nan]], np.float32)
    found = _observe(rows)
    assert found.low[:2].tolist() == [2.0, 1.0]
    assert found.high[:2].tolist() == [2.0, 3.0]
    assert found.low[2] < -1e300
    assert found.high[2] > 1e300
    assert np.isfinite(found.low).all()


def test_plain_types_round_trip_and_malformed_ones_are_refused() -> None:
    limits = _observe(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert InputLimits.from_dict(limits.to_dict()).to_dict() == limits.to_dict()
    for change in (
        {"low": []},
        {"low": [1.0]},
        {"high": "x"},
        {"floor": None},
        {"low": [[1.0]], "high": [[1.0]]},
    ):
        with pytest.raises(ValueError, match=r"limits|convert"):
            InputLimits.from_dict({**limits.to_dict(), **change})
    with pytest.raises(ValueError, match="longest_run"):
        InputLimits.from_dict({k: v for k, v in limits.to_dict().items() if k != "longest_run"})
    with pytest.raises(ValueError, match="table"):
        InputLimits.from_dict([])
