"""HLL sketches as Apache DataSketches' bytes. Byte by byte in docs/formats.md."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from driftpost_sketches.datasketches.coupon_set import LG_LIST
from driftpost_sketches.datasketches.coupons import ADDRESS_BITS, ADDRESS_MASK, MOST_ZEROS
from driftpost_sketches.errors import MalformedSketch, UnsupportedVersion

if TYPE_CHECKING:
    from driftpost_sketches.datasketches.hll import HllSketch

VERSION = 1
FAMILY = 7
MAX_BYTES = (1 << 21) + 4096  # a sketch of 2^21 registers of 8 bits
EMPTY, COMPACT, OUT_OF_ORDER = 4, 8, 16
LIST, SET, HLL = range(3)
INTS = {LIST: 2, SET: 3, HLL: 10}  # length of the preamble, 4-byte integers
TOKEN = 15  # a nibble that says: look among the exceptions
# Slots of the first table of exceptions as a power of two, by lg_k.
_LG_EXCEPTIONS = (0, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10, 11, 12, 13)
_HEAD = struct.Struct("<8B")
_NUMBERS = struct.Struct(
    "<dddii"
)  # hip, sums of 2^-register below and above 32, lowest registers, exceptions

Registers = npt.NDArray[np.uint8]


def encode(sketch: HllSketch) -> bytes:
    """The compact form."""
    kind = int(sketch.kind) << 2
    if sketch.coupons is not None:
        held = sketch.coupons
        coupons = np.array(held.to_list(), dtype="<u4").tobytes()
        mode, flags = (SET if held.table else LIST), COMPACT | (0 if len(held) else EMPTY)
        count = 0 if held.table else len(held)
        head = _HEAD.pack(INTS[mode], VERSION, FAMILY, sketch.lg_k, held.lg_slots, flags, count, mode | kind)
        return head + (struct.pack("<i", len(held)) if held.table else b"") + coupons
    registers = sketch.registers
    out = OUT_OF_ORDER if sketch.merged else 0
    small = registers < 32
    weights = np.ldexp(1.0, -registers.astype(np.int64))
    sums = float(weights[small].sum()), float(weights[~small].sum())
    lowest, exceptions, lg_slots = 0, b"", 0
    if kind == 0:
        lowest = int(registers.min())
        above = registers - np.uint8(lowest)
        wild = np.flatnonzero(above >= TOKEN)
        body = _nibbles(np.minimum(above, TOKEN).astype(np.uint8))
        if len(wild):
            lg_slots = max(_LG_EXCEPTIONS[sketch.lg_k], 2)
            while 4 * len(wild) > 3 << lg_slots:
                lg_slots += 1
            pairs = wild.astype(np.int64) | (registers[wild].astype(np.int64) << ADDRESS_BITS)
            exceptions = np.array(_in_slots(pairs.tolist(), lg_slots), dtype="<u4").tobytes()
        out |= COMPACT
    else:
        body = registers.tobytes() if kind == 2 << 2 else _sextets(registers)
    head = _HEAD.pack(INTS[HLL], VERSION, FAMILY, sketch.lg_k, lg_slots, out, lowest, HLL | kind)
    at_lowest = int(np.count_nonzero(registers == lowest))
    return head + _NUMBERS.pack(sketch.hip, *sums, at_lowest, len(exceptions) // 4) + body + exceptions


def decode(data: bytes) -> HllSketch:
    """A sketch from its bytes; see `HllSketch.from_bytes`."""
    from driftpost_sketches.datasketches.hll import (  # noqa: PLC0415  # the two modules are one idea's two sides
        MAX_LG_K,
        MIN_LG_K,
        HllSketch,
        HllType,
    )

    if not 8 <= len(data) <= MAX_BYTES:
        raise MalformedSketch(f"{len(data)} bytes are no HLL sketch")
    ints, version, family, lg_k, lg_slots, flags, count, modes = _HEAD.unpack_from(data)
    mode, kind = modes & 3, modes >> 2 & 3
    if family != FAMILY:
        raise MalformedSketch(f"family {family} is not HLL ({FAMILY})")
    if version > VERSION:
        raise UnsupportedVersion("an HLL sketch", version, VERSION)
    if version < 1 or mode > HLL or kind > 2 or ints != INTS[mode]:
        raise MalformedSketch("the preamble of an HLL sketch contradicts itself")
    if not MIN_LG_K <= lg_k <= MAX_LG_K:
        raise MalformedSketch(f"an HLL sketch of 2^{lg_k} registers")
    sketch = HllSketch(lg_k, HllType(kind))
    if mode == HLL:
        _read_registers(sketch, data, flags=flags, lowest=count, lg_slots=lg_slots)
        return sketch
    if mode == LIST:
        if count > 1 << LG_LIST or bool(flags & EMPTY) != (count == 0):
            raise MalformedSketch("a list of coupons contradicts its count")
        if flags & EMPTY and not flags & COMPACT and len(data) == 8:
            return sketch
        coupons = _coupons(data, 8, count, full=None if flags & COMPACT else 1 << LG_LIST)
    else:
        if len(data) < 12 or not 5 <= lg_slots <= max(lg_k - 3, 5):
            raise MalformedSketch("a set of coupons is cut short or too large")
        (count,) = struct.unpack_from("<i", data, 8)
        if not 0 < 4 * count <= 3 << lg_slots:
            raise MalformedSketch(f"{count} coupons in a set")
        coupons = _coupons(data, 12, count, full=None if flags & COMPACT else 1 << lg_slots)
    assert sketch.coupons is not None
    if mode == SET:
        sketch.coupons.restore(coupons, lg_slots)
    elif sum(sketch.coupons.add(coupon) for coupon in coupons):
        raise MalformedSketch("a list of coupons is longer than any sketch keeps")
    return sketch


def _coupons(data: bytes, start: int, count: int, *, full: int | None) -> list[int]:
    size = count if full is None else full
    if len(data) != start + 4 * size:
        raise MalformedSketch(f"{len(data)} bytes do not hold {size} coupons")
    coupons = np.frombuffer(data, "<u4", size, start).astype(np.int64)
    coupons = coupons[coupons != 0]
    if len(coupons) != count or len(np.unique(coupons)) != count or ((coupons >> ADDRESS_BITS) < 1).any():
        raise MalformedSketch("coupons are missing, repeated or without a value")
    found: list[int] = coupons.tolist()
    return found


def _read_registers(sketch: HllSketch, data: bytes, *, flags: int, lowest: int, lg_slots: int) -> None:
    k, kind = 1 << sketch.lg_k, int(sketch.kind)
    size = (k // 2, k * 3 // 4 + 1, k)[kind]
    start = 8 + _NUMBERS.size
    if len(data) < start + size:
        raise MalformedSketch("the registers are cut short")
    hip, _below, _above, _at_lowest, exceptions = _NUMBERS.unpack_from(data, 8)
    body = np.frombuffer(data, np.uint8, size, start)
    rest = data[start + size :]
    if kind == 0:
        registers = _from_nibbles(body).astype(np.int64)
        wild = registers == TOKEN
        registers += lowest
        _except(registers, wild, rest, exceptions, full=None if flags & COMPACT else lg_slots)
    else:
        registers = (body if kind == 2 else _from_sextets(body, k)).astype(np.int64)
        if lowest or exceptions or rest:
            raise MalformedSketch("exceptions in a sketch that has none")
    merged = bool(flags & OUT_OF_ORDER)
    if registers.max() > MOST_ZEROS + 1 or not registers.any():
        raise MalformedSketch("a register holds more than any hash can give, or all hold nothing")
    if not merged and not (math.isfinite(hip) and hip >= 0.0):
        raise MalformedSketch("the historic count is no number of values")
    sketch.restore(registers.astype(np.uint8), 0.0 if merged else float(hip), merged=merged)


def _except(
    registers: npt.NDArray[np.int64],
    wild: npt.NDArray[np.bool_],
    rest: bytes,
    count: int,
    *,
    full: int | None,
) -> None:
    """Puts the exceptions of 4-bit registers in their places."""
    if full is not None and full > ADDRESS_BITS:
        raise MalformedSketch("a table of exceptions is too large")
    if full is not None and not count and not rest.strip(b"\0"):
        rest = b""  # an updatable form keeps room for them
    size = count if full is None else (1 << full if count else 0)
    if not 0 <= count <= len(registers) or len(rest) != 4 * size:
        raise MalformedSketch("the exceptions are cut short, or something follows them")
    pairs = np.frombuffer(rest, "<u4").astype(np.int64)
    pairs = pairs[pairs != 0]
    slots, values = pairs & ADDRESS_MASK, pairs >> ADDRESS_BITS
    if len(pairs) != count or count != int(wild.sum()) or len(np.unique(slots)) != count:
        raise MalformedSketch("the exceptions are not those that the registers name")
    if (slots >= len(registers)).any() or not wild[slots].all() or (values < registers[slots]).any():
        raise MalformedSketch("an exception belongs to no register")
    registers[slots] = values


def _in_slots(pairs: list[int], lg_slots: int) -> list[int]:
    """Exceptions in the order in which the library's table holds them."""
    table = [0] * (1 << lg_slots)
    mask = len(table) - 1
    for pair in pairs:
        slot = pair & ADDRESS_MASK
        at = slot & mask
        while table[at]:
            at = (at + ((slot >> lg_slots) | 1)) & mask
        table[at] = pair
    return [pair for pair in table if pair]


def _nibbles(values: Registers) -> bytes:
    return (values[0::2] | (values[1::2] << 4)).astype(np.uint8).tobytes()


def _from_nibbles(body: Registers) -> Registers:
    return np.stack([body & 15, body >> 4], axis=1).reshape(-1)


def _sextets(registers: Registers) -> bytes:
    """Six bits each, lowest first, and the byte of padding that the library writes."""
    bits = np.unpackbits(registers[:, None], axis=1, count=6, bitorder="little")
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes() + b"\0"


def _from_sextets(body: Registers, k: int) -> Registers:
    bits = np.unpackbits(body[:-1], bitorder="little").reshape(k, 6)
    return np.packbits(bits, axis=1, bitorder="little").reshape(-1)
