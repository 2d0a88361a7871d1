"""Checks of single inputs against what the reference showed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from driftpost_agent.frozen import LEAST_RUN, FrozenWatch, longest_innocent_run
from driftpost_agent.input_checks import SAMPLED_ELEMENTS, TensorCheck, sampled
from driftpost_models.input_limits import InputLimits
from driftpost_models.reasons import Reason


def limits(
    low: list[float],
    high: list[float],
    *,
    shares: tuple[float, float] = (0.0, 0.0),
    ends: tuple[float, float] = (0, 0),
) -> InputLimits:
    return InputLimits(
        low=np.array(low, dtype=np.float64),
        high=np.array(high, dtype=np.float64),
        floor=ends[0],
        ceiling=ends[1],
        low_share=shares[0],
        high_share=shares[1],
        longest_run=1,
    )


FLOATS = limits([0.0, -10.0], [1.0, 10.0])


def check(dtype: str, given: InputLimits | None, rows: list[list[float]]) -> list[set[Reason]]:
    """Both passes; they must agree on whether anything is wrong."""
    tensor = TensorCheck(np.dtype(dtype), given)
    values: NDArray[np.generic] = np.array(rows, dtype=dtype)
    reasons = tensor.examine(values)
    assert tensor.passes(values) == (not any(reasons))
    for row, found in zip(values, reasons, strict=True):
        assert tensor.passes(row[None]) == (not found)
    return reasons


def test_the_margin_is_one_width_of_the_reference_on_either_side() -> None:
    assert check("float32", FLOATS, [[2.0, 0], [-1.0, 0], [0, 30], [0, -30]]) == [set()] * 4
    outside = {Reason.OUT_OF_RANGE}
    assert check("float32", FLOATS, [[2.1, 0], [-1.1, 0], [0, 30.1], [0, -30.1]]) == [outside] * 4


def test_each_row_of_a_batch_is_judged_by_itself() -> None:
    found = check("float32", FLOATS, [[0.5, 0], [9, 0], [np.nan, 0], [0.5, np.inf], [np.nan, 99]])
    nonfinite, outside = Reason.NONFINITE_INPUT, Reason.OUT_OF_RANGE
    assert found == [set(), {outside}, {nonfinite}, {nonfinite}, {nonfinite, outside}]


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e3, 1e30])
def test_the_check_does_not_depend_on_the_scale_of_the_data(scale: float) -> None:
    given = limits([-scale, -scale], [scale, scale])
    assert check("float64", given, [[2.9 * scale, 0], [3.1 * scale, 0]]) == [set(), {Reason.OUT_OF_RANGE}]


def test_a_constant_column_may_round_but_not_change() -> None:
    given = limits([5.0, 0.0], [5.0, 0.0])
    assert check("float64", given, [[5.0, 0.0], [5.000001, 0.0], [5.1, 0.0], [5.0, 0.1]]) == [
        set(),
        set(),
        {Reason.OUT_OF_RANGE},
        {Reason.OUT_OF_RANGE},
    ]


def test_a_column_that_was_never_finite_has_no_range() -> None:
    largest = float(np.finfo(np.float64).max)
    assert check("float64", limits([-largest, 0], [largest, 1]), [[1e300, 0.5]]) == [set()]
    assert check("float32", limits([-largest, 0], [largest, 1]), [[3e38, 0.5]]) == [set()]


def test_without_limits_only_non_finite_values_are_found() -> None:
    assert check("float32", None, [[1e38, -1e38], [np.inf, 0]]) == [set(), {Reason.NONFINITE_INPUT}]
    assert check("float16", None, [[65504, -65504]]) == [set()]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integers_are_compared_in_their_own_type_up_to_its_ends(dtype: str) -> None:
    info = np.iinfo(dtype)
    everything = TensorCheck(np.dtype(dtype), limits([float(info.min)], [float(info.max)]))
    assert everything.passes(np.array([[info.min, info.max]], dtype=dtype))
    given = limits([10, 10], [20, 20])
    assert check(dtype, given, [[30, 10], [31, 10], [0, 10]]) == [set(), {Reason.OUT_OF_RANGE}, set()]


def test_a_large_tensor_has_one_range_for_all_its_elements() -> None:
    tensor = TensorCheck(np.dtype("float32"), limits([0.0], [1.0], shares=(1.0, 1.0), ends=(0.0, 1.0)))
    rows = np.random.default_rng(0).uniform(0, 1, (2, 5000)).astype(np.float32)
    assert tensor.passes(rows)
    rows[1, 4321] = 2.5
    assert not tensor.passes(rows)
    assert tensor.examine(rows) == [set(), {Reason.OUT_OF_RANGE}]
    rows[1, 4321] = np.nan
    assert tensor.examine(rows) == [set(), {Reason.NONFINITE_INPUT}]


def test_saturation_is_a_share_at_an_end_well_beyond_the_references() -> None:
    given = limits([0], [255], shares=(0.5, 0.1), ends=(0, 255))
    dark = [0] * 70 + [100] * 30
    assert check("uint8", given, [dark]) == [set()]
    darker = [0] * 76 + [100] * 24
    assert check("uint8", given, [darker]) == [{Reason.SATURATED}]
    bright = [255] * 56 + [100] * 44
    assert check("uint8", given, [bright]) == [{Reason.SATURATED}]


def test_a_reference_that_was_all_black_makes_black_normal() -> None:
    given = limits([0], [0], shares=(1.0, 0.0), ends=(0, 255))
    assert check("uint8", given, [[0] * 100]) == [set()]


def test_few_columns_are_never_called_saturated() -> None:
    assert check("uint8", limits([0, 0], [255, 255], ends=(0, 255)), [[0, 0], [255, 255]]) == [set(), set()]


def test_a_row_of_another_size_than_the_references_is_still_checked() -> None:
    tensor = TensorCheck(np.dtype("float32"), FLOATS)
    assert tensor.passes(np.zeros((1, 7), np.float32))
    assert tensor.examine(np.full((1, 7), 1e6, np.float32)) == [{Reason.OUT_OF_RANGE}]


def test_a_sample_is_bounded_and_never_in_step_with_an_even_width() -> None:
    rows = np.arange(2 * 224 * 224 * 3).reshape(2, -1)
    sample = sampled(rows)
    assert sample.shape[1] <= SAMPLED_ELEMENTS
    assert sample.base is not None
    assert (sample[0, 1] - sample[0, 0]) % 2 == 1
    assert sampled(rows[:, :100]).shape == (2, 100)


def test_equal_rows_are_frozen_only_beyond_the_references_own_runs() -> None:
    for reference in (1, 3, 50):
        watch = FrozenWatch(reference)
        allowed = longest_innocent_run(reference)
        assert [watch.frozen((b"same",)) for _ in range(allowed)] == [False] * allowed
        assert watch.frozen((b"same",))
        assert not watch.frozen((b"other",))
    assert longest_innocent_run(1) == LEAST_RUN


def test_one_input_that_moves_keeps_the_row_from_being_frozen() -> None:
    watch = FrozenWatch(1)
    assert not any(watch.frozen((b"same", str(number).encode())) for number in range(100))
