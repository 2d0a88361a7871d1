"""Messages to a device, by their type."""

from __future__ import annotations

from driftpost_sync.codec import Fields, unpack
from driftpost_sync.messages.ack import Ack, decode_ack
from driftpost_sync.messages.command import Command
from driftpost_sync.messages.limits import MAX_READ_BYTES, check_version
from driftpost_sync.messages.request import Request, decode_request


def decode_down(data: bytes) -> Ack | Command | Request | None:
    """A `down` message; None if it is of a type that this release does not know, to be ignored.

    Raises:
        MalformedMessage: it breaks the protocol.
    """
    fields = Fields(unpack(data, limit=MAX_READ_BYTES, where="down"), "down")
    check_version(fields, "down")
    kind = fields.text("t", 40)
    if kind == "ack":
        return decode_ack(fields)
    if kind == "cmd":
        return Command(
            id=fields.text("id", 80),
            name=fields.text("n", 80),
            arguments=fields.map("p", 256),
            signature=fields.binary("s", 64),
        )
    if kind == "req":
        return decode_request(fields)
    return None
