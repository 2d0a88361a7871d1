from __future__ import annotations

import numpy as np
import pytest

from driftpost_models.probes.block import Block
from driftpost_models.probes.codes import MAX_ELEMENTS, Codes
from driftpost_models.probes.limits import Limits
from driftpost_models.runtime import TensorSpec


def _block(raw: np.ndarray) -> Block:
    return Block({"x": raw}, {}, np.zeros(len(raw)), np.zeros(len(raw), np.int64))


def _spec(dtype, *shape: int) -> TensorSpec:
    return TensorSpec("x", (1, *shape), np.dtype(dtype))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_only_the_two_extreme_codes_count_as_limits(dtype: str) -> None:
    info = np.iinfo(dtype)
    row = np.array([info.min, info.max, info.min + 1, info.max - 1, 0 if info.min else 5, 7, 100, 99], dtype)
    found = Limits(_spec(dtype, 8), "input", "s").extract(_block(row[None]))[0]
    assert found.tolist() == [[2 / 8]]


def test_every_8_bit_code_is_judged_right() -> None:
    for dtype in (np.int8, np.uint8):
        codes = np.arange(256, dtype=np.uint8).view(dtype)[:, None]
        found = Limits(_spec(dtype, 1), "input", "s").extract(_block(codes))[0][:, 0]
        info = np.iinfo(dtype)
        assert sorted(codes[found == 1, 0].tolist()) == [info.min, info.max]


def test_floats_have_no_limits_and_no_codes() -> None:
    with pytest.raises(ValueError, match="integer"):
        Limits(_spec(np.float32, 8), "input", "s")
    for dtype in (np.float32, np.int16):
        with pytest.raises(ValueError, match="256 codes"):
            Codes(_spec(dtype, 8), "input", "c")


def test_small_tensors_hand_over_every_code() -> None:
    raw = np.random.default_rng(0).integers(-128, 128, (5, 8, 8)).astype(np.int8)
    probe = Codes(_spec(np.int8, 8, 8), "input", "c")
    values, codes = probe.extract(_block(raw))
    assert values.shape == (5, 0)
    np.testing.assert_array_equal(np.sort(codes["c"].ravel()), np.sort(raw.ravel()))
    assert probe.streams()[0].lowest_code == -128
    assert Codes(_spec(np.uint8, 8), "input", "c").streams()[0].lowest_code == 0


def test_large_tensors_hand_over_a_fair_sample_of_bounded_size() -> None:
    # Three channels of very different codes: a stride of a multiple of 3 would see only one.
    raw = np.zeros((2, 224, 224, 3), np.uint8)
    raw[..., 1], raw[..., 2] = 100, 200
    codes = Codes(_spec(np.uint8, 224, 224, 3), "input", "c").extract(_block(raw))[1]["c"]
    assert codes.shape[1] <= MAX_ELEMENTS
    shares = np.bincount(codes.ravel(), minlength=256)[[0, 100, 200]] / codes.size
    np.testing.assert_allclose(shares, 1 / 3, atol=0.01)
