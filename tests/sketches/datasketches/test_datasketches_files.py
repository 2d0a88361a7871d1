"""Files that the reference implementation wrote are read, and what is written here is what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from driftpost_sketches.datasketches.frequent_items import FrequentItems
from driftpost_sketches.datasketches.hll import HllSketch, HllType
from driftpost_sketches.datasketches.kll import KllSketch
from realdata import REALDATA

FILES = REALDATA / "interop" / "datasketches" / "java_generated_files"
SIZES = (0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
KINDS = {4: HllType.HLL_4, 6: HllType.HLL_6, 8: HllType.HLL_8}

pytestmark = pytest.mark.skipif(
    not FILES.is_dir(), reason="the reference implementation's files are not here"
)


def file(name: str) -> bytes:
    return Path(FILES / f"{name}_java.sk").read_bytes()


@pytest.mark.parametrize("bits", KINDS)
@pytest.mark.parametrize("n", SIZES)
def test_an_hll_sketch_of_the_same_values_has_the_same_content(bits: int, n: int) -> None:
    theirs = HllSketch.from_bytes(file(f"hll{bits}_n{n}"))
    ours = HllSketch(12, KINDS[bits])
    ours.update(np.arange(n))
    assert (theirs.lg_k, theirs.kind, theirs.merged) == (12, KINDS[bits], False)
    assert np.array_equal(theirs.registers, ours.registers)
    if theirs.coupons is not None:
        assert ours.coupons is not None
        assert sorted(theirs.coupons.to_list()) == sorted(ours.coupons.to_list())
    assert theirs.estimate() == pytest.approx(ours.estimate(), rel=1e-8)
    assert abs(theirs.estimate() - n) <= 3 * theirs.relative_error() * n


@pytest.mark.parametrize("bits", KINDS)
@pytest.mark.parametrize("n", SIZES)
def test_an_hll_sketch_is_written_byte_for_byte_as_the_reference_writes_it(bits: int, n: int) -> None:
    ours = HllSketch(12, KINDS[bits])
    ours.update(np.arange(n))
    written, theirs = ours.to_bytes(), file(f"hll{bits}_n{n}")
    if n < 1_000:
        assert written == theirs
        return
    # The historic count (bytes 8 to 15) starts from an estimate at the first full sketch: equal to 8 digits.
    assert written[:8] + written[16:] == theirs[:8] + theirs[16:]
    counted, expected = (np.frombuffer(raw, "<f8", 1, 8)[0] for raw in (written, theirs))
    assert counted == pytest.approx(expected, rel=1e-8)
    assert HllSketch.from_bytes(theirs).to_bytes() == theirs


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("n", SIZES)
def test_a_kll_sketch_is_read_and_written_back_byte_for_byte(double: bool, n: int) -> None:
    theirs = file(f"kll_{'double' if double else 'float'}_n{n}")
    sketch = KllSketch.from_bytes(theirs, double=double)
    assert (sketch.k, sketch.n) == (200, n)
    assert sketch.to_bytes() == theirs
    if n:
        assert (sketch.low, sketch.high) == (1.0, float(n))
        for share in (0.1, 0.5, 0.9):
            assert abs(sketch.quantiles(share) / n - share) <= sketch.rank_error() + 1.0 / n


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("n", [0, 1, 10, 100])
def test_a_kll_sketch_of_few_values_is_written_as_the_reference_writes_it(double: bool, n: int) -> None:
    ours = KllSketch(200, double=double)
    ours.update(np.arange(1, n + 1))
    assert ours.to_bytes() == file(f"kll_{'double' if double else 'float'}_n{n}")


@pytest.mark.parametrize("strings", [True, False])
@pytest.mark.parametrize("n", SIZES)
def test_frequent_items_are_read_and_written_back_byte_for_byte(strings: bool, n: int) -> None:
    theirs = file(f"frequent_{'string' if strings else 'long'}_n{n}")
    sketch = FrequentItems.from_bytes(theirs, strings=strings)
    assert sketch.weight == n
    assert sketch.to_bytes() == theirs
    # Every value from 1 to n occurred once.
    for item, count in sketch.frequent():
        assert 1 <= int(item) <= n
        assert sketch.bounds(item)[0] <= 1 <= sketch.bounds(item)[1] == count


@pytest.mark.parametrize(("name", "counts"), [("ascii", [4, 3, 2, 1]), ("utf8", [7, 6, 5, 4, 3, 2, 1])])
def test_frequent_texts_of_any_script_are_read(name: str, counts: list[int]) -> None:
    theirs = file(f"frequent_string_{name}")
    sketch = FrequentItems.from_bytes(theirs, strings=True)
    assert [count for _, count in sketch.frequent()] == counts
    assert sketch.to_bytes() == theirs


@pytest.mark.parametrize("name", ["theta_n10", "tdigest_double_n100", "hll4_n10"])
def test_another_familys_file_is_refused(name: str) -> None:
    for read in (KllSketch.from_bytes, FrequentItems.from_bytes):
        with pytest.raises(ValueError, match=r"family|preamble"):
            read(file(name))
