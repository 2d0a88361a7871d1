"""The store's file: claimed by one process, opened with its pragmas, set aside when it is damaged."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import sqlite3
from pathlib import Path

from driftpost_agent.errors import StoreUnusable
from driftpost_agent.migrations import migrate, up_to_date
from driftpost_agent.shared_memory import lock_file

log = logging.getLogger(__name__)

# Bytes. A window's transaction touches eight pages, of most of them a few bytes: with SQLite's 4 kB a day of
# five-minute windows writes 10 MB, with 1 kB 4 MB and with these 3 MB (`make bench`).
PAGE_BYTES = 512
# Pages after which the log is folded back into the database: at some 8 a window, every twenty hours, which
# writes pages that change with every window once. The log takes a megabyte.
WAL_AUTOCHECKPOINT_PAGES = 2000
# Bytes the log is cut back to after that.
JOURNAL_SIZE_LIMIT = 1 << 20
# Milliseconds to wait for a reader (`sqlite-utils`, `driftpost agent status`) that is in the way.
BUSY_TIMEOUT_MS = 5_000
# Files of damaged databases from which on the log says that the card is failing. All are kept: what fills the
# disk then meets what any full disk meets.
MANY_SET_ASIDE = 8
_CHUNK_BYTES = 1 << 20

_SQLITE_CORRUPT = 11
_SQLITE_NOTADB = 26


def claim_file(path: Path) -> int:
    """Take the store for this process alone; the kernel gives it back however the process ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreUnusable(
            path, "another agent uses it", "Stop that one, or give this one a store.path of its own."
        ) from error
    return descriptor


def connect(path: Path, synchronous: str) -> sqlite3.Connection:
    """Open or create the database, check it and bring its schema up to date.

    Args:
        path: of the file.
        synchronous: "full" or "normal".

    Raises:
        sqlite3.DatabaseError: it can't be opened; `damaged` tells whether its content is at fault.
    """
    begun = path.exists()
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # Both take effect only in a file that has no tables yet.
        connection.execute(f"pragma page_size = {PAGE_BYTES}")
        connection.execute("pragma auto_vacuum = incremental")
        connection.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("pragma journal_mode = wal")
        connection.execute(f"pragma synchronous = {'normal' if synchronous == 'normal' else 'full'}")
        connection.execute(f"pragma wal_autocheckpoint = {WAL_AUTOCHECKPOINT_PAGES}")
        connection.execute(f"pragma journal_size_limit = {JOURNAL_SIZE_LIMIT}")
        verdict = connection.execute("pragma quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise _Damaged(verdict)
        if not up_to_date(connection):
            from sqlite_utils import Database  # noqa: PLC0415 - see `up_to_date`

            migrate(Database(connection))
        if not begun:
            # SQLite removes the journal that it made the file with and does not sync the folder: a power cut
            # hours later could bring that journal back and roll the file back to nothing.
            sync_folder(path.parent)
    except UnicodeDecodeError as error:
        connection.close()
        # SQLite quotes the damaged schema in its message, which Python then can't read.
        raise _Damaged("its schema is damaged") from error
    except BaseException:
        connection.close()
        raise
    return connection


def sync_folder(folder: Path) -> None:
    """Have the card hold which files there are."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Damaged(sqlite3.DatabaseError):
    """The file opens, but its pages contradict each other."""


def damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether the file's content is at fault, and not the disk, the folder or another process."""
    if isinstance(error, _Damaged):
        return True
    if isinstance(error, (sqlite3.OperationalError, sqlite3.IntegrityError, sqlite3.ProgrammingError)):
        return False
    # Python 3.10 does not carry SQLite's code; there, a plain DatabaseError is one of these two.
    return getattr(error, "sqlite_errorcode", _SQLITE_CORRUPT) & 0xFF in (_SQLITE_CORRUPT, _SQLITE_NOTADB)


def suspect(path: Path) -> None:
    """Leave word that the file proved damaged in use: the next start sets it aside, whatever a check says."""
    with contextlib.suppress(OSError):
        _suspicion(path).touch()


def is_suspect(path: Path) -> bool:
    """Whether the file proved damaged in use."""
    return _suspicion(path).exists()


def _suspicion(path: Path) -> Path:
    return path.with_name(path.name + ".suspect")


def move_aside(path: Path) -> Path:
    """Rename a damaged database with its log, never over an earlier one; returns its new name.

    Of several with the same content one is kept, so that a start that fails over and over fills no disk.
    """
    earlier = sorted(set_aside(path))
    number = earlier[-1] + 1 if earlier else 1
    for n in reversed(earlier):
        there = zip(database_files(path)[:2], database_files(_aside(path, n))[:2], strict=True)
        if all(_same(one, other) for one, other in there):
            number = n
            break
    for file, aside in zip(database_files(path), database_files(_aside(path, number)), strict=True):
        if file.exists():
            file.replace(aside)
    _suspicion(path).unlink(missing_ok=True)
    if len(earlier) >= MANY_SET_ASIDE:
        log.error(
            "%d damaged databases lie beside %s: replace the card; move them away once they are looked at",
            len(earlier) + 1,
            path,
        )
    return _aside(path, number)


def set_aside(path: Path) -> list[int]:
    """Numbers of the damaged databases that lie beside a store."""
    found = (re.fullmatch(r".*\.damaged-([0-9]{1,9})", file.name) for file in path.parent.iterdir())
    return [
        int(match[1]) for match in found if match is not None and match[0] == _aside(path, int(match[1])).name
    ]


def checksum(path: Path) -> str:
    """SHA-256 of a file in hex; "" where it can't be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except FileNotFoundError:
        return ""
    except OSError as error:
        log.warning("%s can't be read: %s", path, error)
        return ""
    return digest.hexdigest()


def _same(one: Path, other: Path) -> bool:
    if not one.exists() or not other.exists():
        return one.exists() == other.exists()
    return one.stat().st_size == other.stat().st_size and checksum(one) == checksum(other) != ""


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.damaged-{number}")


def database_files(path: Path) -> tuple[Path, ...]:
    """The database with its log and shared memory, whether they exist or not."""
    return (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm"))


def unusable(path: Path, error: sqlite3.Error | OSError) -> StoreUnusable:
    """What a failed open or write means for a person, and what to do about it."""
    text = str(error).lower()
    remedy = "Check the disk and store.path."
    if "full" in text or "no space" in text:
        remedy = "Free some space on its disk."
    elif "readonly" in text or "read-only" in text or "permission" in text or "unable to open" in text:
        remedy = "Let the agent's user write to its folder, or change store.path."
    elif "locked" in text:
        remedy = "Close the program that has it open."
    problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return StoreUnusable(path, problem, remedy)
