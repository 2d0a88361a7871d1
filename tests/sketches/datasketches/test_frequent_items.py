"""Frequent items: laws, error, and bytes from nowhere."""

from __future__ import annotations

import numpy as np
import pytest

from driftpost_sketches.datasketches.frequent_items import FrequentItems
from driftpost_sketches.errors import MalformedSketch, SketchError, UnsupportedVersion


def zipf(seed: int, size: int = 60_000) -> np.ndarray:
    return np.minimum(np.random.default_rng(seed).zipf(1.3, size), 1 << 40)


def holds(sketch: FrequentItems, values: np.ndarray) -> bool:
    found, counts = np.unique(values, return_counts=True)
    bounds = [sketch.bounds(item) for item in found.tolist()]
    return all(low <= count <= high for (low, high), count in zip(bounds, counts.tolist(), strict=True))


@pytest.mark.parametrize("lg_size", [3, 6, 10])
@pytest.mark.parametrize("merged", [False, True])
def test_every_bound_holds_and_the_error_is_at_most_what_is_stated(lg_size: int, merged: bool) -> None:
    values = zipf(lg_size)
    sketch = FrequentItems(lg_size)
    for part in np.array_split(values, 37):
        if merged:
            other = FrequentItems(lg_size)
            other.update(part)
            sketch.merge(other)
        else:
            sketch.update(part)
    assert sketch.weight == len(values)
    assert holds(sketch, values)
    assert sketch.offset <= 3.5 / (1 << lg_size) * len(values)
    assert len(sketch.counts) <= sketch.capacity
    found, counts = np.unique(values, return_counts=True)
    often = set(found[counts > sketch.offset].tolist())
    assert often <= {item for item, _ in sketch.frequent()}
    sure = [item for item, _ in sketch.frequent(sure=True)]
    assert all(dict(zip(found.tolist(), counts.tolist(), strict=True))[item] > sketch.offset for item in sure)


def test_the_worst_stream_keeps_the_bound_in_bounded_memory() -> None:
    sketch = FrequentItems(6)
    sketch.update(np.arange(300_000))
    assert sketch.offset <= 3.5 / 64 * 300_000
    assert len(sketch.counts) <= 48


def test_texts_and_numbers_do_not_mix() -> None:
    texts, numbers = FrequentItems(strings=True), FrequentItems()
    texts.update_strings(["a", "b", "a"])
    assert texts.frequent() == [("a", 2), ("b", 1)]
    assert texts.estimate("c") == 0
    with pytest.raises(ValueError, match="merge"):
        numbers.merge(texts)
    with pytest.raises(ValueError, match="update_strings"):
        texts.update(np.arange(3))
    with pytest.raises(ValueError, match="whole numbers"):
        numbers.update_strings(["a"])
    with pytest.raises(ValueError, match="lg_size"):
        FrequentItems(2)


@pytest.mark.parametrize("strings", [True, False])
def test_bytes_come_back_as_they_were_and_go_on_alike(strings: bool) -> None:
    sketch = FrequentItems(6, strings=strings)
    values = zipf(1, 5_000)
    for _ in range(2):
        if strings:
            sketch.update_strings([f"é{v}" for v in values])
        else:
            sketch.update(values)
        assert FrequentItems.from_bytes(sketch.to_bytes(), strings=strings).to_bytes() == sketch.to_bytes()
        sketch = FrequentItems.from_bytes(sketch.to_bytes(), strings=strings)
    assert sketch.weight == 10_000


@pytest.mark.parametrize("strings", [True, False])
def test_damaged_bytes_are_refused_or_give_a_sketch(strings: bool) -> None:
    sketch = FrequentItems(5, strings=strings)
    if strings:
        sketch.update_strings([f"item {v % 9}" for v in range(100)])
    else:
        sketch.update(zipf(3, 400))
    good = sketch.to_bytes()
    for size in range(len(good)):
        with pytest.raises(MalformedSketch):
            FrequentItems.from_bytes(good[:size], strings=strings)
    with pytest.raises(MalformedSketch):
        FrequentItems.from_bytes(good + b"\0", strings=strings)
    rng = np.random.default_rng(0)
    for _ in range(400):
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), 2):
            bad[at] ^= 1 << int(rng.integers(8))
        try:
            read = FrequentItems.from_bytes(bytes(bad), strings=strings)
        except SketchError:
            continue
        assert read.to_bytes()
    bad = bytearray(good)
    bad[1] = 2
    with pytest.raises(UnsupportedVersion):
        FrequentItems.from_bytes(bytes(bad), strings=strings)


def test_the_reference_implementation_reads_what_is_written() -> None:
    datasketches = pytest.importorskip("datasketches", reason="the reference implementation is not installed")
    for size in (0, 3, 500, 50_000):
        sketch = FrequentItems(8, strings=True)
        sketch.update_strings([str(v) for v in zipf(2, size)])
        theirs = datasketches.frequent_strings_sketch.deserialize(sketch.to_bytes())
        assert theirs.total_weight == size
        for item, count in sketch.frequent():
            assert theirs.get_estimate(item) == count
            assert theirs.get_lower_bound(item) == sketch.bounds(item)[0]
