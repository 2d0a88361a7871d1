"""Frequent-items sketches as Apache DataSketches' bytes. Byte by byte in docs/formats.md."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from driftpost_sketches.errors import MalformedSketch, UnsupportedVersion
from driftpost_sketches.packing import Reader

if TYPE_CHECKING:
    from driftpost_sketches.datasketches.frequent_items import FrequentItems, Item

VERSION = 1
FAMILY = 10
SHORT, FULL = 1, 4  # length of the preamble, 8-byte words
# The library writes two bits for "empty" (one of them by an old mistake) and reads either.
EMPTY_WRITTEN, EMPTY_READ = 5, 5
MAX_BYTES = 16 << 20
MAX_ITEM = 1 << 16  # bytes of one text
MAX_WEIGHT = (1 << 63) - 1
_HEAD = struct.Struct("<6B2x")
_REST = struct.Struct("<I4xqq")  # items, weight, offset


def encode(sketch: FrequentItems) -> bytes:
    """The library's form."""
    if sketch.empty:
        return _HEAD.pack(SHORT, VERSION, FAMILY, sketch.lg_size, sketch.lg_now, EMPTY_WRITTEN)
    counts = np.array(list(sketch.counts.values()), dtype="<i8").tobytes()
    if sketch.strings:
        raws = [str(item).encode() for item in sketch.counts]
        items = b"".join(struct.pack("<I", len(raw)) + raw for raw in raws)
    else:
        items = np.array(list(sketch.counts), dtype="<i8").tobytes()
    return b"".join(
        [
            _HEAD.pack(FULL, VERSION, FAMILY, sketch.lg_size, sketch.lg_now, 0),
            _REST.pack(len(sketch.counts), sketch.weight, sketch.offset),
            counts,
            items,
        ]
    )


def decode(data: bytes, *, strings: bool) -> FrequentItems:
    """A sketch from its bytes; see `FrequentItems.from_bytes`."""
    from driftpost_sketches.datasketches.frequent_items import (  # noqa: PLC0415  # one idea's two sides
        LOAD,
        MAX_LG,
        MIN_LG,
        FrequentItems,
    )

    if not _HEAD.size <= len(data) <= MAX_BYTES:
        raise MalformedSketch(f"{len(data)} bytes are no frequent-items sketch")
    words, version, family, lg_size, lg_now, flags = _HEAD.unpack_from(data)
    words &= 0x3F  # the library keeps other things in the two bits above
    if family != FAMILY:
        raise MalformedSketch(f"family {family} is not that of frequent items ({FAMILY})")
    if version > VERSION:
        raise UnsupportedVersion("a frequent-items sketch", version, VERSION)
    empty = bool(flags & EMPTY_READ)
    if version < 1 or not MIN_LG <= lg_size <= MAX_LG or not MIN_LG <= lg_now <= lg_size:
        raise MalformedSketch("the preamble of a frequent-items sketch contradicts itself")
    if words != (SHORT if empty else FULL):
        raise MalformedSketch("the preamble of a frequent-items sketch has a wrong length")
    sketch = FrequentItems(lg_size, strings=strings)
    reader = Reader(data[_HEAD.size :])
    if empty:
        reader.finish()
        sketch.lg_now = lg_now
        return sketch
    count, weight, offset = _REST.unpack(reader.take(_REST.size))
    if count > LOAD * (1 << lg_now) or not 1 <= weight <= MAX_WEIGHT or not 0 <= offset <= weight:
        raise MalformedSketch("a frequent-items sketch holds more items or error than it may")
    counts = reader.array("<i8", count)
    items: list[Item] = (
        [_text(reader) for _ in range(count)] if strings else reader.array("<i8", count).tolist()
    )
    reader.finish()
    if (counts < 1).any() or sum(counts.tolist()) > weight or len(set(items)) != count:
        raise MalformedSketch("the counts of a frequent-items sketch contradict each other")
    sketch.restore(
        dict(zip(items, counts.tolist(), strict=True)), weight=weight, offset=offset, lg_now=lg_now
    )
    return sketch


def _text(reader: Reader) -> str:
    try:
        return reader.blob(MAX_ITEM).decode()
    except UnicodeDecodeError as error:
        raise MalformedSketch("an item is not UTF-8") from error
