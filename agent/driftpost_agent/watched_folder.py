"""Inputs from a folder: each file is one guarded call, then moved to done/ or, with the reason, to failed/.

Files are best written elsewhere on the same disk, or under a name that begins with a dot, and renamed into
place. A file that is written in place is taken once it has stayed as it is for a while. One that was answered
when the power went and not yet moved is answered once more.
"""

from __future__ import annotations

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
        self._seen: dict[str, tuple[tuple[int, int, int], float]] = {}
        self._kept_at: float | None = None
        self.counts = FolderCounts()
        try:
            for folder in (rules.path, rules.path / DONE, rules.path / FAILED):
                folder.mkdir(parents=True, exist_ok=True)
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
                self.counts.problem = ""
            except OSError as error:
                # A card that is pulled out, a full disk: it may be there again the next time.
                if not self.counts.problem:
                    log.error("the watched folder can't be used: %s", error)
                self.counts.problem = str(error)
            self._progress()
            if not more:
                exit_event.wait(self._rules.poll_s)

    def look(self, exit_event: threading.Event | None = None) -> bool:
        """Take what is ready, the oldest first; whether more is."""
        ready = self._ready()
        for path in ready[:MAX_TAKEN]:
            if (exit_event is not None and exit_event.is_set()) or not self._take(path):
                return False
            self._progress()
        self._tidy()
        return len(ready) > MAX_TAKEN

    def facts(self) -> dict[str, Any]:
        """For the status document."""
        return {"path": str(self._rules.path), **asdict(self.counts)}

    def _ready(self) -> list[Path]:
        now = self._monotonic()
        found: list[tuple[int, str]] = []
        seen: dict[str, tuple[tuple[int, int, int], float]] = {}
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
        self.counts.waiting = len(seen) - len(found)
        return [self._rules.path / name for _, name in sorted(found)]

    def _take(self, path: Path) -> bool:
        """Answer one file; False where the model can't be asked now."""
        shown = _shown(path.name)
        try:
            content = self._read(path)
        except FileNotFoundError:
            return True  # taken back by whoever put it there
        except FileRefused as refusal:
            self._fail(path, str(refusal))
            return True
        specs, model, version = self._specs()
        try:
            inputs = read_inputs(path.name, content, specs, self._rules.max_bytes)
            result = self._infer(inputs, shown[:MAX_NAME_BYTES])
        except FileRefused as refusal:
            self._fail(path, str(refusal))
            return True
        except RequestRefused as refusal:
            if refusal.status >= 500:
                # The model is being replaced or restarted: the file keeps its place.
                self.counts.problem = refusal.problem
                return False
            self._fail(path, refusal.problem)
            return True
        answer = b""
        if self._rules.answers and self._rules.keep_bytes:
            _, answer = encode_response(InferRequest({}, shown), result, model, version)
        if len(answer) > MAX_ANSWER_BYTES:
            answer = b""
        target = self._free_name(DONE, path.name)
        if answer:
            _write(target.with_name(f"{target.name}.json"), answer)
        if self._rules.keep_bytes:
            path.replace(target)
        else:
            path.unlink(missing_ok=True)
        self.counts.done += 1
        return True

    def _read(self, path: Path) -> bytes:
        # Without following a link that was put in its place since the listing, or blocking on a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            if size > self._rules.max_bytes:
                raise FileRefused(
                    f"it has {size} bytes, more than the {self._rules.max_bytes} allowed (folder.max_file_mb)"
                )
            return file.read(self._rules.max_bytes + 1)

    def _fail(self, path: Path, reason: str) -> None:
        log.warning("a watched file is refused", extra={"file": _shown(path.name), "why": reason})
        target = self._free_name(FAILED, path.name)
        _write(target.with_name(f"{target.name}.reason"), reason.encode("utf-8", "replace") + b"\n")
        path.replace(target)
        self.counts.failed += 1

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
        for folder in (DONE, FAILED):
            files = []
            with os.scandir(self._rules.path / folder) as entries:
                for entry in entries:
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        files.append((info.st_mtime_ns, info.st_size, entry.path))
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= self._rules.keep_bytes:
                    break
                Path(path).unlink(missing_ok=True)
                total -= size


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
