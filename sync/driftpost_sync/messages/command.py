"""Something the aggregator asks a device to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from driftpost_sync.codec import pack
from driftpost_sync.messages.limits import VERSION


@dataclass(frozen=True)
class Command:
    """Something the aggregator asks a device to do; a device carries out only what it can verify.

    Attributes:
        id: names the command; carried out at most once.
        name: what to do.
        arguments: plain types.
        signature: Ed25519 over `signed_bytes(device)`, empty if unsigned.
    """

    id: str
    name: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    signature: bytes = b""

    def signed_bytes(self, device: str) -> bytes:
        """What the signature covers: the addressee, the id, the name and the arguments in sorted order."""
        return pack(["driftpost-command-1", device, self.id, self.name, _sorted(self.arguments)])

    def to_bytes(self) -> bytes:
        """Packed message."""
        return pack(
            {
                "v": VERSION,
                "t": "cmd",
                "id": self.id,
                "n": self.name,
                "p": dict(self.arguments),
                "s": self.signature,
            }
        )


def _sorted(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    return value
