"""HyperLogLog: how many different values a stream has shown, in a few kilobytes whatever their number.

Registers hold the largest value of all coupons of their address (Flajolet et al. 2007). A sketch that
sees its values one after the other counts by historic inverse probability (Cohen 2015; Ting 2014); a
merged one by Ertl's improved estimator ("New cardinality estimation algorithms for HyperLogLog
sketches", 2017), which needs no tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from driftpost_sketches.datasketches import hll_bytes
from driftpost_sketches.datasketches.coupon_set import CouponSet
from driftpost_sketches.datasketches.coupons import (
    MOST_ZEROS,
    Coupons,
    coupons_of,
    distinct_behind,
    relative_error,
    split,
)
from driftpost_sketches.datasketches.murmur import hash_doubles, hash_longs, hash_strings

MIN_LG_K, MAX_LG_K = 4, 21
DEFAULT_LG_K = 12
COUPON_ERROR = 5e-5  # relative standard error while coupons are kept: collisions of 2^26 addresses
BLOCK = 4096  # values hashed at a time

Registers = npt.NDArray[np.uint8]


class HllType(IntEnum):
    """Bits that a register takes in bytes; in memory each takes eight."""

    HLL_4 = 0
    HLL_6 = 1
    HLL_8 = 2


class HllSketch:
    """Counts different values.

    Args:
        lg_k: registers as a power of two, 4 to 21.
        kind: bits of a register in bytes.

    Attributes:
        lg_k: as given.
        kind: as given.
        merged: whether values came from several sketches, so that their order is not known.
    """

    def __init__(self, lg_k: int = DEFAULT_LG_K, kind: HllType = HllType.HLL_4) -> None:
        if not MIN_LG_K <= lg_k <= MAX_LG_K:
            raise ValueError(f"lg_k lies between {MIN_LG_K} and {MAX_LG_K}, not at {lg_k}")
        self.lg_k = lg_k
        self.kind = HllType(kind)
        self.merged = False
        self.coupons: CouponSet | None = CouponSet(lg_k)
        self._registers: Registers = np.zeros(0, dtype=np.uint8)
        self.hip = 0.0
        self._inverse = 0.0  # sum of 2^-register

    @property
    def registers(self) -> Registers:
        """uint8[2^lg_k]; empty while coupons are kept."""
        return self._registers

    @property
    def empty(self) -> bool:
        """Whether it has seen nothing."""
        return self.coupons is not None and not len(self.coupons)

    def update(self, values: npt.NDArray[np.int64]) -> None:
        """Takes whole numbers: int64[n]."""
        for start in range(0, len(values), BLOCK):
            self.update_coupons(coupons_of(hash_longs(values[start : start + BLOCK])))

    def update_doubles(self, values: npt.NDArray[np.float64]) -> None:
        """Takes numbers by their bits: float64[n]."""
        for start in range(0, len(values), BLOCK):
            self.update_coupons(coupons_of(hash_doubles(values[start : start + BLOCK])))

    def update_strings(self, texts: Sequence[str]) -> None:
        """Takes texts; empty ones are left out, as in the library."""
        for start in range(0, len(texts), BLOCK):
            block = [text for text in texts[start : start + BLOCK] if text]
            if block:
                self.update_coupons(coupons_of(hash_strings(block)))

    def update_coupons(self, coupons: Coupons) -> None:
        """Takes hashed values: int64[n]."""
        done = 0
        if self.coupons is not None:
            done = len(coupons)
            for at, coupon in enumerate(coupons.tolist()):
                if self.coupons.add(coupon):
                    self._promote()
                    done = at + 1
                    break
        self._raise_registers(coupons[done:])

    def merge(self, other: HllSketch) -> None:
        """Takes what another sketch has seen; the smaller number of registers remains."""
        if other.coupons is not None:
            self.update_coupons(np.array(other.coupons.to_list(), dtype=np.int64))
            return
        lg_k = min(self.lg_k, other.lg_k)
        theirs = _folded(other.registers, lg_k)
        # First: the running estimate, which raising the coupons would carry on, needs values one by one.
        self.merged = True
        self.hip = 0.0
        if self.coupons is not None:
            coupons, self.coupons = self.coupons.to_list(), None
            self._registers = theirs
            self.lg_k = lg_k
            self._raise_registers(np.array(coupons, dtype=np.int64))
        else:
            self._registers = np.maximum(_folded(self._registers, lg_k), theirs)
            self.lg_k = lg_k

    def estimate(self) -> float:
        """How many different values there were, about."""
        if self.coupons is not None:
            return distinct_behind(len(self.coupons))
        return _ertl(self._registers) if self.merged else self.hip

    def relative_error(self) -> float:
        """Relative standard error of the estimate."""
        if self.coupons is not None:
            return COUPON_ERROR
        return relative_error(self.lg_k, merged=self.merged)

    def bounds(self, errors: float = 2.0) -> tuple[float, float]:
        """Lower and upper bound at so many standard errors."""
        estimate, error = self.estimate(), errors * self.relative_error()
        least = float(len(self.coupons) if self.coupons is not None else np.count_nonzero(self._registers))
        return max(estimate / (1.0 + error), least), estimate / max(1.0 - error, 1e-9)

    def to_bytes(self) -> bytes:
        """The library's compact form."""
        return hll_bytes.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> HllSketch:
        """Reads the library's compact or updatable form.

        Raises:
            MalformedSketch: it is neither.
        """
        return hll_bytes.decode(data)

    def restore(self, registers: Registers, hip: float, *, merged: bool) -> None:
        """Takes up registers as they were left."""
        self.coupons = None
        self._registers = registers
        self._inverse = _inverse(registers)
        self.hip = hip
        self.merged = merged

    def _promote(self) -> None:
        """From coupons to registers."""
        assert self.coupons is not None
        coupons, estimate = self.coupons.to_list(), self.estimate()
        self.coupons = None
        self._registers = np.zeros(1 << self.lg_k, dtype=np.uint8)
        self._inverse = float(1 << self.lg_k)
        self._raise_registers(np.array(coupons, dtype=np.int64))
        self.hip = estimate

    def _raise_registers(self, coupons: Coupons) -> None:
        if not len(coupons):
            return
        addresses, values = split(coupons)
        slots = addresses & ((1 << self.lg_k) - 1)
        registers = self._registers
        if self.merged:
            np.maximum.at(registers, slots, values.astype(np.uint8))
            return
        # Only what raises a register counts, in order: after the first few thousand values hardly any does.
        rising = np.flatnonzero(values > registers[slots])
        count = float(1 << self.lg_k)
        for slot, value in zip(slots[rising].tolist(), values[rising].tolist(), strict=True):
            held = int(registers[slot])
            if value > held:
                self.hip += count / self._inverse
                self._inverse += 2.0**-value - 2.0**-held
                registers[slot] = value


