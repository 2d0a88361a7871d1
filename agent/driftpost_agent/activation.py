"""Which bundle is active here: verified, self-tested, swapped in one step, and rolled back when it fails.

The folder beside the store holds installed bundles under their ids and one small pointer file that names the
active one and its predecessor. The pointer is replaced atomically: a power cut leaves the old or the new one.
The running daemon follows the pointer; `driftpost agent activate` only moves it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from driftpost_agent.errors import ActivationFailed
from driftpost_models.bundle import Bundle
from driftpost_models.errors import BundleError, BundleUntrusted, ModelError
from driftpost_models.runtime import Runtime
from driftpost_models.signing import PublicKey

log = logging.getLogger(__name__)

POINTER_VERSION = 2
# Bytes; the pointer is a few short fields.
MAX_POINTER_BYTES = 4096
# What is remembered of why a bundle did not start, characters.
MAX_PROBLEM_CHARS = 400
# Installed bundles that are kept: the active one and its predecessor, to which a device can go back offline.
KEPT_BUNDLES = 2

# What tells one writing of the pointer file from another: inode and time of change in ns.
PointerStamp = tuple[int, int]
StartRuntime = Callable[[Bundle], Runtime]


@dataclass(frozen=True)
class Pointer:
    """What is active.

    Attributes:
        active: id of the bundle that serves.
        previous: id of the one before, "" when there was none.
        configured: id that `model.bundle` had when it was last activated. When the file there changes, the
            new one is activated; until then an activation by command stays in force over restarts.
        problem: why this one serves and not the one that was asked for, "" if it is that one.
    """

    active: str
    previous: str = ""
    configured: str = ""
    problem: str = ""


class Activation:
    """The active bundle of one device.

    Args:
        folder: where bundles are installed.
        trusted: public keys whose bundles may run.
        allow_unsigned: take bundles as they are when no key is configured.
        start: loads a bundle's model in a new process; used for self-tests.
    """

    def __init__(
        self, folder: Path, trusted: Sequence[PublicKey], *, allow_unsigned: bool, start: StartRuntime
    ) -> None:
        self._folder = folder
        self._trusted = tuple(trusted)
        self._allow_unsigned = allow_unsigned
        self._start = start

    def pointer(self) -> Pointer | None:
        """What is active; None when nothing ever was, or the pointer can't be read."""
        try:
            with (self._folder / "active.json").open("rb") as file:
                plain = json.loads(file.read(MAX_POINTER_BYTES))
            if plain["version"] != POINTER_VERSION:
                raise ValueError(f"version {plain['version']}")
            fields = {name: plain[name] for name in ("active", "previous", "configured", "problem")}
            if not all(isinstance(value, str) for value in fields.values()):
                raise TypeError("not text")
            return Pointer(**fields)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning(
                "the pointer to the active bundle can't be read, the configured one is used: %s", error
            )
            return None

    def stamp(self) -> PointerStamp | None:
        """Changes whenever the pointer is written, also with the same content; None where there is none."""
        try:
            found = (self._folder / "active.json").stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def verify(self, path: Path) -> Bundle:
        """Open a bundle, checking every hash and its signature.

        Raises:
            ActivationFailed: it is damaged, not signed by a trusted key, or there is no key to check it with.
        """
        try:
            if not self._trusted and not self._allow_unsigned:
                raise BundleUntrusted(
                    "no key is trusted here: name the public key of whoever built it in model.trusted_keys, "
                    "or set model.allow_unsigned = true for a trial"
                )
            return Bundle.open(path, self._trusted or None)
        except BundleError as error:
            raise ActivationFailed(str(path), "verify", str(error), self._active_id()) from error

    def self_test(self, bundle: Bundle) -> None:
        """Replay the golden inputs on a model started for nothing else: streaming models keep state.

        Raises:
            ActivationFailed: the model does not start, or its answers differ from the bundle's.
        """
        try:
            runtime = self._start(bundle)
        except ModelError as error:
            raise ActivationFailed(_title(bundle), "start", str(error), self._active_id()) from error
        try:
            outcome = bundle.self_test(runtime)
        except ModelError as error:
            raise ActivationFailed(_title(bundle), "self-test", str(error), self._active_id()) from error
        finally:
            runtime.close()
        if not outcome.ok:
            raise ActivationFailed(
                _title(bundle), "self-test", outcome.text, self._active_id(), outcome.differing
            )

    def activate(self, path: Path, *, configured: bool = False) -> Bundle:
        """Verify, self-test and install a bundle, and make it the active one.

        Args:
            path: of the bundle.
            configured: whether it is the one that the configuration names.

        Raises:
            ActivationFailed: nothing has changed.
        """
        bundle = self.verify(path)
        self.self_test(bundle)
        with self._changing():
            self._install(path, bundle)
            before = self.pointer()
            after = Pointer(bundle.id, configured=before.configured if before else "")
            if before is not None:
                after = replace(
                    after, previous=before.previous if before.active == bundle.id else before.active
                )
            self._write(replace(after, configured=bundle.id) if configured else after)
            self._remove_old()
        return bundle

    def roll_back(self, failed: str, problem: str) -> Bundle:
        """Make the predecessor of `failed` active again and return it, verified.

        Raises:
            ActivationFailed: there is no predecessor, or it can't be used either.
        """
        with self._changing():
            pointer = self.pointer()
            if pointer is None or pointer.active != failed or not pointer.previous:
                raise ActivationFailed(
                    failed, "start", f"{problem}; there is no earlier bundle to go back to"
                )
            bundle = self.verify(self.installed(pointer.previous))
            after = replace(
                pointer, active=pointer.previous, previous="", problem=problem[:MAX_PROBLEM_CHARS]
            )
            self._write(after)
        return bundle

    def at_start(self, configured: Path) -> tuple[Bundle, str]:
        """The bundle to serve when the agent starts, and what went wrong on the way to it ("" if nothing).

        The configured bundle is activated when it is not the one that was configured before. When it can't
        be, the one that was active stays: a device in the field rather guards an older model than none.

        Raises:
            ActivationFailed: there is nothing that can be served.
        """
        pointer = self.pointer()
        try:
            wanted = self.verify(configured)
            if pointer is None or pointer.configured != wanted.id:
                return self.activate(configured, configured=True), ""
        except ActivationFailed as error:
            if pointer is None:
                raise
            log.error("%s", error)
            problem = str(error)
        else:
            problem = ""
        try:
            return self.verify(self.installed(pointer.active)), problem
        except ActivationFailed as error:
            if pointer.previous:
                return self.roll_back(pointer.active, str(error)), str(error)
            # What was installed is damaged; the configured file is all there is.
            return self.activate(configured, configured=True), str(error)

    def standing_problem(self) -> str:
        """Why another bundle serves than was asked for, since whichever start; "" if it is the right one."""
        pointer = self.pointer()
        return pointer.problem if pointer else ""

    def installed(self, bundle_id: str) -> Path:
        """Where a bundle lies once installed."""
        return self._folder / f"{bundle_id}.bundle"

    def _active_id(self) -> str | None:
        pointer = self.pointer()
        return pointer.active if pointer else None

    def _install(self, path: Path, bundle: Bundle) -> None:
        target = self.installed(bundle.id)
        try:
            if path.resolve() != target.resolve():
                _write_atomically(target, path.read_bytes())
        except OSError as error:
            raise ActivationFailed(
                str(path), "install", f"{error.strerror or error} in {self._folder}", self._active_id()
            ) from error

    def _write(self, pointer: Pointer) -> None:
        document = {"version": POINTER_VERSION, **asdict(pointer)}
        try:
            _write_atomically(self._folder / "active.json", json.dumps(document, indent=1).encode() + b"\n")
        except OSError as error:
            raise ActivationFailed(
                pointer.active, "install", f"{error.strerror or error} in {self._folder}", self._active_id()
            ) from error

    def _remove_old(self) -> None:
        pointer = self.pointer()
        keep = {pointer.active, pointer.previous} if pointer else set()
        for file in self._folder.glob("*.bundle"):
            if file.stem not in keep:
                file.unlink(missing_ok=True)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the folder against another process that activates at the same time."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder / "active.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise ActivationFailed(
                "the bundle", "install", f"{error.strerror or error} in {self._folder}", self._active_id()
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _title(bundle: Bundle) -> str:
    return f"{bundle.name} {bundle.version} ({bundle.id[:12]})"


def _write_atomically(path: Path, content: bytes) -> None:
    """Write beside, flush to the disk, rename over: a reader sees the old content or the new."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
