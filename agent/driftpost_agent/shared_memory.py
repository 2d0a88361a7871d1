"""Files in memory, which outlive the process and not a reboot: for what a kill must not take.

Each store has a folder of its own, which nobody else may enter, under a name that nobody else can guess: it
is drawn with a token that lies beside the store and only the agent's user may read. A folder whose store is
gone is removed by the next agent that starts, of the same user. Where there is no such memory nothing is
kept: a kill then costs the windows that were not stored, and nobody can say how many rows those had.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path

# Where Linux keeps memory by name; another folder for systems that keep it elsewhere, and for tests.
VARIABLE = "DRIFTPOST_SHARED_MEMORY"
SHARED_MEMORY = "/dev/shm"
_PREFIX = "driftpost-"
# Where nobody can make anything: a folder of this name in shared memory could be anybody's.
_NOWHERE = Path(os.devnull) / "none"
# Says which store a folder belongs to, and is locked while an agent uses it.
_OWNER = "store"
_TOKEN = re.compile(rb"[0-9a-f]{32}")
_MOST_PATH_BYTES = 4096
# Seconds after which the folder of a store that is gone is removed: a store that is being moved is not.
_ORPHAN_AFTER_S = 3600.0


def root() -> Path:
    """Where the folders of all stores lie."""
    return Path(os.environ.get(VARIABLE) or SHARED_MEMORY)


def lock_file(store: Path) -> Path:
    """The file that claims a store, and holds the token of its folder in memory."""
    return store.with_name(store.name + ".lock")


class SharedFolder:
    """A store's folder in memory, held while it is in use.

    Attributes:
        path: of the folder; nothing can be opened there where there is no such memory.
    """

    def __init__(self, path: Path, owner: int | None) -> None:
        self.path = path
        self._owner = owner

    @classmethod
    def open(cls, store: Path, above: Path | None = None) -> SharedFolder:
        """The folder of a store, made where it is missing."""
        above = root() if above is None else above
        remove_orphans(above)
        token = _token(store, make=True)
        if token is None:
            return cls(_NOWHERE, None)
        path = above / _name(store, token)
        try:
            with contextlib.suppress(FileExistsError):
                path.mkdir(0o700)
            if not _own(path):
                return cls(_NOWHERE, None)
            owner = os.open(path / _OWNER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return cls(_NOWHERE, None)
        with contextlib.suppress(OSError):
            fcntl.flock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.truncate(owner, 0)
            os.pwrite(owner, os.fsencode(store.resolve()), 0)
        return cls(path, owner)

    def close(self, *, forget: bool) -> None:
        """Let go of it; with `forget` it is removed if nothing else is kept in it."""
        if self._owner is None:
            return
        if forget:
            with contextlib.suppress(OSError):
                if {entry.name for entry in self.path.iterdir()} <= {_OWNER}:
                    shutil.rmtree(self.path)
        os.close(self._owner)
        self._owner = None


def remove_orphans(above: Path) -> None:
    """Remove this user's folders whose store is gone or has another folder now, and that nobody uses."""
    with contextlib.suppress(OSError):
        for path in above.glob(f"{_PREFIX}*"):
            if _own(path) and _orphaned(path):
                shutil.rmtree(path, ignore_errors=True)


def open_shared(path: Path, size: int | None, *, create: bool = True) -> mmap.mmap | None:
    """Map a file of this user's own; None where that is not to be had.

    Args:
        path: of the file.
        size: bytes; a file of another size is cut or filled with zeros. None takes it as it is.
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
        if size is not None:
            os.ftruncate(descriptor, size)
            # Memory that is promised only would end the process with SIGBUS when there is none left.
            os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, facts.st_size if size is None else size)
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)


def _name(store: Path, token: bytes) -> str:
    return _PREFIX + hashlib.sha256(token + os.fsencode(store.resolve())).hexdigest()[:32]


def _token(store: Path, *, make: bool) -> bytes | None:
    """What the store's folder is named by; None where there is none and none can be made."""
    try:
        mode = os.O_RDWR | os.O_CREAT if make else os.O_RDONLY
        descriptor = os.open(lock_file(store), mode | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        token = os.pread(descriptor, 64, 0)
        if _TOKEN.fullmatch(token):
            return token
        if not make:
            return None
        token = secrets.token_hex(16).encode()
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, token, 0)
        return token
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _own(path: Path) -> bool:
    """Whether it is a folder of this user's that nobody else may enter."""
    facts = path.lstat()
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o077


def _orphaned(path: Path) -> bool:
    try:
        owner = os.open(path / _OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if time.time() - os.fstat(owner).st_mtime < _ORPHAN_AFTER_S:
            return False
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        store = Path(os.fsdecode(os.pread(owner, _MOST_PATH_BYTES, 0)))
        token = _token(store, make=False)
        return token is None or _name(store, token) != path.name
    except (OSError, ValueError):
        return False
    finally:
        os.close(owner)
