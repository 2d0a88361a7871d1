"""HLL: laws, error, and bytes from nowhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftpost_sketches.datasketches.hll import HllSketch, HllType
from driftpost_sketches.errors import MalformedSketch, SketchError, UnsupportedVersion

KINDS = tuple(HllType)


def sketch_of(values: np.ndarray, lg_k: int = 10, kind: HllType = HllType.HLL_4) -> HllSketch:
    sketch = HllSketch(lg_k, kind)
    sketch.update(np.asarray(values, dtype=np.int64))
    return sketch


@pytest.mark.parametrize("lg_k", [4, 8, 12])
@pytest.mark.parametrize("merged", [False, True])
def test_the_error_is_what_is_stated(lg_k: int, merged: bool) -> None:
    rng = np.random.default_rng(lg_k)
    errors = []
    for _ in range(60):
        values = rng.integers(0, 1 << 62, 20_000)
        sketch = sketch_of(values[:12_000], lg_k)
        if merged:
            sketch.merge(sketch_of(values[8_000:], lg_k))
        else:
            sketch.update(values[12_000:])
        errors.append(sketch.estimate() / 20_000 - 1.0)
    stated = sketch.relative_error()
    # 60 draws: their root mean square lies within 30 % of the truth but for once in a thousand times.
    assert math.sqrt(np.mean(np.square(errors))) < 1.35 * stated
    assert abs(np.mean(errors)) < 4 * stated / math.sqrt(60) + 0.01 * stated


def test_few_values_are_counted_nearly_exactly() -> None:
    for n in (0, 1, 7, 8, 100, 300):
        sketch = sketch_of(np.arange(n), 12)
        low, high = sketch.bounds()
        assert low <= n <= high
        assert sketch.estimate() == pytest.approx(n, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 900)), min_size=1, max_size=5), st.randoms())
def test_merging_in_any_order_gives_the_same_registers(spans: list[tuple[int, int]], random: object) -> None:
    parts = [np.arange(start, start + length) for start, length in spans]
    forward, backward = HllSketch(7), HllSketch(7)
    for part in parts:
        forward.merge(sketch_of(part, 7))
    for part in reversed(parts):
        backward.merge(sketch_of(part, 7))
    once = sketch_of(np.concatenate(parts), 7)
    if once.coupons is None:
        assert np.array_equal(forward.registers, once.registers)
        assert np.array_equal(backward.registers, once.registers)
    else:
        assert forward.coupons is not None
        assert backward.coupons is not None
        assert set(forward.coupons.to_list()) == set(backward.coupons.to_list())
        assert set(forward.coupons.to_list()) == set(once.coupons.to_list())


def test_a_full_sketch_merges_into_one_of_few_values() -> None:
    few, full = sketch_of(np.arange(3), 7), sketch_of(np.arange(2, 5_000), 7)
    few.merge(full)
    assert np.array_equal(few.registers, sketch_of(np.arange(5_000), 7).registers)
    assert few.estimate() == pytest.approx(5_000, rel=0.4)


def test_sketches_of_different_size_merge_to_the_smaller() -> None:
    large, small = sketch_of(np.arange(50_000), 12), sketch_of(np.arange(40_000, 90_000), 9)
    large.merge(small)
    assert large.lg_k == 9
    assert np.array_equal(large.registers, sketch_of(np.arange(90_000), 9).registers)


def test_texts_numbers_and_blocks_of_any_size_give_the_same_sketch() -> None:
    values = np.arange(3_000) / 7.0
    whole, parts = HllSketch(8), HllSketch(8)
    whole.update_doubles(values)
    for part in np.array_split(values, 91):
        parts.update_doubles(part)
    assert whole.to_bytes() == parts.to_bytes()
    texts = HllSketch(8)
    texts.update_strings([f"{'x' * (i % 40)}{i}" for i in range(3_000)] + [""])
    low, high = texts.bounds(4.0)
    assert low <= 3_000 <= high
    zeros = HllSketch(8)
    zeros.update_doubles(np.array([0.0, -0.0, np.nan, -np.nan]))
    assert zeros.estimate() == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 3, 60, 700, 60_000])
def test_bytes_come_back_as_they_were(kind: HllType, n: int) -> None:
    sketch = sketch_of(np.arange(n), 10, kind)
    back = HllSketch.from_bytes(sketch.to_bytes())
    # Coupons that shared a slot may change places, as in the reference implementation.
    assert sorted(back.to_bytes()) == sorted(sketch.to_bytes())
    assert back.estimate() == sketch.estimate()
    back.update(np.arange(n, n + 500))
    sketch.update(np.arange(n, n + 500))
    assert np.array_equal(back.registers, sketch.registers)
    sketch.merge(sketch_of(np.arange(90_000), 10, kind))
    again = HllSketch.from_bytes(sketch.to_bytes())
    assert again.merged
    assert again.estimate() == sketch.estimate()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [3, 60, 700, 60_000])
def test_damaged_bytes_are_refused_or_give_a_sketch(kind: HllType, n: int) -> None:
    good = sketch_of(np.arange(n), 8, kind).to_bytes()
    rng = np.random.default_rng(n)
    for size in range(0, len(good), max(len(good) // 40, 1)):
        with pytest.raises(MalformedSketch):
            HllSketch.from_bytes(good[:size])
    with pytest.raises(MalformedSketch):
        HllSketch.from_bytes(good + b"\0")
    for _ in range(300):
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), 3):
            bad[at] ^= 1 << int(rng.integers(8))
        try:
            sketch = HllSketch.from_bytes(bytes(bad))
        except SketchError:
            continue
        assert math.isfinite(sketch.estimate())
        assert sketch.to_bytes()


def test_a_newer_format_is_named() -> None:
    bad = bytearray(sketch_of(np.arange(5)).to_bytes())
    bad[1] = 2
    with pytest.raises(UnsupportedVersion):
        HllSketch.from_bytes(bytes(bad))


def test_sizes_beyond_the_formats_are_refused() -> None:
    for lg_k in (3, 22):
        with pytest.raises(ValueError, match="lg_k"):
            HllSketch(lg_k)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_implementation_reads_what_is_written(kind: HllType) -> None:
    datasketches = pytest.importorskip("datasketches", reason="the reference implementation is not installed")
    theirs_kind = (
        datasketches.tgt_hll_type.HLL_4,
        datasketches.tgt_hll_type.HLL_6,
        datasketches.tgt_hll_type.HLL_8,
    )[kind]
    for lg_k in (4, 7, 10, 14):
        for n in (0, 5, 50, 500, 50_000):
            ours, theirs = sketch_of(np.arange(n), lg_k, kind), datasketches.hll_sketch(lg_k, theirs_kind)
            for value in range(n):
                theirs.update(value)
            read = datasketches.hll_sketch.deserialize(ours.to_bytes())
            assert read.get_estimate() == pytest.approx(theirs.get_estimate(), rel=1e-6)
            for raw in (theirs.serialize_compact(), theirs.serialize_updatable()):
                assert np.array_equal(HllSketch.from_bytes(raw).registers, ours.registers)
