"""Is this input one that the model can be asked about? Non-finite, far outside the reference, saturated.

Two passes: `passes` answers the usual case in about a microsecond; only when it says no does `examine` find
out what is wrong with which row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftpost_models.input_limits import InputLimits
from driftpost_models.reasons import Reason

# How far beyond the reference's range a value may lie, in widths of that range: drift is for the detectors, a
# verdict is for values that make no sense.
RANGE_MARGIN = 1.0
# Width given to a range of one value (a constant column), as a share of that value: rounding must pass.
CONSTANT_WIDTH = 1e-6
# Least elements of a row for a share of them at the limits to mean anything: images and signals, not columns.
SATURATION_ELEMENTS = 64
# Elements of a row that are looked at for saturation, at most; the rest of a large frame tells the same.
SAMPLED_ELEMENTS = 4096
# How far from the reference's largest share of clipped elements towards "all of them" is saturated.
SATURATION_STEP = 0.5


class TensorCheck:
    """Checks one input tensor against what the reference showed of it.

    Args:
        dtype: of the tensor.
        limits: what the reference showed, in raw units; None checks only that values are finite.
    """

    def __init__(self, dtype: np.dtype[Any], limits: InputLimits | None) -> None:
        self._floating = dtype.kind == "f"
        self._saturable = limits is not None and dtype.kind in "iuf"
        self._low, self._high = _far_limits(dtype, limits)
        self._low_row, self._high_row = self._low.reshape(1, -1), self._high.reshape(1, -1)
        self._row_shape = self._low_row.shape if self._low.size > 1 else (0, 0)
        self._lowest = float(self._low.min()) if self._low.size else 0.0
        self._highest = float(self._high.max()) if self._high.size else 0.0
        self._true = b"\x01" * self._low.size
        info = None if self._floating or dtype.kind not in "iu" else np.iinfo(dtype)
        # An integer range that covers every code can not be left.
        self._bounded = info is None or self._lowest > info.min or self._highest < info.max
        self._floor, self._ceiling = _ends(dtype, limits)
        self._most_shares = _most_shares(limits)
        # Where both ends are single bytes, counting those in a row's bytes is the quickest check.
        self._end_bytes: tuple[bytes, bytes] | None = None
        if self._saturable and dtype.itemsize == 1:
            info = np.iinfo(dtype)
            if self._floor == info.min and self._ceiling == info.max:
                self._end_bytes = self._floor.tobytes(), self._ceiling.tobytes()

    def passes(self, rows: NDArray[Any]) -> bool:
        """Whether every row is fine.

        Args:
            rows: array[rows, elements] of raw values.
        """
        if not self._inside(rows):
            return False
        return not self._saturable or rows.shape[1] < SATURATION_ELEMENTS or not self._clipped(rows)

    def separate(self, size: int, *, judged: bool) -> bool:
        """Whether rows of this many elements need `passes` at all.

        Args:
            size: elements of a row.
            judged: whether their range is checked elsewhere.
        """
        return (self._bounded and not judged) or (self._saturable and size >= SATURATION_ELEMENTS)

    def range_of_row(self, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lowest and highest value that makes sense for each element, of float32 rows of this size."""
        low, high = (self._low, self._high) if self._low.size == size else (self._lowest, self._highest)
        return np.full(size, low, np.float32), np.full(size, high, np.float32)

    def decimated_passes(self, whole: NDArray[Any], kept: NDArray[Any], raw: bytes) -> bool:
        """Whether one image is fine.

        Args:
            whole: the image; only looked at where some value of its type would be out of range.
            kept: what `Decimation.take` keeps of it, and `raw`: the bytes of that.
        """
        if self._bounded and not self._inside(whole.reshape(1, -1)):
            return False
        if not self._saturable:
            return True
        if self._end_bytes is None:
            return not self._saturated_row(kept)
        (lowest, highest), (low, high) = self._end_bytes, self._most_shares
        size = len(raw)
        return raw.count(lowest) <= low * size and raw.count(highest) <= high * size

    def _saturated_row(self, row: NDArray[Any]) -> bool:
        low, high = self._most_shares
        at_low, at_high = np.count_nonzero(row <= self._floor), np.count_nonzero(row >= self._ceiling)
        return bool(at_low > low * row.size or at_high > high * row.size)

    def examine(self, rows: NDArray[Any], kept: NDArray[Any] | None = None) -> list[set[Reason]]:
        """What is wrong with each row.

        Args:
            rows: array[rows, elements] of raw values.
            kept: of decimated images, what is kept of each: array[rows, ...].
        """
        reasons: list[set[Reason]] = [set() for _ in range(len(rows))]
        finite = np.isfinite(rows) if self._floating else np.ones(rows.shape, dtype=bool)
        fits = self._low.size in (1, rows.shape[1])
        low, high = (self._low, self._high) if fits else (self._lowest, self._highest)
        inside = (rows >= low) & (rows <= high) | ~finite
        for row in np.flatnonzero(~finite.all(axis=1)):
            reasons[row].add(Reason.NONFINITE_INPUT)
        for row in np.flatnonzero(~inside.all(axis=1)):
            reasons[row].add(Reason.OUT_OF_RANGE)
        if self._saturable and rows.shape[1] >= SATURATION_ELEMENTS:
            if kept is None:
                saturated = self._saturated(sampled(rows))
            else:
                saturated = np.array([self._saturated_row(one) for one in kept])
            for row in np.flatnonzero(saturated):
                reasons[row].add(Reason.SATURATED)
        return reasons

    def _inside(self, rows: NDArray[Any]) -> bool:
        if not self._bounded or not rows.size:
            return True
        # NaN compares false with everything, so these comparisons find non-finite values as well.
        if rows.shape == self._row_shape:
            # Comparing the bytes of the answers costs a third of what `all()` does, and limits of the row's
            # own shape a third of what broadcasting them does.
            high_enough = (rows >= self._low_row).tobytes() == self._true
            return high_enough and (rows <= self._high_row).tobytes() == self._true
        if self._low.size > 1 and rows.shape[1] == self._low.size:
            return bool(np.all(rows >= self._low) and np.all(rows <= self._high))
        # Large rows, and rows of another size than the reference's where dimensions are free.
        lowest, highest = _extremes(rows)
        return bool(lowest >= self._lowest and highest <= self._highest)

    def _clipped(self, rows: NDArray[Any]) -> bool:
        sample = sampled(rows)
        lowest, highest = _extremes(sample)
        if lowest > self._floor.item() and highest < self._ceiling.item():
            return False
        return bool(self._saturated(sample).any())

    def _saturated(self, sample: NDArray[Any]) -> NDArray[np.bool_]:
        at_low, at_high = sample <= self._floor, sample >= self._ceiling
        most_low, most_high = (share * sample.shape[1] for share in self._most_shares)
        if len(sample) == 1:
            # Counting along an axis goes through Python and costs twenty times what counting all does.
            return np.array([self._saturated_row(sample)])
        low_counts, high_counts = np.count_nonzero(at_low, axis=1), np.count_nonzero(at_high, axis=1)
        saturated: NDArray[np.bool_] = (low_counts > most_low) | (high_counts > most_high)
        return saturated


