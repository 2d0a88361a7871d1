"""Files in memory, which outlive the process and not a reboot: for what a kill must not take."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from pathlib import Path

# Where Linux keeps memory by name.
SHARED_MEMORY = Path("/dev/shm")


def place(store: Path, folder: Path = SHARED_MEMORY, suffix: str = "") -> Path:
    """Where what belongs to a store lies."""
    return folder / f"driftpost-{hashlib.sha256(os.fsencode(store.resolve())).hexdigest()[:24]}{suffix}"


def open_shared(path: Path, size: int, *, create: bool = True) -> mmap.mmap | None:
    """Map `size` bytes of a file of this user's own; None where that is not to be had.

    Args:
        path: of the file.
        size: bytes; a file of another size is cut or filled with zeros.
        create: whether to make it where it is missing.
    """
    try:
        # Others may write here too: no links are followed, and a file of somebody else's is not used.
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        return None
    try:
        facts = os.fstat(descriptor)
        if facts.st_uid != os.geteuid() or not stat.S_ISREG(facts.st_mode):
            return None
        os.ftruncate(descriptor, size)
        # Memory that is promised only would end the process with SIGBUS when there is none left.
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    except OSError:
        return None
    finally:
        os.close(descriptor)
