"""One closed window on its way."""

from __future__ import annotations

from dataclasses import dataclass

from driftpost_sync.codec import Fields, pack, unpack
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages.limits import MAX_READ_BYTES, MAX_STREAMS, check_body_size
from driftpost_sync.topics import MAX_NAME_CHARS


@dataclass(frozen=True)
class WindowBody:
    """One closed window of one model.

    Attributes:
        bundle: id of the bundle the model came in.
        schema_id: 16 bytes, `Schema.id` of the streams.
        mono_start, mono_end: monotonic ms of the incarnation, the end not before the start.
        wall_start, wall_end: Unix ms, or None where the clock was not known to be good.
        window: `Window.to_bytes()`.
        evidence: natural log of the evidence per tracked stream, little-endian float16, in schema order.
    """

    bundle: str
    schema_id: bytes
    mono_start: int
    mono_end: int
    wall_start: int | None
    wall_end: int | None
    window: bytes
    evidence: bytes = b""

    def to_bytes(self) -> bytes:
        """Packed body.

        Raises:
            MessageTooLarge: it would not fit a message.
        """
        body = pack(
            {
                "b": self.bundle,
                "s": self.schema_id,
                "m": [self.mono_start, self.mono_end],
                "w": [self.wall_start, self.wall_end],
                "x": self.window,
                "e": self.evidence,
            }
        )
        return check_body_size("a window", body)

    @classmethod
    def from_bytes(cls, data: bytes) -> WindowBody:
        """Strictly decoded body.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        fields = Fields(unpack(data, limit=MAX_READ_BYTES, where="window"), "window")
        mono = span(fields, "m", optional=False)
        wall = span(fields, "w", optional=True)
        evidence = fields.binary("e", 2 * MAX_STREAMS)
        if len(evidence) % 2:
            raise MalformedMessage("must be whole float16 values", "window.e")
        assert mono[0] is not None
        assert mono[1] is not None
        return cls(
            bundle=fields.text("b", MAX_NAME_CHARS + 17),
            schema_id=fields.binary("s", 16, exactly=16),
            mono_start=mono[0],
            mono_end=mono[1],
            wall_start=wall[0],
            wall_end=wall[1],
            window=fields.binary("x", MAX_READ_BYTES),
            evidence=evidence,
        )


def span(fields: Fields, key: str, *, optional: bool) -> tuple[int | None, int | None]:
    """A [start, end] pair of times; the end of a wall span may precede its start when the clock was set.

    Raises:
        MalformedMessage: it is none.
    """
    pair = fields.array(key, 2)
    if len(pair) != 2:
        raise MalformedMessage("must be [start, end]", f"window.{key}")
    inner = Fields({"start": pair[0], "end": pair[1]}, f"window.{key}")
    if optional:
        return inner.optional_time_ms("start"), inner.optional_time_ms("end")
    start, end = inner.time_ms("start"), inner.time_ms("end")
    if end < start:
        raise MalformedMessage("ends before it starts", f"window.{key}")
    return start, end
