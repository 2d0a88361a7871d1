"""How many rows were taken in, in memory that outlives the process: what a kill loses can then be counted.

The mark is 24 bytes in shared memory (a RAM disk), so that counting every row costs no flash. After a kill
the next start compares it with the rows in the store: the difference was in the open window. After a reboot
there is no mark, and nothing is claimed.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import stat
import threading
from pathlib import Path

# What the first word of a mark is; anything else is another file.
_MAGIC = int.from_bytes(b"dpmark1\0", "little")
_SIZE = 24
# Where Linux keeps memory by name; it survives a process and not a reboot, which is just right.
SHARED_MEMORY = Path("/dev/shm")


class RowMark:
    """Counts the rows of one incarnation. A system without shared memory gets one that is forgotten."""

    def __init__(self, path: Path, mapping: mmap.mmap | None = None) -> None:
        self._path = path
        self._mapping = mapping
        self._words = memoryview(bytearray(_SIZE) if mapping is None else mapping).cast("Q")
        self._lock = threading.Lock()

    @classmethod
    def open(cls, store: Path, folder: Path = SHARED_MEMORY) -> RowMark:
        """The mark of a store, as its last process left it."""
        path = place(store, folder)
        try:
            # Others may write here too: no links are followed, and a file of somebody else's is not used.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
        except OSError:
            return cls(path)
        try:
            facts = os.fstat(descriptor)
            if facts.st_uid != os.geteuid() or not stat.S_ISREG(facts.st_mode):
                return cls(path)
            os.ftruncate(descriptor, _SIZE)
            # Memory that is promised only would end the process with SIGBUS when there is none left.
            os.posix_fallocate(descriptor, 0, _SIZE)
            mapping = mmap.mmap(descriptor, _SIZE)
        except OSError:
            return cls(path)
        finally:
            os.close(descriptor)
        return cls(path, mapping)

    def rows_of(self, incarnation: int) -> int:
        """Rows that incarnation took in, as far as the mark speaks of it; 0 otherwise."""
        known = self._words[0] == _MAGIC and self._words[1] == incarnation
        return int(self._words[2]) if known else 0

    def begin(self, incarnation: int) -> None:
        """Count for a new incarnation."""
        self._words[2] = 0
        self._words[1] = incarnation
        self._words[0] = _MAGIC

    def add(self, rows: int) -> None:
        """So many rows were taken in."""
        with self._lock:
            self._words[2] += rows

    def close(self, *, forget: bool = False) -> None:
        """Let go of the memory; the mark stays for the next start unless there is nothing to remember."""
        self._words.release()
        if self._mapping is not None:
            with contextlib.suppress(BufferError):
                self._mapping.close()
            if forget:
                with contextlib.suppress(OSError):
                    self._path.unlink()


def place(store: Path, folder: Path = SHARED_MEMORY) -> Path:
    """Where a store's mark lies."""
    return folder / f"driftpost-{hashlib.sha256(os.fsencode(store.resolve())).hexdigest()[:24]}"
