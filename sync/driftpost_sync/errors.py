"""What can go wrong on the wire and in its configuration.

SyncError
├── SettingsError         a configuration file that cannot be used; lists every problem at once
├── MalformedMessage      bytes or a topic from outside that break the protocol
│   └── UnsupportedVersion    a well-formed message of a version this release does not read
├── MessageTooLarge       a body that would not fit a message; nothing was stored or sent
├── OutboxError           the outbox was used in a way that would break its promise
├── LinkError             the link cannot even start: certificate, password file, name
└── BrokerUnavailable     the embedded broker cannot run here
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class SyncError(Exception):
    """Base of every error this package raises on purpose."""


@dataclass(frozen=True)
class SettingsProblem:
    """One thing wrong with a configuration: the dotted key (empty for the file itself) and what to do."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text


class SettingsError(SyncError):
    """A configuration that cannot be used.

    Attributes:
        source: the file, or a name for where the values came from.
        problems: everything found wrong, so that one edit can mend it all.
    """

    def __init__(self, source: Path | str, problems: tuple[SettingsProblem, ...]) -> None:
        self.source = source
        self.problems = problems
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"{source} cannot be used:{lines}")


class MalformedMessage(SyncError, ValueError):
    """A message that breaks the protocol.

    Attributes:
        reason: what is wrong, short enough for a quarantine row or a reason on the wire.
        where: the field or message it was found in.
    """

    def __init__(self, reason: str, where: str = "message") -> None:
        self.reason = reason
        self.where = where
        super().__init__(f"{where}: {reason}")


class UnsupportedVersion(MalformedMessage):
    """A message of a protocol version this release does not read; upgrade the older end."""

    def __init__(self, version: int, where: str = "message") -> None:
        self.version = version
        super().__init__(f"protocol version {version} is not read here; upgrade this end", where)


class MessageTooLarge(SyncError, ValueError):
    """A body that cannot travel in one message.

    Attributes:
        size: bytes it has.
        limit: bytes it may have.
    """

    def __init__(self, what: str, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"{what} is {size} bytes; a message carries at most {limit}. "
            "Track fewer streams, or use fewer bins, and build the bundle again."
        )


class OutboxError(SyncError):
    """The outbox was asked for something that would break what it promises."""


class LinkError(SyncError):
    """The link cannot start; the text says which setting to mend."""


class BrokerUnavailable(SyncError):
    """The embedded broker cannot run; the text says what to install or change."""
