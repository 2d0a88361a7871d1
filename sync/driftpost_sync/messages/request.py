"""Something the aggregator asks of a device that changes nothing of what it runs.

Unlike a command it needs no signature: it can make a device send again what it sends anyway, or hand it
labels.
"""

from __future__ import annotations

from dataclasses import dataclass

from driftpost_sync.codec import Fields, pack
from driftpost_sync.messages.limits import MAX_BODY_BYTES, VERSION, check_body_size

MAX_REQUEST_ID_CHARS = 80
MAX_REQUEST_NAME_CHARS = 40


@dataclass(frozen=True)
class Request:
    """A request to one device, delivered at least once and carried out once for each id.

    Attributes:
        id: names it; a device that has answered it does nothing when it comes again.
        name: what is asked for: "labels" (`GivenLabels`), "ledger" (no arguments). A device answers "refused"
            to names that it does not know.
        expires: Unix ms after which it is not carried out any more, by a device whose clock is good.
        arguments: packed, of the shape that its name has.
    """

    id: str
    name: str
    expires: int
    arguments: bytes = b""

    def to_bytes(self) -> bytes:
        """Packed message.

        Raises:
            MessageTooLarge: it would not fit a message.
        """
        packed = pack(
            {
                "v": VERSION,
                "t": "req",
                "id": self.id,
                "n": self.name,
                "x": self.expires,
                "p": self.arguments,
            }
        )
        return check_body_size("a request to a device", packed)


def decode_request(fields: Fields) -> Request:
    """A request, of a message that says to be one.

    Raises:
        MalformedMessage: it breaks the protocol.
    """
    return Request(
        id=fields.text("id", MAX_REQUEST_ID_CHARS),
        name=fields.text("n", MAX_REQUEST_NAME_CHARS),
        expires=fields.time_ms("x"),
        arguments=fields.binary("p", MAX_BODY_BYTES),
    )
