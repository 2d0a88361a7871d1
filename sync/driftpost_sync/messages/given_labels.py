"""Labels on their way to the device that gave the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from driftpost_sync.codec import Fields, pack, unpack
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages.limits import MAX_BODY_BYTES

Label = int | str
# Inferences in one request; with ids of 36 characters and numbers for labels they take 20 kB.
MAX_GIVEN = 500
# Labels of one batch.
MAX_LABEL_ROWS = 4_096
# Characters of an inference's id or of a class's name.
MAX_LABEL_CHARS = 200
MAX_CLASS = 1 << 31


@dataclass(frozen=True)
class GivenLabel:
    """What was true of one inference.

    Attributes:
        inference: its id, or when it was made: Unix ms.
        labels: the true class by number or name, one for each row that it answered.
    """

    inference: str | int
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class GivenLabels:
    """The arguments of a request named "labels"."""

    given: tuple[GivenLabel, ...]

    def to_bytes(self) -> bytes:
        """Packed arguments."""
        return pack([[one.inference, list(one.labels)] for one in self.given])

    @classmethod
    def from_bytes(cls, data: bytes) -> GivenLabels:
        """Strictly decoded arguments.

        Raises:
            MalformedMessage: they break the protocol.
        """
        fields = Fields({"labels": unpack(data, limit=MAX_BODY_BYTES, where="labels")}, "request")
        return cls(tuple(_given(one) for one in fields.pairs("labels", MAX_GIVEN)))


def _given(pair: Sequence[object]) -> GivenLabel:
    name, labels = pair
    inner = Fields({"inference": name, "labels": labels}, "request.labels")
    inference: str | int
    if isinstance(name, str):
        inference = inner.text("inference", MAX_LABEL_CHARS)
    else:
        inference = inner.time_ms("inference")
    several = inner.array("labels", MAX_LABEL_ROWS)
    if not several:
        raise MalformedMessage("holds no label", "request.labels")
    return GivenLabel(inference, tuple(_label(one) for one in several))


def _label(value: object) -> Label:
    inner = Fields({"label": value}, "request.labels")
    if isinstance(value, str):
        return inner.text("label", MAX_LABEL_CHARS)
    return inner.integer("label", 0, MAX_CLASS)
