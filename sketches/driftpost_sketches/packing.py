"""Bytes of sketches: magic, version, compressed body of arrays; read back strictly and within bounds.

Arrays are written at the smallest width that holds them, byte plane by byte plane (all lowest bytes, then all
next ones): the upper planes are nearly empty and compress to nothing.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from driftpost_sketches.errors import MalformedSketch, UnsupportedVersion

_WIDTHS = (1, 2, 4, 8)


def pack_unsigned(values: npt.NDArray[np.int64]) -> bytes:
    """Non-negative integers: one byte of width, then byte planes."""
    top = int(values.max(initial=0))
    width = next(w for w in _WIDTHS if top < 1 << (8 * w))
    return bytes([width]) + planes(values.astype(f"<u{width}"))


def pack_signed(values: npt.NDArray[np.int64]) -> bytes:
    """Integers with |v| < 2**62, zigzag coded so that small negative ones stay small."""
    return pack_unsigned((values << 1) ^ (values >> 63))


def planes(values: npt.NDArray[Any]) -> bytes:
    """The array's bytes, grouped by significance."""
    if not len(values):
        return b""
    return np.ascontiguousarray(values.view(np.uint8).reshape(len(values), -1).T).tobytes()


class Reader:
    """Takes fields off a byte string and refuses to read beyond its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            MalformedSketch: there are fewer.
        """
        if size < 0 or size > len(self._data) - self._at:
            raise MalformedSketch("truncated")
        self._at += size
        return self._data[self._at - size : self._at]

    def unsigned(self, count: int) -> npt.NDArray[np.int64]:
        """What `pack_unsigned` wrote."""
        width = self.take(1)[0]
        if width not in _WIDTHS:
            raise MalformedSketch(f"integers of {width} bytes")
        values = self._planes(count, width).view(f"<u{width}").ravel()
        if width == 8 and (values >> np.uint64(63)).any():
            raise MalformedSketch("an integer is too large")
        return values.astype(np.int64)

    def signed(self, count: int) -> npt.NDArray[np.int64]:
        """What `pack_signed` wrote."""
        coded = self.unsigned(count)
        return (coded >> 1) ^ -(coded & 1)

    def floats(self, count: int) -> npt.NDArray[np.float32]:
        """float32 written by `planes`."""
        return self._planes(count, 4).view("<f4").ravel().astype(np.float32)

    def array(self, dtype: str, *shape: int) -> npt.NDArray[Any]:
        """A plain little-endian array."""
        size = int(np.prod(shape, dtype=np.int64))
        raw = self.take(size * np.dtype(dtype).itemsize)
        native = np.dtype(dtype).newbyteorder("=")
        return np.frombuffer(raw, dtype).reshape(shape).astype(native)

    def text(self, limit: int) -> str:
        """A length (u16) and that many bytes of UTF-8."""
        (size,) = struct.unpack("<H", self.take(2))
        if size > limit:
            raise MalformedSketch("a text is too long")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise MalformedSketch("a text is not UTF-8") from error

    def blob(self, limit: int) -> bytes:
        """A length (u32) and that many bytes."""
        (size,) = struct.unpack("<I", self.take(4))
        if size > limit:
            raise MalformedSketch("a part is too long")
        return self.take(size)

    def finish(self) -> None:
        """Refuses bytes that nobody asked for."""
        if self._at != len(self._data):
            raise MalformedSketch(f"{len(self._data) - self._at} bytes too many")

    def _planes(self, count: int, width: int) -> npt.NDArray[np.uint8]:
        raw = np.frombuffer(self.take(count * width), np.uint8)
        return np.ascontiguousarray(raw.reshape(width, count).T)


def text_bytes(text: str) -> bytes:
    """What `Reader.text` reads."""
    raw = text.encode()
    return struct.pack("<H", len(raw)) + raw


def blob_bytes(blob: bytes) -> bytes:
    """What `Reader.blob` reads."""
    return struct.pack("<I", len(blob)) + blob


def unwrap(data: bytes, magic: bytes, version: int, what: str, *, most: int, most_plain: int) -> bytes:
    """Checks magic, version and size, and decompresses within a bound.

    Raises:
        MalformedSketch: anything is wrong.
        UnsupportedVersion: written by a newer format.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise MalformedSketch(f"bytes expected for {what}, found {type(data).__name__}")
    data = bytes(data)
    if len(data) > most:
        raise MalformedSketch(f"{len(data)} bytes are too many for {what} (at most {most})")
    if len(data) <= len(magic) or not data.startswith(magic):
        raise MalformedSketch(f"the bytes do not begin like {what}")
    found = data[len(magic)]
    if found > version:
        raise UnsupportedVersion(what, found, version)
    if found < version:
        raise MalformedSketch(f"{what} of format version {found}, which is no longer read; make it anew")
    inflater = zlib.decompressobj()
    try:
        # One byte more than allowed tells a bomb from a full measure without inflating it.
        plain = inflater.decompress(data[len(magic) + 1 :], most_plain + 1)
    except zlib.error as error:
        raise MalformedSketch(f"{what} can not be decompressed: {error}") from error
    if len(plain) > most_plain:
        raise MalformedSketch(f"{what} decompresses to more than {most_plain} bytes")
    if not inflater.eof or inflater.unused_data:
        raise MalformedSketch(f"{what} is truncated or has bytes after its end")
    return plain
