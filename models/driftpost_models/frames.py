"""Tensors between two processes: the frames that `isolated` sends over its socket pair.

A frame is two lengths, a msgpack header, then raw tensors, each padded to `_ALIGN` bytes. Everything is
checked as if it came from a stranger: a model that writes where it should not may have written over it.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from typing import cast

import msgpack
import numpy as np

from driftpost_models.runtime import Array

_LENGTHS = struct.Struct("<IQ")
_ALIGN = 16
"""Bytes. Runtimes read tensors with vector instructions; views into the frame keep to them."""

_MAX_HEADER = 1 << 20
"""Bytes. A thousand tensors with long names fit in a tenth of it."""

_MAX_PAYLOAD = 1 << 30
"""Bytes. Twice the largest model; a reply beyond it is garbage."""

_SMALL = 1 << 16
"""Bytes up to which one joined send beats several."""


class Closed(Exception):
    """The other end is gone."""


class Unreadable(Exception):
    """The frame makes no sense."""


def _receive(sock: socket.socket, size: int, deadline: float | None) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        if deadline is not None:
            sock.settimeout(max(deadline - time.monotonic(), 1e-4))
        got = sock.recv_into(view)
        if got == 0:
            raise Closed
        view = view[got:]
    return buffer


def receive_frame(sock: socket.socket, deadline: float | None) -> tuple[bytes, bytearray]:
    """Header and payload of the next frame.

    Args:
        sock: our end.
        deadline: by `time.monotonic`; None waits for ever.

    Raises:
        Closed: the other end is gone.
        Unreadable: the lengths make no sense.
        TimeoutError: the deadline passed.
    """
    header_size, payload_size = _LENGTHS.unpack(_receive(sock, _LENGTHS.size, deadline))
    if header_size > _MAX_HEADER or payload_size > _MAX_PAYLOAD:
        raise Unreadable(f"lengths {header_size} and {payload_size}")
    if payload_size > _SMALL:
        return bytes(_receive(sock, header_size, deadline)), _receive(sock, payload_size, deadline)
    # One read for both; what is then moved to the front, so that tensors are aligned, is small.
    body = _receive(sock, header_size + payload_size, deadline)
    header = bytes(body[:header_size])
    del body[:header_size]
    return header, body


def send_frame(
    sock: socket.socket, header: bytes, parts: Sequence[memoryview | bytes], deadline: float | None
) -> None:
    """Send a frame.

    Args:
        sock: our end.
        header: as `msgpack` packed it.
        parts: the payload, padded as `raw_parts` does.
        deadline: by `time.monotonic`; None waits for ever.
    """
    size = sum(len(part) for part in parts)
    head = _LENGTHS.pack(len(header), size) + header
    if deadline is not None:
        sock.settimeout(max(deadline - time.monotonic(), 1e-4))
    if size <= _SMALL:
        sock.sendall(b"".join((head, *parts)))
        return
    sock.sendall(head)
    for part in parts:
        if deadline is not None:
            sock.settimeout(max(deadline - time.monotonic(), 1e-4))
        sock.sendall(part)


def raw_parts(tensors: Sequence[Array]) -> list[memoryview | bytes]:
    """Tensors as a payload, each padded to the alignment."""
    parts: list[memoryview | bytes] = []
    for tensor in tensors:
        raw = np.ascontiguousarray(tensor).tobytes() if tensor.nbytes <= _SMALL else _flat(tensor)
        parts.append(raw)
        if len(raw) % _ALIGN:
            parts.append(bytes(-len(raw) % _ALIGN))
    return parts


def _flat(tensor: Array) -> memoryview:
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


Layout = tuple[tuple[str, "np.dtype[np.generic]", tuple[int, ...]], ...]


def pack_layout(names: Sequence[str], tensors: Sequence[Array]) -> list[object]:
    """Names, dtypes and shapes for a header."""
    return [[name, t.dtype.str, list(t.shape)] for name, t in zip(names, tensors, strict=True)]


def parse_layout(plain: object) -> Layout:
    """Inverse of `pack_layout`.

    Raises:
        Unreadable: it is not a layout of numeric tensors.
    """
    layout = []
    try:
        for name, dtype, shape in cast("list[tuple[str, str, list[int]]]", plain):
            parsed = np.dtype(dtype)
            if (
                not isinstance(name, str)
                or parsed.kind not in "biuf"
                or any(type(d) is not int or d < 0 for d in shape)
            ):
                raise Unreadable(f"tensor {name!r}")
            layout.append((name, parsed, tuple(shape)))
    except (TypeError, ValueError) as error:
        raise Unreadable("tensor layout") from error
    return tuple(layout)


def views(layout: Layout, payload: bytearray) -> dict[str, Array]:
    """Tensors by name, as views into a payload.

    Raises:
        Unreadable: they are longer than the payload.
    """
    at = 0
    tensors: dict[str, Array] = {}
    for name, dtype, shape in layout:
        count = 1
        for d in shape:
            count *= d
        size = count * dtype.itemsize
        if size > len(payload) - at:
            raise Unreadable("tensors longer than the frame")
        tensors[name] = np.frombuffer(payload, dtype, count, at).reshape(shape)
        at += size + (-size % _ALIGN)
    return tensors


def unpack_header(header: bytes) -> dict[str, object]:
    """The header's map.

    Raises:
        Unreadable: it is not msgpack, or no map.
    """
    try:
        plain = msgpack.unpackb(header, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise Unreadable("header") from error
    if not isinstance(plain, dict):
        raise Unreadable("header")
    return plain
