"""A finding on its way: raised, or over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from driftpost_sync.codec import Fields, pack, unpack
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages.limits import MAX_READ_BYTES, MAX_STREAMS, MAX_TEXT_CHARS, check_body_size
from driftpost_sync.topics import MAX_NAME_CHARS

Source = Literal["drift", "runtime", "quality", "device"]
SOURCES: tuple[Source, ...] = ("drift", "runtime", "quality", "device")
Normal = Literal["training", "site"]
NORMALS: tuple[Normal, ...] = ("training", "site")
_STATES = ("raised", "cleared")
_DIRECTIONS = ("up", "down", "none")


@dataclass(frozen=True)
class FindingBody:
    """What a local check found, or that it is over.

    Attributes:
        id: names the finding; the one that clears carries the id of the one that was raised.
        bundle: id of the bundle it was found on, or "" where it concerns the device alone.
        state: "raised" or "cleared".
        kind: "shift", "stuck", "restarted", ...
        streams: (name, share of the evidence from 0 to 1), largest first.
        log_e: natural log of the e-value.
        effect: in reference standard deviations, or a difference of shares.
        effect_natural, unit: the same in the stream's own unit.
        direction: "up", "down" or "none".
        onset_mono, onset_wall: when the change began, as estimated, ms.
        mono, wall: when it was found, ms.
        text: one sentence for a person.
        source: "drift", "runtime", "quality" or "device".
        baseline: what it was compared with: the bundle's "training" data, or what the device itself showed at
            its "site" while it was commissioned.
    """

    id: str
    bundle: str
    state: str
    kind: str
    streams: tuple[tuple[str, float], ...]
    log_e: float
    effect: float
    effect_natural: float
    unit: str
    direction: str
    onset_mono: int
    onset_wall: int | None
    mono: int
    wall: int | None
    text: str
    source: Source = "drift"
    baseline: Normal = "training"

    def to_bytes(self) -> bytes:
        """Packed body.

        Raises:
            MessageTooLarge: it would not fit a message.
        """
        body = pack(
            {
                "id": self.id,
                "b": self.bundle,
                "t": self.state,
                "k": self.kind,
                "n": [[name, share] for name, share in self.streams],
                "e": self.log_e,
                "d": self.effect,
                "a": self.effect_natural,
                "u": self.unit,
                "r": self.direction,
                "o": [self.onset_mono, self.onset_wall],
                "f": [self.mono, self.wall],
                "x": self.text,
                "c": self.source,
                "l": self.baseline,
            }
        )
        return check_body_size("a finding", body)

    @classmethod
    def from_bytes(cls, data: bytes) -> FindingBody:
        """Strictly decoded body.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        fields = Fields(unpack(data, limit=MAX_READ_BYTES, where="finding"), "finding")
        streams: list[tuple[str, float]] = []
        for name, share in fields.pairs("n", MAX_STREAMS):
            inner = Fields({"name": name, "share": share}, "finding.n")
            streams.append((inner.text("name", MAX_TEXT_CHARS), inner.number("share")))
        onset, found = fields.array("o", 2), fields.array("f", 2)
        if len(onset) != 2 or len(found) != 2:
            raise MalformedMessage("must be [mono, wall]", "finding.o")
        times = Fields({"om": onset[0], "ow": onset[1], "fm": found[0], "fw": found[1]}, "finding.o")
        return cls(
            id=fields.text("id", 80),
            bundle=fields.text("b", MAX_NAME_CHARS + 17, empty=True),
            state=fields.choice("t", _STATES),
            kind=fields.text("k", 40),
            streams=tuple(streams),
            log_e=fields.number("e"),
            effect=fields.number("d"),
            effect_natural=fields.number("a"),
            unit=fields.text("u", 40, empty=True),
            direction=fields.choice("r", _DIRECTIONS),
            onset_mono=times.time_ms("om"),
            onset_wall=times.optional_time_ms("ow"),
            mono=times.time_ms("fm"),
            wall=times.optional_time_ms("fw"),
            text=fields.text("x", MAX_TEXT_CHARS, empty=True),
            source=cast("Source", fields.choice("c", SOURCES)),
            baseline=cast("Normal", fields.choice("l", NORMALS)),
        )