def _extremes(rows: NDArray[Any]) -> tuple[Any, Any]:
    """Lowest and highest value; NaN if there is one. Finding their places first is several times faster."""
    return rows.item(rows.argmin()), rows.item(rows.argmax())


def sampled(rows: NDArray[Any]) -> NDArray[Any]:
    """Evenly spaced elements of each row, at most SAMPLED_ELEMENTS of them, as a view.

    The step is odd, so that it does not fall into step with the channels or the width of an image.
    """
    step = -(-rows.shape[1] // SAMPLED_ELEMENTS) if rows.shape[1] > SAMPLED_ELEMENTS else 1
    return rows[:, :: step | 1]


def _far_limits(dtype: np.dtype[Any], limits: InputLimits | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lowest and highest value that makes sense, per element or as arrays of one, in the tensor's dtype."""
    if dtype.kind == "b" or limits is None or not np.size(limits.low):
        if dtype.kind == "f":
            info = np.finfo(dtype)
            return np.array([info.min], dtype=dtype), np.array([info.max], dtype=dtype)
        if dtype.kind == "b":
            return np.array([False]), np.array([True])
        whole = np.iinfo(dtype)
        return np.array([whole.min], dtype=dtype), np.array([whole.max], dtype=dtype)
    low = np.atleast_1d(np.asarray(limits.low, dtype=np.float64))
    high = np.atleast_1d(np.asarray(limits.high, dtype=np.float64))
    # A column that was never finite has the whole line for its range.
    with np.errstate(over="ignore"):
        width = np.maximum(high - low, CONSTANT_WIDTH * np.maximum(np.abs(low), np.abs(high)))
        low, high = low - RANGE_MARGIN * width, high + RANGE_MARGIN * width
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        return np.clip(low, -largest, largest).astype(dtype), np.clip(high, -largest, largest).astype(dtype)
    whole = np.iinfo(dtype)
    return (
        np.array([_code(math.floor, value, whole) for value in low], dtype=dtype),
        np.array([_code(math.ceil, value, whole) for value in high], dtype=dtype),
    )


def _code(round_: Callable[[float], int], value: float, whole: np.iinfo[Any]) -> int:
    """The nearest code that a limit can be; compared as integers, as 64-bit ends do not survive a float."""
    if value <= whole.min:
        return int(whole.min)
    return int(whole.max) if value >= whole.max else min(round_(value), int(whole.max))


def _ends(dtype: np.dtype[Any], limits: InputLimits | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Low and high end as arrays without axes, in the tensor's type: rows compare fastest with those."""
    if limits is None or dtype.kind not in "iuf":
        return np.zeros((), dtype), np.zeros((), dtype)
    if dtype.kind == "f":
        return np.array(limits.floor, dtype), np.array(limits.ceiling, dtype)
    whole = np.iinfo(dtype)
    floor, ceiling = _code(math.floor, limits.floor, whole), _code(math.ceil, limits.ceiling, whole)
    return np.array(floor, dtype), np.array(ceiling, dtype)


def _most_shares(limits: InputLimits | None) -> tuple[float, float]:
    """Largest shares of elements at the low and at the high end that are still normal."""
    if limits is None:
        return 1.0, 1.0
    shares = (limits.low_share, limits.high_share)
    return shares[0] + SATURATION_STEP * (1 - shares[0]), shares[1] + SATURATION_STEP * (1 - shares[1])
