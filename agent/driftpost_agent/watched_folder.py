"""Inputs from a folder: each file is one guarded call, then moved to done/ or, with the reason, to failed/.

Files are best written elsewhere on the same disk, or under a name that begins with a dot, and renamed into
place. A file that is written in place is taken once it has stayed as it is for a while. One that was answered
when the power went and not yet moved is answered once more; one that can't be moved because the disk is full
or read-only is not, as it would be counted again at every look.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from driftpost_agent.array_files import SUFFIXES, FileRefused, read_inputs
from driftpost_agent.errors import ConfigurationInvalid, RequestRefused
from driftpost_agent.inference_protocol import InferRequest, encode_response
from driftpost_agent.verdict import GuardedResult
from driftpost_models.runtime import TensorSpec

log = logging.getLogger(__name__)

DONE, FAILED = "done", "failed"
# Files that one look takes: the next look comes at once, after the loop has proved that it lives.
MAX_TAKEN = 64
# Names that one look reads: a folder with more is being filled faster than it is emptied.
MAX_LISTED = 10_000
# Characters of a name in a log line or an answer's file; the file system's own limit is 255 bytes.
MAX_NAME_BYTES = 200
# Answers of a batch this large are not written out: the file would be larger than its input.
MAX_ANSWER_BYTES = 16 << 20
# Files that may wait to be moved away, each for a reason of its own, before no more are taken.
MAX_UNMOVED = 16

# Errors that a file has for itself: no rights to it, a bad place of the card under it.
_OF_THIS_FILE = frozenset({errno.EACCES, errno.EPERM, errno.EIO})

# Inode, size and time of change: a file is the same while these are.
_State = tuple[int, int, int]
Infer = Callable[[Mapping[str, NDArray[Any]], str], GuardedResult]


@dataclass
class FolderCounts:
    """Since the start."""

    done: int = 0
    failed: int = 0
    waiting: int = 0
    problem: str = ""


@dataclass(frozen=True)
class FolderRules:
    """How a folder is watched; sizes in bytes, times in seconds."""

    path: Path
    poll_s: float = 0.5
    settle_s: float = 1.0
    max_bytes: int = 64 << 20
    keep_bytes: int = 256 << 20
    answers: bool = True


@dataclass(frozen=True)
class _Outcome:
    """What came of a file: where it goes, and what is written beside it."""

    folder: str
    suffix: str = ""
    beside: bytes = b""


class WatchedFolder:
    """Takes files from a folder.

    Args:
        rules: see above.
        specs: the model's inputs now, and its name and version for answers.
        infer: one guarded call; raises RequestRefused.
        monotonic: seconds.
        progress: called after each look.

    Raises:
        ConfigurationInvalid: the folder can't be made or written.
    """

    def __init__(
        self,
        rules: FolderRules,
        *,
        specs: Callable[[], tuple[tuple[TensorSpec, ...], str, str]],
        infer: Infer,
        monotonic: Callable[[], float],
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._rules = rules
        self._specs = specs
        self._infer = infer
        self._monotonic = monotonic
        self._progress = progress
        self._seen: dict[str, tuple[_State, float]] = {}
        self._unmoved: dict[str, tuple[_State, _Outcome]] = {}
        self._kept_at: float | None = None
        self.counts = FolderCounts()
        try:
            rules.path.mkdir(parents=True, exist_ok=True)
            self._make_folders()
        except OSError as error:
            raise ConfigurationInvalid(
                "folder.path",
                f"{rules.path} can't be used ({error.strerror or error})",
                "Let the agent's user write to it, or leave folder.path out.",
            ) from error

    def run(self, exit_event: threading.Event) -> None:
        """Watch until the exit event."""
        while not exit_event.is_set():
            more = False
            try:
                more = self.look(exit_event)
            except OSError as error:
                # A card that is pulled out, a full disk: it may be there again the next time.
                if not self.counts.problem:
                    log.error("the watched folder can't be used: %s", error)
                self.counts.problem = str(error)
            self._progress()
            if not more:
                exit_event.wait(self._rules.poll_s)

    def look(self, exit_event: threading.Event | None = None) -> bool:
        """Take what is ready, the oldest first; whether more is.

        Raises:
            OSError: the folder, or the disk, does not allow it; nothing that was answered is forgotten.
        """
        self._make_folders()
        ready = self._ready()
        problem = ""
        for number, path in enumerate(ready):
            if number == MAX_TAKEN or (exit_event is not None and exit_event.is_set()):
                break
            try:
                wait = self._take(path)
            except PermissionError as error:
                # Of this file perhaps: those behind it need not wait for somebody to come and see.
                problem = str(error)
                if len(self._unmoved) >= MAX_UNMOVED:
                    raise
                continue
            if wait:
                # The model is being replaced or restarted: the files keep their place.
                self.counts.problem = wait
                return False
            self._progress()
        self._tidy()
        self.counts.problem = problem
        return len(ready) > MAX_TAKEN and not problem

    def _make_folders(self) -> None:
        for name in (DONE, FAILED):
            folder = self._rules.path / name
            folder.mkdir(exist_ok=True)
            # Whoever may write here may put a link there; where it leads is not ours to fill or to empty.
            if folder.is_symlink():
                raise NotADirectoryError(f"{folder} is a link and not a folder: remove it")

    def facts(self) -> dict[str, Any]:
        """For the status document."""
        return {"path": str(self._rules.path), **asdict(self.counts)}

    def _ready(self) -> list[Path]:
        now = self._monotonic()
        found: list[tuple[int, str]] = []
        seen: dict[str, tuple[_State, float]] = {}
        with os.scandir(self._rules.path) as entries:
            for entry in entries:
                if len(seen) >= MAX_LISTED:
                    break
                name = entry.name
                # What is neither a regular file nor named like an input is somebody else's: links lead out.
                if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                    continue
                try:
                    info = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if not stat.S_ISREG(info.st_mode):
                    continue
                state = (info.st_ino, info.st_size, info.st_mtime_ns)
                before, since = self._seen.get(name, (None, now))
                since = since if before == state else now
                seen[name] = (state, since)
                if now - since >= self._rules.settle_s:
                    found.append((info.st_mtime_ns, name))
        self._seen = seen
        self._unmoved = {
            name: (state, outcome)
            for name, (state, outcome) in self._unmoved.items()
            if name in seen and seen[name][0] == state
        }
        self.counts.waiting = len(seen) - len(found)
        # What was answered already goes first: while the disk does not take that, nothing else is answered.
        found.sort(key=lambda each: (each[1] not in self._unmoved, each))
        return [self._rules.path / name for _, name in found]

    def _take(self, path: Path) -> str:
        """Answer one file and move it away; why the model can't be asked now, "" where it could."""
        state = self._seen[path.name][0]
        if path.name in self._unmoved:
            outcome = self._unmoved[path.name][1]
        else:
            try:
                outcome = self._answered(path)
            except FileNotFoundError:
                return ""  # taken back by whoever put it there
            except RequestRefused as refusal:
                return refusal.problem
        self._unmoved[path.name] = state, outcome
        self._move(path, outcome)
        del self._unmoved[path.name]
        if outcome.folder == DONE:
            self.counts.done += 1
        else:
            self.counts.failed += 1
        return ""

    def _answered(self, path: Path) -> _Outcome:
        """Ask the model about one file.

        Raises:
            FileNotFoundError: it is gone.
            RequestRefused: the model can't be asked now.
        """
        shown = _shown(path.name)
        try:
            content = self._read(path)
            specs, model, version = self._specs()
            inputs = read_inputs(path.name, content, specs, self._rules.max_bytes)
            result = self._infer(inputs, shown[:MAX_NAME_BYTES])
        except FileRefused as refusal:
            return _refused(shown, str(refusal))
        except RequestRefused as refusal:
            if refusal.status >= 500:
                raise
            return _refused(shown, refusal.problem)
        answer = b""
        if self._rules.answers and self._rules.keep_bytes:
            _, answer = encode_response(InferRequest({}, shown), result, model, version)
        return _Outcome(DONE, ".json", answer if len(answer) <= MAX_ANSWER_BYTES else b"")

    def _move(self, path: Path, outcome: _Outcome) -> None:
        if outcome.folder == DONE and not self._rules.keep_bytes:
            path.unlink(missing_ok=True)
            return
        target = self._free_name(outcome.folder, path.name)
        if outcome.beside:
            _write(target.with_name(target.name + outcome.suffix), outcome.beside)
        with contextlib.suppress(FileNotFoundError):  # taken back while it was answered
            path.replace(target)

    def _read(self, path: Path) -> bytes:
        try:
            # Without following a link that was put in its place since the listing, or blocking on a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                size = os.fstat(descriptor).st_size
                if size > self._rules.max_bytes:
                    raise FileRefused(
                        f"it has {size} bytes, more than the {self._rules.max_bytes} allowed"
                        " (folder.max_file_mb)"
                    )
                return file.read(self._rules.max_bytes + 1)
        except OSError as error:
            if error.errno in _OF_THIS_FILE:
                raise FileRefused(f"the agent can't read it: {error.strerror}") from error
            raise

    def _free_name(self, folder: str, name: str) -> Path:
        """A name that is not taken, nor too long for what is written beside it."""
        raw = os.fsencode(name)
        dot = raw.rfind(b".")
        stem, suffix = raw[:dot][:MAX_NAME_BYTES], raw[dot:]
        for number in range(1_000_000):
            mark = b"" if not number else b"-%d" % number
            target = self._rules.path / folder / os.fsdecode(stem + mark + suffix)
            if not os.path.lexists(target):
                return target
        raise OSError(f"a million files in {folder}/ have one name")

    def _tidy(self) -> None:
        """Keep done/ and failed/ within their size, once in a while."""
        now = self._monotonic()
        if self._kept_at is not None and now - self._kept_at < max(10.0, self._rules.poll_s):
            return
        self._kept_at = now
        for name in (DONE, FAILED):
            # By descriptor: files are removed from this folder, from none that is put there meanwhile.
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            folder = os.open(self._rules.path / name, flags)
            try:
                self._tidy_one(folder)
            finally:
                os.close(folder)

    def _tidy_one(self, folder: int) -> None:
        files = []
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # somebody tidies as well
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        files.append((info.st_mtime_ns, info.st_size, entry.name))
        total = sum(size for _, size, _ in files)
        for _, size, name in sorted(files):
            if total <= self._rules.keep_bytes:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            total -= size


def _refused(shown: str, reason: str) -> _Outcome:
    log.warning("a watched file is refused", extra={"file": shown, "why": reason})
    return _Outcome(FAILED, ".reason", reason.encode("utf-8", "replace") + b"\n")


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; a link in the way is replaced and not followed."""
    draft = path.with_name(f".{path.name}"[:250])
    draft.unlink(missing_ok=True)
    with draft.open("xb") as file:
        file.write(content)
    draft.replace(path)


def _shown(name: str) -> str:
    """A name as it may stand in a log or an answer: no control characters, no broken text."""
    clean = os.fsencode(name).decode("utf-8", "replace")
    return json.dumps(clean, ensure_ascii=False)[1:-1] if not clean.isprintable() else clean
