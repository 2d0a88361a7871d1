"""Every write, truncation and sync that SQLite asks of the system, in order, by a shim in the real library.

The standard library's `sqlite3` can't be given a VFS, but the library it is linked to can: the default one is
registered again as a copy whose files call us first. The store's own code runs unchanged above it.
"""

from __future__ import annotations

import ctypes
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_P = ctypes.c_void_p
_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, _P, _P, _P, ctypes.c_int, _P)
_DELETE = ctypes.CFUNCTYPE(ctypes.c_int, _P, ctypes.c_char_p, ctypes.c_int)
_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, _P, _P, ctypes.c_int, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, _P, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, _P, ctypes.c_int)


class _Vfs(ctypes.Structure):
    """The head of sqlite3_vfs; what follows is copied as it is."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("longest_path", ctypes.c_int),
        ("next", _P),
        ("name", ctypes.c_char_p),
        ("app_data", _P),
        ("open", _P),
        ("delete", _P),
        ("rest", _P * 16),
    )


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, version 3."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("close", _P),
        ("read", _P),
        ("write", _P),
        ("truncate", _P),
        ("sync", _P),
        ("rest", _P * 13),
    )


@dataclass(frozen=True)
class Event:
    """One thing that was asked of the system, or a mark of the test's own.

    Attributes:
        kind: "write", "truncate", "sync", "delete", "sync folder" or "mark".
        file: its name, without the folder.
        offset: of a write; new length of a truncation.
        data: what was written.
        mark: whatever the test wants to find again.
    """

    kind: str
    file: str = ""
    offset: int = 0
    data: bytes = b""
    mark: Any = None


class Recording:
    """Events in the order in which they happened."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def mark(self, mark: Any) -> None:
        """What came before this was promised to last."""
        self.events.append(Event("mark", mark=mark))

    def folder_synced(self) -> None:
        """What was deleted before this is gone."""
        self.events.append(Event("sync folder"))


@contextmanager
def recording() -> Iterator[Recording]:
    """Record what every connection that is opened meanwhile does to its files."""
    library = ctypes.CDLL("libsqlite3.so.0")
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
    library.sqlite3_vfs_register.argtypes = [_P, ctypes.c_int]
    library.sqlite3_vfs_unregister.argtypes = [_P]
    default = library.sqlite3_vfs_find(None)
    shim, recorded = _Shim(default.contents), Recording()
    shim.recording = recorded
    library.sqlite3_vfs_register(ctypes.byref(shim.vfs), 1)
    try:
        sqlite3.connect(":memory:").close()
        yield recorded
    finally:
        library.sqlite3_vfs_register(default, 1)
        library.sqlite3_vfs_unregister(ctypes.byref(shim.vfs))
    if not recorded.events:
        pytest.skip("this Python's sqlite3 is not linked to the system's library")


class _Shim:
    """Copies of the system's tables of functions, with ours in some places."""

    def __init__(self, default: _Vfs) -> None:
        self.recording = Recording()
        self._files: dict[int, str] = {}
        # By address of the system's table: ours, and the system's functions as Python calls them.
        self._tables: dict[int, tuple[_Methods, Any, Any, Any]] = {}
        self._by_file: dict[int, tuple[_Methods, Any, Any, Any]] = {}
        self.vfs = _Vfs.from_buffer_copy(default)
        self._name = b"driftpost-recording"
        self.vfs.name = self._name
        self._open, self._delete = _OPEN(default.open), _DELETE(default.delete)
        # Kept here, so that the library never calls what was collected.
        self._ours = (
            _OPEN(self._opened),
            _DELETE(self._deleted),
            _WRITE(self._written),
            _TRUNCATE(self._truncated),
            _SYNC(self._synced),
        )
        self.vfs.open = ctypes.cast(self._ours[0], _P).value
        self.vfs.delete = ctypes.cast(self._ours[1], _P).value

    def _opened(self, vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        code: int = self._open(vfs, name, file, flags, out)
        if code == 0 and name is not None:
            place = ctypes.cast(file, ctypes.POINTER(_P))
            theirs = place.contents.value
            assert theirs is not None
            if theirs not in self._tables:
                table = _Methods.from_address(theirs)
                ours = _Methods.from_buffer_copy(table)
                ours.write, ours.truncate, ours.sync = (
                    ctypes.cast(function, _P).value for function in self._ours[2:]
                )
                system = _WRITE(table.write), _TRUNCATE(table.truncate), _SYNC(table.sync)
                self._tables[theirs] = (ours, *system)
            self._by_file[file] = self._tables[theirs]
            self._files[file] = Path(ctypes.string_at(name).decode()).name
            place.contents.value = ctypes.addressof(self._tables[theirs][0])
        return code

    def _deleted(self, vfs: int, name: bytes, sync: int) -> int:
        code: int = self._delete(vfs, name, sync)
        if code == 0:
            self._note(Event("delete", Path(name.decode()).name))
            if sync:  # the folder was synced as well
                self._note(Event("sync", Path(name.decode()).name))
        return code

    def _written(self, file: int, data: int, size: int, offset: int) -> int:
        code: int = self._by_file[file][1](file, data, size, offset)
        self._note(Event("write", self._files[file], offset, ctypes.string_at(data, size)))
        return code

    def _truncated(self, file: int, size: int) -> int:
        code: int = self._by_file[file][2](file, size)
        self._note(Event("truncate", self._files[file], size))
        return code

    def _synced(self, file: int, flags: int) -> int:
        code: int = self._by_file[file][3](file, flags)
        self._note(Event("sync", self._files[file]))
        return code

    def _note(self, event: Event) -> None:
        self.recording.events.append(event)