def _folded(registers: Registers, lg_k: int) -> Registers:
    """Registers of a smaller sketch of the same values: the lowest address bits stay."""
    folded: Registers = registers.reshape(-1, 1 << lg_k).max(axis=0)
    return folded


def _inverse(registers: Registers) -> float:
    return float(np.ldexp(1.0, -registers.astype(np.int64)).sum())


def _ertl(registers: Registers) -> float:
    """Ertl's improved raw estimator, from the histogram of registers."""
    m = len(registers)
    counts = np.bincount(registers, minlength=MOST_ZEROS + 2).astype(np.float64)
    z = m * _tau(1.0 - counts[MOST_ZEROS + 1] / m)
    for value in range(MOST_ZEROS, 0, -1):
        z = 0.5 * (z + counts[value])
    z += m * _sigma(counts[0] / m)
    return 0.0 if math.isinf(z) else m * m / (2.0 * math.log(2.0) * z)


def _sigma(x: float) -> float:
    """x + sum over k >= 1 of x^(2^k) 2^(k-1)."""
    if x >= 1.0:
        return math.inf
    total, scale, before = x, 1.0, -1.0
    while total != before:
        before = total
        x *= x
        total += x * scale
        scale *= 2.0
    return total


def _tau(x: float) -> float:
    """(1 - x - sum over k >= 1 of (1 - x^(2^-k))^2 2^-k) / 3."""
    if x <= 0.0 or x >= 1.0:
        return 0.0
    total, scale, before = 1.0 - x, 1.0, -1.0
    while total != before:
        before = total
        x = math.sqrt(x)
        scale *= 0.5
        total -= (1.0 - x) ** 2 * scale
    return total / 3.0
