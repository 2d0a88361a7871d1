"""MurmurHash3 x64 128 of whole blocks of values, with the seed that Apache DataSketches uses.

Austin Appleby's public-domain function; equal bits to the library's, so that sketches made here and there can
be merged. Strings are hashed as UTF-8, floats by the bits of their float64 with one zero and one NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

DEFAULT_SEED = 9001  # of every update in the library; sketches of other seeds do not merge

Words = npt.NDArray[np.uint64]

_C1 = np.uint64(0x87C37B91114253D5)
_C2 = np.uint64(0x4CF5AD432745937F)
_FIVE = np.uint64(5)
_ADD1, _ADD2 = np.uint64(0x52DCE729), np.uint64(0x38495AB5)
_MIX1, _MIX2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)
_BLOCK = 16  # bytes


def hash_longs(values: npt.NDArray[np.int64], seed: int = DEFAULT_SEED) -> tuple[Words, Words]:
    """Both halves of the hash of each whole number, taken as eight little-endian bytes.

    Args:
        values: int64[n].
        seed: of the hash.

    Returns:
        uint64[n] and uint64[n].
    """
    words = np.ascontiguousarray(values, dtype=np.int64).view(np.uint64)
    h1 = np.full(len(words), seed, dtype=np.uint64)
    h2 = h1.copy()
    h1 ^= _mixed1(words)
    return _finish(h1, h2, np.full(len(words), 8, dtype=np.uint64))


def hash_doubles(values: npt.NDArray[np.float64], seed: int = DEFAULT_SEED) -> tuple[Words, Words]:
    """Both halves of the hash of each number's bits; -0.0 counts as 0.0 and every NaN as one."""
    numbers = np.asarray(values, dtype=np.float64) + 0.0
    return hash_longs(np.where(np.isnan(numbers), np.nan, numbers).view(np.int64), seed)


def hash_strings(texts: Sequence[str], seed: int = DEFAULT_SEED) -> tuple[Words, Words]:
    """Both halves of the hash of each text's UTF-8 bytes.

    Returns:
        uint64[n] and uint64[n].
    """
    raws = [text.encode() for text in texts]
    lengths = np.array([len(raw) for raw in raws], dtype=np.int64)
    width = (int(lengths.max(initial=0)) // _BLOCK + 1) * _BLOCK
    padded = np.frombuffer(b"".join(raw.ljust(width, b"\0") for raw in raws), dtype="<u8")
    words = padded.reshape(len(raws), width // 8).astype(np.uint64)
    h1 = np.full(len(raws), seed, dtype=np.uint64)
    h2 = h1.copy()
    whole = lengths // _BLOCK
    for block in range(int(whole.max(initial=0))):
        rows = np.flatnonzero(whole > block)
        a, b = h1[rows], h2[rows]
        a ^= _mixed1(words[rows, 2 * block])
        a = (_rotated(a, 27) + b) * _FIVE + _ADD1
        b ^= _mixed2(words[rows, 2 * block + 1])
        b = (_rotated(b, 31) + a) * _FIVE + _ADD2
        h1[rows], h2[rows] = a, b
    # The tail is padded with zeros, and a zero word mixes to zero: the two words can always be taken.
    every = np.arange(len(raws))
    h1 ^= _mixed1(words[every, 2 * whole])
    h2 ^= _mixed2(words[every, 2 * whole + 1])
    return _finish(h1, h2, lengths.astype(np.uint64))


def _finish(h1: Words, h2: Words, lengths: Words) -> tuple[Words, Words]:
    h1 = h1 ^ lengths
    h2 = h2 ^ lengths
    h1 = h1 + h2
    h2 = h2 + h1
    h1, h2 = _avalanche(h1), _avalanche(h2)
    h1 = h1 + h2
    return h1, h2 + h1


def _mixed1(word: Words) -> Words:
    return np.asarray(_rotated(word * _C1, 31) * _C2)


def _mixed2(word: Words) -> Words:
    return np.asarray(_rotated(word * _C2, 33) * _C1)


def _rotated(word: Words, by: int) -> Words:
    return np.asarray((word << np.uint64(by)) | (word >> np.uint64(64 - by)))


def _avalanche(word: Words) -> Words:
    word = (word ^ (word >> _SHIFT)) * _MIX1
    word = (word ^ (word >> _SHIFT)) * _MIX2
    return np.asarray(word ^ (word >> _SHIFT))
