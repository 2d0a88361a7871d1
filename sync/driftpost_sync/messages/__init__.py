"""What travels between device and aggregator; `docs/protocol.md` has every byte.

Each class has `to_bytes` and a strict `from_bytes`. A body is packed once, when it is put into the outbox,
and rides in its envelope as those very bytes, so that a damaged one spoils only itself.
"""

from __future__ import annotations

from driftpost_sync.messages.ack import Ack, Range, printable, ranges_of
from driftpost_sync.messages.answer import AnswerBody
from driftpost_sync.messages.board import BoardBody
from driftpost_sync.messages.command import Command
from driftpost_sync.messages.describe import DescribeBody
from driftpost_sync.messages.down import decode_down
from driftpost_sync.messages.envelope import KINDS, Body, Envelope, Item, Kind, decode_body
from driftpost_sync.messages.finding import NORMALS, SOURCES, FindingBody, Normal, Source
from driftpost_sync.messages.given_labels import GivenLabel, GivenLabels
from driftpost_sync.messages.labels import LabelsBody
from driftpost_sync.messages.ledger import LedgerBody, Tally
from driftpost_sync.messages.limits import (
    MAX_BODY_BYTES,
    MAX_ITEMS,
    MAX_MESSAGE_BYTES,
    MAX_READ_BYTES,
    MAX_REASON_CHARS,
    MAX_TEXT_CHARS,
)
from driftpost_sync.messages.presence import HostPresence, Presence
from driftpost_sync.messages.request import Request
from driftpost_sync.messages.window import WindowBody

__all__ = [
    "KINDS",
    "MAX_BODY_BYTES",
    "MAX_ITEMS",
    "MAX_MESSAGE_BYTES",
    "MAX_READ_BYTES",
    "MAX_REASON_CHARS",
    "MAX_TEXT_CHARS",
    "NORMALS",
    "SOURCES",
    "Ack",
    "AnswerBody",
    "BoardBody",
    "Body",
    "Command",
    "DescribeBody",
    "Envelope",
    "FindingBody",
    "GivenLabel",
    "GivenLabels",
    "HostPresence",
    "Item",
    "Kind",
    "LabelsBody",
    "LedgerBody",
    "Normal",
    "Presence",
    "Range",
    "Request",
    "Source",
    "Tally",
    "WindowBody",
    "decode_body",
    "decode_down",
    "printable",
    "ranges_of",
]
