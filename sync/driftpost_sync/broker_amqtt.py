"""What the embedded broker adds to amqtt; importing this needs the extra `broker`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from amqtt.adapters import StreamReaderAdapter
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from driftpost_sync.broker import same


class OnePassword(BaseAuthPlugin):  # type: ignore[misc] # amqtt ships no types
    """Lets in whoever presents the configured user name and password; loaded by its dotted name."""

    async def authenticate(self, *, session: Session) -> bool:
        """Whether the session's credentials are the right ones."""
        return same(session.username, self.config.username) and same(session.password, self.config.password)

    @dataclass
    class Config:
        """Filled in by the broker."""

        username: str
        password: str


class Rewound(StreamReaderAdapter):  # type: ignore[misc] # amqtt ships no types
    """A stream of which some bytes were read already, and are to be read again."""

    def __init__(self, head: bytes, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._head = head

    async def read(self, n: int = -1) -> bytes:
        """The next `n` bytes, or all there are."""
        if not self._head:
            return bytes(await super().read(n))
        taken = self._head if n < 0 else self._head[:n]
        self._head = self._head[len(taken) :]
        rest = n - len(taken) if n >= 0 else -1
        return taken + bytes(await super().read(rest)) if rest else taken
