"""The open window, kept in memory that outlives the process: a kill then loses only the rows since a flush.

Every flush writes the window so far into shared memory, which costs no flash. The next start finds it there
and records it as a window of its own. It must not do so when the window had been closed and committed before
the kill came, so the transaction that stores a closed window counts it (`incarnations.closed`), and the
copy here is marked with that number before the commit: marked and counted means stored.

Two areas take turns, each with a checksum, so that a kill in the middle of a write leaves the one before.
After a reboot there is nothing, and the open window is lost with the rest of the memory.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from driftpost_agent.shared_memory import SHARED_MEMORY, open_shared, place
from driftpost_sketches.errors import SketchError
from driftpost_sketches.window import Window
from driftpost_sync.errors import MalformedMessage, MessageTooLarge
from driftpost_sync.messages import MAX_BODY_BYTES, WindowBody

_MAGIC = int.from_bytes(b"dpopen1\0", "little")
# Of an area: magic, incarnation, turn, number as which the window was stored (0: not yet), length, checksum.
_HEAD = struct.Struct("<6Q")
_CLOSING = 3
_AREA = _HEAD.size + (MAX_BODY_BYTES + 7) // 8 * 8
_SIZE = 2 * _AREA
# Recorders whose open windows are looked for: those that a row mark counts for, numbered as there.
_MOST_WORDS = 16


@dataclass(frozen=True)
class LeftWindow:
    """An open window that a killed process left behind.

    Attributes:
        body: as it was at the last flush.
        rows: inferences in it.
        windows: base windows in it.
    """

    body: WindowBody
    rows: int
    windows: int


class OpenWindow:
    """One recorder's open window. Without shared memory it keeps nothing.

    Args:
        path: of the file.
        incarnation: of this start.
    """

    def __init__(self, path: Path, incarnation: int) -> None:
        self._path = path
        self._incarnation = incarnation
        self._mapping = open_shared(path, _SIZE)
        self._turn = 0
        self._mono_start: int | None = None

    @classmethod
    def of_store(cls, store: Path, word: int, incarnation: int, folder: Path = SHARED_MEMORY) -> OpenWindow:
        """The one of the recorder that has this word of the store's row mark."""
        return cls(_path(store, word, folder), incarnation)

    def keep(self, body: WindowBody) -> None:
        """Remember the window so far; of one that no message can hold, what was kept before stays."""
        if self._mapping is None:
            return
        try:
            packed = body.to_bytes()
        except MessageTooLarge:
            return
        self._turn += 1
        at = _AREA * (self._turn % 2)
        # Invalid while it is written: the other area counts until the head is there again.
        _HEAD.pack_into(self._mapping, at, 0, 0, 0, 0, 0, 0)
        self._mapping[at + _HEAD.size : at + _HEAD.size + len(packed)] = packed
        checksum = _checksum(self._incarnation, self._turn, packed)
        _HEAD.pack_into(self._mapping, at, 0, self._incarnation, self._turn, 0, len(packed), checksum)
        struct.pack_into("<Q", self._mapping, at, _MAGIC)
        self._mono_start = body.mono_start

    def storing(self, mono_start: int, number: int) -> None:
        """The window that began at `mono_start` is being stored as the `number`-th, or was not (0).

        Called inside the transaction, before its commit.
        """
        if self._mapping is not None and self._mono_start == mono_start:
            at = _AREA * (self._turn % 2) + 8 * _CLOSING
            struct.pack_into("<Q", self._mapping, at, number)

    def close(self) -> None:
        """Forget the window: it is stored, or there is none."""
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
            with contextlib.suppress(OSError):
                self._path.unlink()


def left_behind(store: Path, incarnation: int, stored: int, folder: Path = SHARED_MEMORY) -> list[LeftWindow]:
    """Open windows of a killed incarnation that it had not stored.

    Args:
        store: path of the database.
        incarnation: the last one.
        stored: closed windows that it stored.
        folder: where they are kept.
    """
    found = []
    for word in range(_MOST_WORDS):
        path = _path(store, word, folder)
        mapping = open_shared(path, _SIZE, create=False) if path.exists() else None
        if mapping is None:
            continue
        with contextlib.closing(mapping):
            left = _read(mapping, incarnation, stored)
        if left is not None:
            found.append(left)
    return found


def forget(store: Path, folder: Path = SHARED_MEMORY) -> None:
    """Remove what was left behind, once it is recorded."""
    for word in range(_MOST_WORDS):
        with contextlib.suppress(OSError):
            _path(store, word, folder).unlink()


def _read(mapping: mmap.mmap, incarnation: int, stored: int) -> LeftWindow | None:
    latest: tuple[int, int, bytes] | None = None
    for at in (0, _AREA):
        magic, whose, turn, closing, length, checksum = _HEAD.unpack_from(mapping, at)
        if magic != _MAGIC or whose != incarnation or length > MAX_BODY_BYTES:
            continue
        packed = mapping[at + _HEAD.size : at + _HEAD.size + length]
        if checksum == _checksum(whose, turn, packed) and (latest is None or turn > latest[0]):
            latest = turn, closing, packed
    if latest is None or 0 < latest[1] <= stored:
        return None
    try:
        body = WindowBody.from_bytes(latest[2])
        window = Window.from_bytes(body.window)
    except (MalformedMessage, SketchError):
        return None
    return LeftWindow(body, window.rows, window.parts)


def _checksum(incarnation: int, turn: int, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(struct.pack("<3Q", incarnation, turn, len(packed))))


def _path(store: Path, word: int, folder: Path) -> Path:
    return place(store, folder, f"-open-{word}")
