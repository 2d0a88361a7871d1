"""A window as bytes: small on the wire, strict on the way in. Byte by byte in docs/formats.md."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from driftpost_sketches import packing
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.packing import Reader

if TYPE_CHECKING:
    from driftpost_sketches.window import Window

MAGIC = b"DPW"
VERSION = 2
MAX_BYTES = 1 << 20  # compressed; far above 2 kB for 41 streams, a hundredth of what would hurt a small board
MAX_PLAIN = 16 << 20  # after decompression: MAX_BINS_TOTAL counts of 8 bytes and room for the rest
MAX_STREAMS = 4096  # as in a schema
MAX_BINS_TOTAL = 1 << 20
_HEAD = struct.Struct("<16sQQQQHH")  # schema id, rows, parts, noise, joint rows, streams, joint features


def encode(window: Window) -> bytes:
    """Bytes of a window."""
    streams, features = len(window.layout) - 1, len(window.joint)
    # Noise may take a count below zero; an exact one can not be.
    pack = packing.pack_signed if window.noise else packing.pack_unsigned
    body = b"".join(
        [
            _HEAD.pack(
                window.schema_id,
                window.rows,
                window.parts,
                window.noise,
                window.joint_rows,
                streams,
                features,
            ),
            np.diff(window.layout).astype("<u2").tobytes(),
            pack(window.counts),
            pack(window.missing),
            pack(window.nonfinite),
            packing.pack_signed(window.sum1),
            pack(window.sum2),
            packing.planes(window.low.astype("<f4")),
            packing.planes(window.high.astype("<f4")),
            packing.pack_signed(window.joint),
        ]
    )
    return MAGIC + bytes([VERSION]) + zlib.compress(body, 6)


def decode(data: bytes) -> Window:
    """A window from its bytes; see `Window.from_bytes`."""
    from driftpost_sketches.window import MAX_JOINT, Window  # noqa: PLC0415  # one idea's two sides

    reader = Reader(packing.unwrap(data, MAGIC, VERSION, "a window", most=MAX_BYTES, most_plain=MAX_PLAIN))
    schema_id, rows, parts, noise, joint_rows, streams, features = _HEAD.unpack(reader.take(_HEAD.size))
    if not 1 <= streams <= MAX_STREAMS:
        raise MalformedSketch(f"{streams} streams in a window")
    if features > MAX_JOINT:
        raise MalformedSketch(f"{features} joint features in a window")
    integers = reader.signed if noise else reader.unsigned
    bins = np.frombuffer(reader.take(2 * streams), "<u2").astype(np.int64)
    if (bins < 1).any() or bins.sum() > MAX_BINS_TOTAL:
        raise MalformedSketch("a stream without bins, or too many bins")
    window = Window(
        schema_id=schema_id,
        rows=rows,
        parts=parts,
        layout=np.concatenate([[0], np.cumsum(bins)]).astype(np.int64),
        counts=integers(int(bins.sum())),
        missing=integers(streams),
        nonfinite=integers(streams),
        sum1=reader.signed(streams),
        sum2=integers(streams),
        low=reader.floats(streams),
        high=reader.floats(streams),
        joint=reader.signed(features),
        joint_rows=joint_rows,
        noise=noise,
    )
    reader.finish()
    _plausible(window)
    _plausible_released(window) if window.noise else _plausible_exact(window)
    return window


def _plausible(window: Window) -> None:
    """Refuses numbers that no rows can have made, so that nothing downstream has to wonder."""
    from driftpost_sketches.window import JOINT_LIMIT, MAX_COUNT, SUM2_LIMIT  # noqa: PLC0415

    if window.rows > MAX_COUNT or window.parts > MAX_COUNT or (window.rows > 0) != (window.parts > 0):
        raise MalformedSketch("rows and parts contradict each other or are too many")
    if window.noise > MAX_COUNT or (window.noise and not window.parts):
        raise MalformedSketch("more noise than a window can hold")
    for values in (window.counts, window.missing, window.nonfinite, window.finite()):
        if np.abs(values).max(initial=0) > MAX_COUNT:
            raise MalformedSketch("counts are larger than a window can hold")
    if (np.abs(window.sum2) > SUM2_LIMIT).any() or (np.abs(window.sum1) > SUM2_LIMIT).any():
        raise MalformedSketch("moments are larger than a window can hold")
    if window.joint_rows > (window.rows if window.joint.size else 0):
        raise MalformedSketch("joint features of more rows than there are")
    if np.abs(window.joint).max(initial=0) > window.joint_rows * JOINT_LIMIT:
        raise MalformedSketch("joint features are larger than their rows allow")


def _plausible_released(window: Window) -> None:
    """What holds of counts with noise: extremes are withheld, but may come from exact windows."""
    nothing = np.isposinf(window.low) & np.isneginf(window.high)
    # NaN fails the comparison.
    if not (
        nothing | ((window.low <= window.high) & np.isfinite(window.low) & np.isfinite(window.high))
    ).all():
        raise MalformedSketch("low and high contradict each other")


def _plausible_exact(window: Window) -> None:
    from driftpost_sketches.window import CLIP, FIXED_POINT, SUM2_LIMIT  # noqa: PLC0415

    finite = window.finite()
    if not window.rows and (finite.any() or window.missing.any() or window.nonfinite.any()):
        raise MalformedSketch("values in a window of no rows")
    filled = finite > 0
    nothing = np.isposinf(window.low) & np.isneginf(window.high)
    # NaN fails both comparisons.
    if not np.where(filled, window.low <= window.high, nothing).all() or np.isinf(window.low[filled]).any():
        raise MalformedSketch("low and high contradict the counts")
    if np.isinf(window.high[filled]).any():
        raise MalformedSketch("low and high contradict the counts")
    largest = CLIP * FIXED_POINT
    n = finite.astype(np.float64)
    sum1, sum2 = window.sum1.astype(np.float64), window.sum2.astype(np.float64)
    if (np.abs(sum1) > n * largest).any() or (sum2 > n * largest**2).any():
        raise MalformedSketch("moments are larger than the counts allow")
    # Cauchy-Schwarz, but for rounding and where sum2 has saturated.
    if ((sum1 * sum1 > n * sum2 * (1 + 1e-9)) & (window.sum2 < SUM2_LIMIT)).any():
        raise MalformedSketch("moments contradict each other")


def narrow(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """float64 extremes as float32, finite ones staying finite.

    Rounding is monotonic, so the extreme of rounded values is the rounded extreme: merging stays exact.
    """
    limit = float(np.finfo(np.float32).max)
    clipped = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
    return clipped.astype(np.float32)
