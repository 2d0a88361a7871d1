"""Memory that only the start needed goes back to the system.

Importing libraries and loading a model touches tens of megabytes of code that is never run again, and frees
heap that the C library keeps. Both count as resident until a process says otherwise.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-([x-])p [0-9a-f]+ \S+ [1-9]\d* +/")


def give_back(smaps: Path = Path("/proc/self/smaps")) -> None:
    """Return freed heap (glibc) and drop mapped code that this process holds no copies of (Linux).

    What is dropped stays in the system's cache of files and comes back, some pages at a time, when it is run
    or read again; nothing else changes. Where the system has no such calls, nothing happens.

    Args:
        smaps: the process's mappings.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.malloc_trim(0)
        library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, end in list(unchanged(smaps.read_text(encoding="utf-8", errors="replace"))):
            library.madvise(start, end - start, mmap.MADV_DONTNEED)


def unchanged(smaps: str) -> Iterator[tuple[int, int]]:
    """Mappings of files that can not be written to and of which no page is a copy of the process's own.

    A library's relocated tables are such copies: dropping them would lose the relocations.

    Args:
        smaps: text of /proc/PID/smaps.

    Yields:
        First address, and the one behind the last.
    """
    at, copied = (0, 0), True
    for line in smaps.splitlines():
        head = _HEAD.match(line)
        if head is not None:
            at, copied = (int(head[1], 16), int(head[2], 16)), False
        elif not line[:1].isupper():
            copied = True  # a mapping of another kind begins
        elif line.startswith("Anonymous:"):
            copied = copied or line.split()[1] != "0"
        elif line.startswith("Swap:") and not copied:
            if line.split()[1] == "0":
                yield at
            copied = True
