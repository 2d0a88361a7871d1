"""What became of a request, as the device that was asked tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from driftpost_sync.codec import Fields, pack, unpack
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages.limits import MAX_COUNT, MAX_REASON_CHARS
from driftpost_sync.messages.request import MAX_REQUEST_ID_CHARS

Outcome = Literal["done", "refused", "expired"]
OUTCOMES: tuple[Outcome, ...] = ("done", "refused", "expired")
# Kinds of things that one answer counts.
MAX_COUNTS = 16


@dataclass(frozen=True)
class AnswerBody:
    """The answer to one request; it travels like a window, once and acknowledged.

    Attributes:
        request: its id.
        outcome: "done"; "refused" where it is not known or makes no sense; "expired" where it came too late.
        counts: how many of what, by name: of labels "counted", "twice", "unknown", "refused".
        text: a sentence for a person, or "".
    """

    request: str
    outcome: Outcome
    counts: Mapping[str, int] = field(default_factory=dict)
    text: str = ""

    def to_bytes(self) -> bytes:
        """Packed body."""
        return pack({"i": self.request, "o": self.outcome, "c": dict(self.counts), "x": self.text})

    @classmethod
    def from_bytes(cls, data: bytes) -> AnswerBody:
        """Strictly decoded body.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        fields = Fields(unpack(data, limit=4096, where="answer"), "answer")
        counts = fields.map("c", MAX_COUNTS)
        numbers = Fields(dict(counts), "answer.c")
        if any(not isinstance(name, str) or not 0 < len(name) <= 40 for name in counts):
            raise MalformedMessage("must be counts by name", "answer.c")
        return cls(
            request=fields.text("i", MAX_REQUEST_ID_CHARS),
            outcome=cast("Outcome", fields.choice("o", OUTCOMES)),
            counts={name: numbers.integer(name, 0, MAX_COUNT) for name in counts},
            text=fields.text("x", MAX_REASON_CHARS, empty=True),
        )
