"""Memory of processes as the kernel charges it, with no more imported than that takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path


def resident_mb(pids: Sequence[int | str]) -> float:
    """Megabytes (2^20 bytes) that these processes hold together.

    What is private to each is added up, and every mapped file counted once: two Python processes share the
    interpreter's and numpy's code, so that adding up their resident sizes would count it twice.
    """
    anonymous = 0
    files: dict[str, int] = defaultdict(int)
    for pid in pids:
        own: dict[str, int] = defaultdict(int)
        name, resident = "", 0
        for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
            words = line.split()
            if not words[0].endswith(":"):
                name = words[5] if len(words) > 5 else ""
            elif words[0] == "Rss:":
                resident = int(words[1])
            elif words[0] == "Anonymous:":
                anonymous += int(words[1])
                own[name] += resident - int(words[1])
        for mapped, size in own.items():
            files[mapped] = max(files[mapped], size)
    return (anonymous + sum(files.values())) / 1024
