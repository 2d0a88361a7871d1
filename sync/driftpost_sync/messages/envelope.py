"""Messages from a device: an envelope of bodies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from driftpost_sync.codec import MAX_INCARNATION, MAX_SEQ, Fields, pack, unpack
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages.answer import AnswerBody
from driftpost_sync.messages.board import BoardBody
from driftpost_sync.messages.describe import DescribeBody
from driftpost_sync.messages.finding import FindingBody
from driftpost_sync.messages.labels import LabelsBody
from driftpost_sync.messages.ledger import LedgerBody
from driftpost_sync.messages.limits import MAX_ITEMS, MAX_READ_BYTES, VERSION, check_version
from driftpost_sync.messages.window import WindowBody
from driftpost_sync.topics import MAX_NAME_CHARS, check_name

Kind = Literal["window", "finding", "describe", "labels", "ledger", "answer", "board"]
KINDS: tuple[Kind, ...] = ("window", "finding", "describe", "labels", "ledger", "answer", "board")

Body = WindowBody | FindingBody | DescribeBody | LabelsBody | LedgerBody | AnswerBody | BoardBody
_BODIES: dict[
    str,
    type[WindowBody]
    | type[FindingBody]
    | type[DescribeBody]
    | type[LabelsBody]
    | type[LedgerBody]
    | type[AnswerBody]
    | type[BoardBody],
] = {
    "window": WindowBody,
    "finding": FindingBody,
    "describe": DescribeBody,
    "labels": LabelsBody,
    "ledger": LedgerBody,
    "answer": AnswerBody,
    "board": BoardBody,
}


def decode_body(kind: str, data: bytes) -> Body:
    """The body of an item.

    Raises:
        MalformedMessage: an unknown kind (a newer device; answer with this reason), or a broken body.
    """
    if kind not in _BODIES:
        raise MalformedMessage(f"unknown kind {kind[:40]!r}; upgrade the aggregator", "item")
    return _BODIES[kind].from_bytes(data)


@dataclass(frozen=True)
class Item:
    """One body on its way: its sequence number in the envelope's incarnation, its kind, its bytes."""

    seq: int
    kind: str
    body: bytes


@dataclass(frozen=True)
class Envelope:
    """An `up` message: bodies of one incarnation of one device.

    Attributes:
        device: must equal the topic's.
        incarnation: of all its items.
        mono: the sender's monotonic ms when it was sent, or None if the items come from an earlier boot,
            whose monotonic clock can not be compared. Receipt time minus this dates every item.
        wall: the sender's Unix ms when it was sent, or None while its clock is not known to be good.
        historical: recorded while the device could not send; not a picture of now.
        items: in the order they were put together, which is not the order of `seq`.
    """

    device: str
    incarnation: int
    mono: int | None
    wall: int | None
    historical: bool
    items: tuple[Item, ...]

    def to_bytes(self) -> bytes:
        """Packed message."""
        return pack(
            {
                "v": VERSION,
                "d": self.device,
                "i": self.incarnation,
                "m": self.mono,
                "w": self.wall,
                "h": self.historical,
                "x": [[item.seq, item.kind, item.body] for item in self.items],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Envelope:
        """Strictly decoded message; its bodies are still bytes.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        fields = Fields(unpack(data, limit=MAX_READ_BYTES, where="up"), "up")
        check_version(fields, "up")
        items: list[Item] = []
        seen: set[int] = set()
        for entry in fields.array("x", MAX_ITEMS):
            if not isinstance(entry, list) or len(entry) < 3:
                raise MalformedMessage("must be [seq, kind, body]", "up.x")
            inner = Fields({"seq": entry[0], "kind": entry[1], "body": entry[2]}, "up.x")
            seq = inner.integer("seq", 1, MAX_SEQ)
            if seq in seen:
                raise MalformedMessage(f"sequence number {seq} twice in one message", "up.x")
            seen.add(seq)
            items.append(Item(seq, inner.text("kind", 40), inner.binary("body", MAX_READ_BYTES)))
        return cls(
            device=check_name(fields.text("d", MAX_NAME_CHARS), "up.d"),
            incarnation=fields.integer("i", 1, MAX_INCARNATION),
            mono=fields.optional_time_ms("m"),
            wall=fields.optional_time_ms("w"),
            historical=fields.flag("h"),
            items=tuple(items),
        )
