"""Bytes of sketches: a magic, a version, a compressed body of arrays; read back strictly and within bounds."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from driftpost_sketches.errors import MalformedSketch, UnsupportedVersion

MAGIC = b"dp"
MAX_BODY = 64 * 2**20  # bytes uncompressed; a calibration of some hundred streams stays far below
LEVEL = 1  # zlib level: the smallest gain for the least CPU on a device
_WIDTHS = (1, 2, 4, 8)


def integers(values: npt.NDArray[np.int64]) -> bytes:
    """Signed integers at the smallest width that holds them all, preceded by that width in bytes."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    width = next(w for w in _WIDTHS if -(1 << (8 * w - 1)) <= low and high < 1 << (8 * w - 1))
    return bytes([width]) + values.astype(f"<i{width}").tobytes()


def seal(kind: bytes, version: int, body: bytes) -> bytes:
    """Magic, one kind byte, one version byte, then the zlib-compressed body."""
    return MAGIC + kind + bytes([version]) + zlib.compress(body, LEVEL)


class Reader:
    """Takes typed pieces off a body and refuses to read past its end."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        piece = self._body[self._at : self._at + size]
        if size < 0 or len(piece) != size:
            raise MalformedSketch(f"it ends after {len(self._body)} bytes, {size - len(piece)} are missing")
        self._at += size
        return piece

    def array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        """The next `count` values of `dtype`."""
        kind = np.dtype(dtype)
        return np.frombuffer(self.take(kind.itemsize * count), dtype=kind)

    def integers(self, count: int) -> npt.NDArray[np.int64]:
        """The next `count` integers written by `integers`."""
        width = self.take(1)[0]
        if width not in _WIDTHS:
            raise MalformedSketch(f"integers of {width} bytes do not exist here")
        return self.array(f"<i{width}", count).astype(np.int64)

    def finish(self) -> None:
        """Refuses bytes that are left over."""
        if self._at != len(self._body):
            raise MalformedSketch(f"{len(self._body) - self._at} bytes are left over at the end")


def unseal(kind: bytes, newest: int, data: bytes, what: str) -> Reader:
    """Checks magic, kind and version and opens the body.

    Raises:
        MalformedSketch: not ours, damaged, or larger than `MAX_BODY` once uncompressed.
        UnsupportedVersion: written by a newer format.
    """
    if len(data) < 5 or data[:2] != MAGIC or data[2:3] != kind:
        raise MalformedSketch(f"these bytes are not {what}")
    version = data[3]
    if version < 1:
        raise MalformedSketch(f"{what} has format version 0")
    if version > newest:
        raise UnsupportedVersion(what, version, newest)
    inflate = zlib.decompressobj()
    try:
        body = inflate.decompress(data[4:], MAX_BODY)
    except zlib.error as error:
        raise MalformedSketch(f"its body is damaged ({error})") from error
    if not inflate.eof or inflate.unused_data:
        raise MalformedSketch("its body is cut short, too large, or followed by other bytes")
    return Reader(body)
