"""What the agent does as its disk fills up: coarser windows, then memory only, and back again by itself.

A reserve is a file beside the store that holds nothing but room. While the rest of the disk is short,
windows that wait are kept coarser, so that the store does not grow. When a write fails for lack of room the
reserve is given up, which lets the store merge, delete and say so; what still can't be written waits in
memory. When there is room again the reserve is made anew and everything has its full resolution.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

DISK_SHORT = "disk_short"
STORE_UNWRITABLE = "store_unwritable"
# Room beside the reserve below which windows are kept coarser, and above which they no longer are; in
# reserves.
SHORT = 0.5
ROOMY = 1.0
# Share of what the store may let wait that is given up when the disk is short.
GIVE_UP = 0.5
# Bytes that a start may write: a description with a baseline, and the log's pages for it.
START_BYTES = 512 << 10


class Findings(Protocol):
    """Where it is told (`RuntimeFindings`)."""

    def raise_(self, kind: str, text: str) -> None:
        """Something has begun."""

    def clear(self, kind: str, text: str) -> None:
        """It is over."""

    def stands(self, kind: str) -> bool:
        """Whether it stands."""


class Shrinking(Protocol):
    """What of the store is needed here."""

    def shrink(self, excess: int, because: str = ...) -> None:
        """Give back about so many bytes; 0 for none."""

    def bytes_on_disk(self) -> int:
        """Its size."""


def free_bytes(folder: Path) -> int:
    """Room on a folder's disk for this user."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


class DiskRoom:
    """Watches the disk under the store. Call `look` every few seconds, and at once when a write has failed.

    Args:
        store: what grows on it.
        folder: of the store.
        reserve: bytes that are held back; 0 for none.
        findings: where it is told.
        free: room on the disk; replaced in tests.

    Attributes:
        short: whether windows are kept coarser.
    """

    def __init__(
        self,
        store: Shrinking,
        folder: Path,
        reserve: int,
        findings: Findings,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._store = store
        self._folder = folder
        self._reserve = reserve
        self._findings = findings
        self._free = free
        self.short = False
        self._trouble = ""

    @property
    def reserved(self) -> bool:
        """Whether the reserve is there."""
        try:
            return reserve_file(self._folder).stat().st_size >= self._reserve > 0
        except OSError:
            return False

    def look(self, problem: str) -> None:
        """Do what is due.

        Args:
            problem: why the store can't be written now, "" while it can.
        """
        try:
            free = self._free(self._folder)
        except OSError as error:
            log.warning("the room on the disk is not known: %s", error)
            return
        if problem and for_lack_of_room(problem):
            self._give_up()
        elif not problem and not self.reserved and self._reserve and free >= (1 + ROOMY) * self._reserve:
            self._take(self._reserve)
            free -= self._reserve
        self._coarsen(free, problem)
        self._tell(problem)

    def _coarsen(self, free: int, problem: str) -> None:
        if problem or free < SHORT * self._reserve or (self._reserve and not self.reserved):
            self.short = True
            # Nothing is dropped: history goes, then the resolution of what waits.
            with contextlib.suppress(sqlite3.Error):
                self._store.shrink(max(1, round(GIVE_UP * self._store.bytes_on_disk())), "disk")
            if not problem:
                self._findings.raise_(
                    DISK_SHORT,
                    f"{free / 2**20:.1f} MiB are left on the disk of the store: windows are kept coarser",
                )
        elif self.short and free >= ROOMY * self._reserve:
            self.short = False
            self._store.shrink(0, "disk")
            self._findings.clear(DISK_SHORT, f"{free / 2**20:.1f} MiB are free on the disk of the store")

    def _tell(self, problem: str) -> None:
        if problem:
            if problem != self._trouble:
                self._trouble = problem
            # Stored only when some room or the disk is back; told again until then.
            self._findings.raise_(
                STORE_UNWRITABLE, f"the store can't be written, windows wait in memory: {problem}"
            )
        elif self._trouble:
            if not self._findings.stands(STORE_UNWRITABLE):
                self._findings.raise_(
                    STORE_UNWRITABLE,
                    f"the store could not be written, windows waited in memory: {self._trouble}",
                )
            self._findings.clear(STORE_UNWRITABLE, "the store can be written again")
            if not self._findings.stands(STORE_UNWRITABLE):
                self._trouble = ""

    def _give_up(self) -> None:
        if self.reserved:
            log.error("the disk is full: the reserve of %.1f MiB is given up", self._reserve / 2**20)
        give_up_reserve(self._folder)

    def _take(self, size: int) -> None:
        path = reserve_file(self._folder)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            log.warning("no reserve can be made: %s", error)
            return
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            log.warning("no reserve can be made: %s", error)
            with contextlib.suppress(OSError):
                path.unlink()
        finally:
            os.close(descriptor)


def reserve_file(folder: Path) -> Path:
    """Where the reserve lies."""
    return folder / "reserve"


def give_up_reserve(folder: Path) -> bool:
    """Free the room that was held back; whether there was any."""
    try:
        reserve_file(folder).unlink()
    except OSError:
        return False
    return True


def room_to_start(folder: Path) -> None:
    """Give up the reserve where a start could not write what it has to: descriptions, accounts, findings."""
    with contextlib.suppress(OSError):
        if reserve_file(folder).exists() and free_bytes(folder) < START_BYTES:
            log.error("the disk is full: the reserve is given up so that the agent can start")
            give_up_reserve(folder)


def for_lack_of_room(problem: str) -> bool:
    """Whether a write failed because there was no room for it."""
    # SQLite says "disk I/O error" where a file may not grow any more (a quota, a limit of the process).
    text = problem.lower()
    return any(word in text for word in ("full", "no space", "quota", "too large", "disk i/o error"))
