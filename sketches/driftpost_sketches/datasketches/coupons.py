"""Coupons: what an HLL sketch keeps of a hashed value, and how many values a set of coupons stands for.

A coupon is 32 bits: 26 of address, of which a sketch of 2^k registers uses the lowest k, and above them
6 of value, one more than the leading zeros of the other half of the hash. While few values have been
seen the coupons themselves are kept, which is nearly exact counting.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from driftpost_sketches.datasketches.murmur import Words

ADDRESS_BITS = 26
ADDRESS_MASK = (1 << ADDRESS_BITS) - 1
MOST_ZEROS = 62  # leading zeros that are told apart: a value has six bits
NEWTON_STEPS = 8  # from the count itself; quadratic convergence needs three or four

Coupons = npt.NDArray[np.int64]


def coupons_of(hashes: tuple[Words, Words]) -> Coupons:
    """The coupon of each hash: int64[n]."""
    address = (hashes[0] & np.uint64(ADDRESS_MASK)).astype(np.int64)
    value = np.minimum(_leading_zeros(hashes[1]), MOST_ZEROS) + 1
    return np.asarray((value << ADDRESS_BITS) | address)


def split(coupons: Coupons) -> tuple[Coupons, Coupons]:
    """Addresses and values of coupons."""
    return coupons & ADDRESS_MASK, coupons >> ADDRESS_BITS


def distinct_behind(coupons: int) -> float:
    """Distinct values that leave this many different coupons, on average.

    A value has the coupon (address, v) with probability 2^-26 2^-v; n values leave f(n) = sum over v of
    2^26 (1 - exp(-n 2^-(26+v))) different ones. Solved for n.
    """
    rates = np.array([2.0 ** -(ADDRESS_BITS + min(v, MOST_ZEROS)) for v in range(1, MOST_ZEROS + 2)])
    addresses = float(1 << ADDRESS_BITS)
    n = float(coupons)
    for _ in range(NEWTON_STEPS):
        left = np.exp(-n * rates)
        n += (coupons - addresses * float((1.0 - left).sum())) / (addresses * float((rates * left).sum()))
    return max(n, float(coupons))


def _leading_zeros(words: Words) -> Coupons:
    """Leading zero bits of each word: int64[n]; 64 for zero."""
    high = (words >> np.uint64(32)).astype(np.int64)
    low = (words & np.uint64(0xFFFFFFFF)).astype(np.int64)
    # frexp is exact for whole numbers below 2**53: its exponent is the number of bits.
    bits = np.where(high > 0, 32 + np.frexp(high.astype(np.float64))[1], np.frexp(low.astype(np.float64))[1])
    return np.asarray(64 - bits, dtype=np.int64)


def relative_error(lg_k: int, *, merged: bool) -> float:
    """Relative standard error of a full sketch of 2^lg_k registers.

    sqrt(ln 2) / sqrt(k) for one that saw its values in order (historic inverse probability: Cohen 2015, Ting
    2014), 1.04 / sqrt(k) for a merged one (Flajolet et al. 2007; Ertl 2017).
    """
    factor = 1.04 if merged else math.sqrt(math.log(2.0))
    return factor / math.sqrt(1 << lg_k)
