"""KLL sketches as Apache DataSketches' bytes. Byte by byte in docs/formats.md."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from driftpost_sketches.errors import MalformedSketch, UnsupportedVersion

if TYPE_CHECKING:
    from driftpost_sketches.datasketches.kll import KllSketch

FAMILY = 15
VERSION, VERSION_OF_ONE = 1, 2  # of a sketch, and of one that holds a single value
EMPTY, SORTED, ONE = 1, 2, 4
SHORT, FULL = 2, 5  # length of the preamble, 4-byte integers
M = 8
MAX_BYTES = 4 << 20  # k = 65,535 in float64 takes 1.6 MB
_HEAD = struct.Struct("<BBBBHBx")
_REST = struct.Struct("<QHBx")  # n, least k, levels


def encode(sketch: KllSketch) -> bytes:
    """The library's form."""
    from driftpost_sketches.datasketches.kll import capacity  # noqa: PLC0415  # one idea's two sides

    dtype = "<f8" if sketch.double else "<f4"
    if sketch.empty:
        return _HEAD.pack(SHORT, VERSION, FAMILY, EMPTY, sketch.k, M)
    if sketch.n == 1:
        return (
            _HEAD.pack(SHORT, VERSION_OF_ONE, FAMILY, ONE, sketch.k, M)
            + sketch.levels[0].astype(dtype).tobytes()
        )
    count = len(sketch.levels)
    start = capacity(sketch.k, count) - sketch.retained
    borders = start + np.concatenate([[0], np.cumsum([len(level) for level in sketch.levels[:-1]])])
    values = np.concatenate([[sketch.low, sketch.high], *sketch.levels])
    # Never marked as sorted: the lowest level is kept as its values came.
    return b"".join(
        [
            _HEAD.pack(FULL, VERSION, FAMILY, 0, sketch.k, M),
            _REST.pack(sketch.n, sketch.least_k, count),
            borders.astype("<u4").tobytes(),
            values.astype(dtype).tobytes(),
        ]
    )


def decode(data: bytes, *, double: bool) -> KllSketch:
    """A sketch from its bytes; see `KllSketch.from_bytes`."""
    from driftpost_sketches.datasketches.kll import (  # noqa: PLC0415
        MAX_LEVELS,
        MIN_K,
        KllSketch,
        capacity,
    )

    width, dtype = (8, "<f8") if double else (4, "<f4")
    if not _HEAD.size <= len(data) <= MAX_BYTES:
        raise MalformedSketch(f"{len(data)} bytes are no KLL sketch")
    ints, version, family, flags, k, m = _HEAD.unpack_from(data)
    if family != FAMILY:
        raise MalformedSketch(f"family {family} is not KLL ({FAMILY})")
    if version > VERSION_OF_ONE:
        raise UnsupportedVersion("a KLL sketch", version, VERSION_OF_ONE)
    single = bool(flags & ONE)
    empty = bool(flags & EMPTY)
    if (
        k < MIN_K
        or m != M
        or version != (VERSION_OF_ONE if single else VERSION)
        or ints != (SHORT if single or empty else FULL)
        or (single and empty)
    ):
        raise MalformedSketch("the preamble of a KLL sketch contradicts itself")
    sketch = KllSketch(k, double=double)
    if empty:
        if len(data) != _HEAD.size:
            raise MalformedSketch("something follows an empty KLL sketch")
        return sketch
    if single:
        if len(data) != _HEAD.size + width:
            raise MalformedSketch("a KLL sketch of one value is cut short or too long")
        sketch.update(np.frombuffer(data, dtype, 1, _HEAD.size))
        if sketch.empty:
            raise MalformedSketch("the one value of a KLL sketch is NaN")
        return sketch
    at = _HEAD.size + _REST.size
    if len(data) < at:
        raise MalformedSketch("a KLL sketch is cut short")
    n, least_k, count = _REST.unpack_from(data, _HEAD.size)
    if not 1 <= count <= MAX_LEVELS or not MIN_K <= least_k <= k or len(data) < at + 4 * count:
        raise MalformedSketch(f"a KLL sketch of {count} levels and least k {least_k}")
    borders = np.frombuffer(data, "<u4", count, at).astype(np.int64)
    sizes = np.diff(np.append(borders, capacity(k, count)))
    at += 4 * count
    if (sizes < 0).any() or len(data) != at + width * (2 + int(sizes.sum())):
        raise MalformedSketch("the levels of a KLL sketch do not fit its values")
    values = np.frombuffer(data, dtype, offset=at).astype(np.float64)
    if int((sizes << np.arange(count)).sum()) != n or n < 2:
        raise MalformedSketch("the weights of a KLL sketch do not add up")
    levels = np.split(values[2:], np.cumsum(sizes)[:-1])
    low, high = float(values[0]), float(values[1])
    if np.isnan(values).any() or values[2:].min() < low or values[2:].max() > high:
        raise MalformedSketch("the extremes of a KLL sketch contradict its values")
    if any((np.diff(level) < 0).any() for level in levels[1:]):
        raise MalformedSketch("a level of a KLL sketch is not sorted")
    sketch.n, sketch.least_k, sketch.low, sketch.high, sketch.levels = n, least_k, low, high, levels
    return sketch
