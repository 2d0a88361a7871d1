"""One change of one incident, as people are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

# An incident's sentence and a device's words may be long; a message has many.
MAX_WORDS = 500


@dataclass(frozen=True)
class Change:
    """What happened.

    Attributes:
        event: number of the incident's event: each is told once on each channel.
        incident, title, scope, kind, state: of the incident, as it is now.
        change: "opened", "resolved", ...
        text: the event's words.
        at_ms: when, Unix ms.
        affected, members: devices.
    """

    event: int
    incident: str
    title: str
    scope: str
    kind: str
    state: str
    change: str
    text: str
    at_ms: int
    affected: int
    members: int

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return dict(self.__dict__)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Change:
        """From `to_dict`."""
        return cls(**plain)

    def link(self, public_url: str | None) -> str:
        """Address of the incident's page, "" where the dashboard has none."""
        return f"{public_url.rstrip('/')}/incidents/{self.incident}" if public_url else ""


def subject(changes: list[Change], fleet: str) -> str:
    """One line for some changes; safe for a header.

    >>> subject([Change(1, "i", "camera=B drifted", "cohort", "k", "open", "opened", "", 0, 1, 2)], "m")
    '[driftpost m] opened: camera=B drifted'
    """
    first = changes[0]
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    line = f"[driftpost {fleet}] {first.change}: {first.title}{more}"
    return "".join(letter if letter.isprintable() else " " for letter in line)[:200]


def words(change: Change, public_url: str | None) -> str:
    """A paragraph."""
    at = datetime.fromtimestamp(change.at_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        f"{change.change}: {change.title}",
        f"{at}, {change.scope}, {change.affected} of {change.members} devices, now {change.state}",
        change.text[:MAX_WORDS],
        change.link(public_url),
    ]
    return "\n".join(line for line in lines if line)
