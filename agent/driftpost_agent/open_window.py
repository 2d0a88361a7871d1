"""Windows that are not stored yet, in memory that outlives the process: a kill loses the rows since a flush.

Every flush writes the open window so far into shared memory, which costs no flash. When it is closed it waits
for the store in a copy of its own, because the card may take seconds, and the next window is flushed
meanwhile. The next start finds what there is and records it as windows of their own. It must not do so when
a window had been committed before the kill came, so the transaction that stores a closed window counts it
(`incarnations.closed`), and its copy is marked with that number before the commit: marked and counted means
stored.

Of the open window two areas take turns, each with a checksum, so that a kill in the middle of a write leaves
the one before. After a reboot there is nothing, and these windows are lost with the rest of the memory.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from driftpost_agent.shared_memory import open_shared
from driftpost_sketches.errors import SketchError
from driftpost_sketches.window import Window
from driftpost_sync.errors import MalformedMessage, MessageTooLarge
from driftpost_sync.messages import MAX_BODY_BYTES, WindowBody

_MAGIC = int.from_bytes(b"dpopen2\0", "little")
# Of a copy: magic, incarnation, the window's number in this process, turn, number as which the window was
# stored (0: not yet), length, checksum.
_HEAD = struct.Struct("<7Q")
_STORED_AS = 4
_AREA = _HEAD.size + (MAX_BODY_BYTES + 7) // 8 * 8
_SIZE = 2 * _AREA
# Files looked at after a kill: windows that wait are merged long before there are so many.
_MOST_FILES = 1024
# Tells the windows of this process apart, whoever records them.
_numbers = itertools.count(1)


@dataclass(frozen=True)
class LeftWindow:
    """A window that a killed process had not stored.

    Attributes:
        body: as it was at the last flush, or when it was closed.
        rows: inferences in it.
        windows: base windows in it.
    """

    body: WindowBody
    rows: int
    windows: int


class WaitingWindow:
    """A closed window that waits for the store. Without shared memory it keeps nothing."""

    def __init__(self, path: Path, incarnation: int, number: int, packed: bytes) -> None:
        self._path = path
        self._mapping = open_shared(path, _HEAD.size + len(packed))
        if self._mapping is not None:
            _write(self._mapping, 0, (incarnation, number, 0), packed)

    def storing(self, number: int) -> None:
        """It is being stored as the `number`-th, or was not (0). Call inside the transaction."""
        if self._mapping is not None:
            struct.pack_into("<Q", self._mapping, 8 * _STORED_AS, number)

    def close(self) -> None:
        """Forget it: it is stored, or given up."""
        if self._mapping is not None:
            _remove(self._mapping, self._path)
            self._mapping = None


class OpenWindow:
    """One recorder's open window. Without shared memory it keeps nothing.

    Args:
        folder: where the store's files in memory lie.
        word: of the recorder in the store's row mark.
        incarnation: of this start.
    """

    def __init__(self, folder: Path, word: int, incarnation: int) -> None:
        self._folder = folder
        self._path = folder / f"open-{word}"
        self._incarnation = incarnation
        self._mapping = open_shared(self._path, _SIZE)
        self._turn = 0
        self._number = next(_numbers)

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
        _write(self._mapping, at, (self._incarnation, self._number, self._turn), packed)

    def closed(self, body: WindowBody) -> WaitingWindow | None:
        """The window is closed and is now to be stored: the next one takes its place.

        Returns:
            Its copy; None where no message can hold it.
        """
        number, self._number = self._number, next(_numbers)
        try:
            packed = body.to_bytes()
        except MessageTooLarge:
            packed = b""
        path = self._folder / f"closed-{number}"
        waiting = WaitingWindow(path, self._incarnation, number, packed) if packed else None
        if self._mapping is not None:
            # A kill before this finds both, and knows by the number that they are the same window.
            for at in (0, _AREA):
                struct.pack_into("<Q", self._mapping, at, 0)
        return waiting

    def close(self) -> None:
        """Forget the open window: it is stored, or there is none."""
        if self._mapping is not None:
            _remove(self._mapping, self._path)
            self._mapping = None


def left_behind(folder: Path, incarnation: int, stored: int) -> list[LeftWindow]:
    """Windows of a killed incarnation that it had not stored, in their order.

    Args:
        folder: where they are kept.
        incarnation: the last one.
        stored: closed windows that it stored.
    """
    found: dict[int, tuple[int, bytes]] = {}
    # An open window first: of a window that is also there as closed, the closed copy holds all rows.
    for path in _files(folder):
        mapping = open_shared(path, None, create=False)
        if mapping is None:
            continue
        with contextlib.closing(mapping):
            latest = _latest(mapping, incarnation)
        if latest is not None:
            number, stored_as, packed = latest
            found[number] = stored_as, packed
    left = []
    for _, (stored_as, packed) in sorted(found.items()):
        if 0 < stored_as <= stored:
            continue
        try:
            body = WindowBody.from_bytes(packed)
            window = Window.from_bytes(body.window)
        except (MalformedMessage, SketchError):
            continue
        left.append(LeftWindow(body, window.rows, window.parts))
    return left


def forget(folder: Path) -> None:
    """Remove what was left behind, once it is recorded."""
    for path in _files(folder):
        with contextlib.suppress(OSError):
            path.unlink()


def _files(folder: Path) -> list[Path]:
    """Open windows, then closed ones."""
    files: list[Path] = []
    for pattern in ("open-*", "closed-*"):
        files += itertools.islice(sorted(folder.glob(pattern)), _MOST_FILES)
    return files


def _write(mapping: mmap.mmap, at: int, name: tuple[int, int, int], packed: bytes) -> None:
    # Invalid while it is written: the other area counts until the head is there again.
    _HEAD.pack_into(mapping, at, *([0] * 7))
    mapping[at + _HEAD.size : at + _HEAD.size + len(packed)] = packed
    _HEAD.pack_into(mapping, at, 0, *name, 0, len(packed), _checksum(*name, packed))
    struct.pack_into("<Q", mapping, at, _MAGIC)


def _latest(mapping: mmap.mmap, incarnation: int) -> tuple[int, int, bytes] | None:
    """Number, number as which it was stored, and body of the last whole copy."""
    latest: tuple[int, int, int, bytes] | None = None
    for at in (0, _AREA):
        if at + _HEAD.size > len(mapping):
            break
        magic, whose, number, turn, stored_as, length, checksum = _HEAD.unpack_from(mapping, at)
        if magic != _MAGIC or whose != incarnation or length > MAX_BODY_BYTES:
            continue
        packed = mapping[at + _HEAD.size : at + _HEAD.size + length]
        if checksum == _checksum(whose, number, turn, packed) and (latest is None or turn > latest[0]):
            latest = turn, number, stored_as, packed
    return None if latest is None else latest[1:]


def _checksum(incarnation: int, number: int, turn: int, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(struct.pack("<4Q", incarnation, number, turn, len(packed))))


def _remove(mapping: mmap.mmap, path: Path) -> None:
    mapping.close()
    with contextlib.suppress(OSError):
        path.unlink()
