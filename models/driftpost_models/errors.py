"""Everything that can go wrong in this package, as one tree.

ModelError
├── ModelRefused          the model can not be guarded: reason and remedy
├── InputMismatch         a tensor does not fit the model's signature
├── InferenceFailed       the runtime answered with an error; it can be called again
├── RuntimeCrashed        the child process that held the model ended or hung
│   └── RuntimeBackingOff the child is not started again yet
├── ReferenceRefused      the reference data can not be read or do not fit the model
├── TableRefused          recorded data can not be read, or do not fit what they are replayed against
├── ConfigError           an unknown or wrong key in a policy or probes file
├── ProbeError            a probe's stored configuration is not one this version knows
├── KeyProblem            a signing or public key can not be read or written
└── BundleError
    ├── BundleMalformed   the file is not a bundle, or was damaged or tampered with
    ├── BundleTooNew      made by a newer driftpost
    └── BundleUntrusted   not signed, or not by a trusted key
"""

from __future__ import annotations

from pathlib import Path


class ModelError(Exception):
    """Base of all errors of this package."""


class ModelRefused(ModelError):
    """The model can not be loaded or guarded.

    Attributes:
        reason: what is wrong with it, in one sentence.
        remedy: what a person should do next.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason = reason if reason.endswith(".") else f"{reason}."
        self.remedy = remedy
        super().__init__(f"{self.reason} {remedy}".strip())


class InputMismatch(ModelError):
    """A tensor does not fit the model's signature.

    Attributes:
        tensor: the input's name.
        problem: `missing`, `unknown`, `shape` or `dtype`.
        expected: what the model takes, readable.
        got: what was given, readable.
    """

    def __init__(self, tensor: str, problem: str, expected: str, got: str) -> None:
        self.tensor = tensor
        self.problem = problem
        self.expected = expected
        self.got = got
        super().__init__(f"input {tensor!r}: {problem}: the model takes {expected}, but got {got}")


class InferenceFailed(ModelError):
    """The runtime reported an error for this call; the model is still loaded."""


class RuntimeCrashed(ModelError):
    """The child process that held the model ended or was ended.

    Attributes:
        cause: `signal`, `exit`, `deadline`, `protocol` or `ended`.
        detail: the signal's name, the exit status or the deadline.
        log: the last lines that the child wrote to its standard error.
    """

    def __init__(self, cause: str, detail: str, log: str = "") -> None:
        self.cause = cause
        self.detail = detail
        self.log = log
        message = {
            "signal": f"the model's process was ended by {detail}",
            "exit": f"the model's process ended with status {detail}",
            "deadline": f"the model did not answer within {detail} and was ended",
            "protocol": f"the model's process sent something unreadable ({detail}) and was ended",
            "ended": f"the model's process was ended: {detail}",
            "back-off": f"the model's process crashed; it is started again in {detail}",
        }.get(cause, detail)
        # Runtimes greet on standard error when they start; that is no last word.
        last = [line for line in log.strip().splitlines() if not line.startswith(("INFO:", "WARNING:"))][-1:]
        super().__init__(message + (f"; its last words: {last[0][:300]}" if last else ""))


class RuntimeBackingOff(RuntimeCrashed):
    """The child crashed and is not started again yet.

    Attributes:
        retry_in_s: seconds until a call will start it again.
    """

    def __init__(self, retry_in_s: float) -> None:
        self.retry_in_s = retry_in_s
        super().__init__("back-off", f"{retry_in_s:.1f} s")


class ReferenceRefused(ModelError):
    """The reference data can not be read, or do not fit the model."""


class TableRefused(ModelError):
    """Recorded data can not be read, or do not fit what they are replayed against.

    Attributes:
        path: the file.
        problem: what is wrong and what to do.
        line: line of the file, counted from 1; None where it is not one line's fault.
    """

    def __init__(self, path: Path, problem: str, *, line: int | None = None) -> None:
        self.path = path
        self.problem = problem
        self.line = line
        place = f", line {line}:" if line is not None else ":" if problem[:1].isdigit() else ""
        super().__init__(f"{path.name}{place} {problem}")


class ConfigError(ModelError):
    """A policy or probes file holds an unknown key or a wrong value.

    Attributes:
        key: the dotted path of the key.
    """

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        super().__init__(f"{key}: {problem}")


class ProbeError(ModelError):
    """A probe's stored configuration is not one that this version knows."""


class KeyProblem(ModelError):
    """A signing key or public key can not be read or written."""


class BundleError(ModelError):
    """Base of all errors about bundle files."""


class BundleMalformed(BundleError):
    """The file is not a bundle, or it was damaged or tampered with."""


class BundleTooNew(BundleError):
    """The bundle was made by a newer version of driftpost.

    Attributes:
        found: the format version in the file.
        known: the newest format version that this program reads.
    """

    def __init__(self, found: int, known: int) -> None:
        self.found = found
        self.known = known
        super().__init__(
            f"bundle format {found} is newer than this driftpost knows ({known}): "
            "update driftpost on this machine"
        )


class BundleUntrusted(BundleError):
    """The bundle is not signed, or not by a key that is trusted here."""
