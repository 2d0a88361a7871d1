"""What came of delayed labels, as a device tells it."""

from __future__ import annotations

from dataclasses import dataclass

from driftpost_sync.codec import Fields, pack, unpack
from driftpost_sync.messages.limits import MAX_COUNT, MAX_READ_BYTES, check_body_size
from driftpost_sync.messages.window import span
from driftpost_sync.topics import MAX_NAME_CHARS


@dataclass(frozen=True)
class LabelsBody:
    """What came of the labels that reached a device in some time.

    Attributes:
        bundle: id of the bundle whose answers they are about.
        mono_start, mono_end: monotonic ms of the incarnation between which the labels came.
        wall_start, wall_end: Unix ms, or None where the clock was not known to be good.
        sketch: `LabelSketch.to_bytes()`.
        unknown: labels whose inference the device no longer remembered.
    """

    bundle: str
    mono_start: int
    mono_end: int
    wall_start: int | None
    wall_end: int | None
    sketch: bytes
    unknown: int = 0

    def to_bytes(self) -> bytes:
        """Packed body.

        Raises:
            MessageTooLarge: it would not fit a message.
        """
        body = pack(
            {
                "b": self.bundle,
                "m": [self.mono_start, self.mono_end],
                "w": [self.wall_start, self.wall_end],
                "x": self.sketch,
                "u": self.unknown,
            }
        )
        return check_body_size("a sketch of labels", body)

    @classmethod
    def from_bytes(cls, data: bytes) -> LabelsBody:
        """Strictly decoded body.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        fields = Fields(unpack(data, limit=MAX_READ_BYTES, where="labels"), "labels")
        mono = span(fields, "m", optional=False)
        wall = span(fields, "w", optional=True)
        assert mono[0] is not None
        assert mono[1] is not None
        return cls(
            bundle=fields.text("b", MAX_NAME_CHARS + 17),
            mono_start=mono[0],
            mono_end=mono[1],
            wall_start=wall[0],
            wall_end=wall[1],
            sketch=fields.binary("x", MAX_READ_BYTES),
            unknown=fields.integer("u", 0, MAX_COUNT),
        )
