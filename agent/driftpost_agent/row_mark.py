"""How many rows were taken in, in memory that outlives the process: what a kill loses can then be counted.

The mark is a few words in shared memory (a RAM disk), so that counting every row costs no flash. After a kill
the next start compares it with the rows in the store: the difference was in the open window. After a reboot
there is no mark, and nothing is claimed.

Each recorder has a word of its own, which it sets to its total: nobody has to add to what another one writes,
so that counting a row on the hot path takes neither a lock nor a call.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from pathlib import Path
from typing import NamedTuple

from driftpost_agent.shared_memory import SharedFolder, open_shared

# What the first word of a mark is; anything else is another file.
_MAGIC = int.from_bytes(b"dpmark1\0", "little")
# Recorders that count at a time, the shared first word left out: while a bundle is replaced there are two.
_SLOTS = 8
_SIZE = 8 * (3 + _SLOTS)


class Slot(NamedTuple):
    """Where one recorder keeps its total.

    Attributes:
        total: one unsigned 64-bit number, which the recorder sets.
        word: which of the mark's; None where all were taken and the total is forgotten.
    """

    total: memoryview
    word: int | None


class RowMark:
    """Counts the rows of one incarnation. A system without shared memory gets one that is forgotten."""

    def __init__(
        self, path: Path, mapping: mmap.mmap | None = None, folder: SharedFolder | None = None
    ) -> None:
        self._path = path
        self._folder = folder
        self._mapping = mapping
        self._words = memoryview(bytearray(_SIZE) if mapping is None else mapping).cast("Q")
        self._lock = threading.Lock()
        self._free = list(range(3, 3 + _SLOTS))

    @classmethod
    def open(cls, store: Path, above: Path | None = None) -> RowMark:
        """The mark of a store, as its last process left it.

        Args:
            store: path of the database.
            above: where the stores' folders in memory lie, if not where the system keeps them.
        """
        folder = SharedFolder.open(store, above)
        path = folder.path / "rows"
        return cls(path, open_shared(path, _SIZE), folder)

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._path.parent

    def rows_of(self, incarnation: int) -> int:
        """Rows that incarnation took in, as far as the mark speaks of it; 0 otherwise."""
        known = self._words[0] == _MAGIC and self._words[1] == incarnation
        return sum(self._words[2:]) if known else 0

    def begin(self, incarnation: int) -> None:
        """Count for a new incarnation."""
        for word in range(2, 3 + _SLOTS):
            self._words[word] = 0
        self._words[1] = incarnation
        self._words[0] = _MAGIC

    def add(self, rows: int) -> None:
        """So many rows were taken in."""
        with self._lock:
            self._words[2] += rows

    def slot(self) -> Slot:
        """A word for one recorder's own total; `release` it when that has ended."""
        with self._lock:
            if not self._free:
                return Slot(memoryview(bytearray(8)).cast("Q"), None)
            word = self._free.pop()
            self._words[word] = 0
            return Slot(self._words[word : word + 1], word)

    def release(self, slot: Slot) -> None:
        """Take a word back; what it counted stays counted."""
        with self._lock:
            if slot.word is not None:
                # This order: a kill in between forgets rows, the other would count them twice.
                rows, slot.total[0] = slot.total[0], 0
                self._words[2] += rows
                self._free.append(slot.word)
            slot.total.release()

    def close(self, *, forget: bool = False) -> None:
        """Let go of the memory; the mark stays for the next start unless there is nothing to remember."""
        self._words.release()
        if self._mapping is not None:
            with contextlib.suppress(BufferError):
                self._mapping.close()
            if forget:
                with contextlib.suppress(OSError):
                    self._path.unlink()
        if self._folder is not None:
            self._folder.close(forget=forget)
