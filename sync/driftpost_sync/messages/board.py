"""How the board under an agent fares: heat, throttling, supply voltage, load, free space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from driftpost_sync.codec import Fields, pack, unpack
from driftpost_sync.errors import MalformedMessage

# Sensors in one message, and characters of a sensor's name.
MAX_SENSORS = 32
MAX_SENSOR_CHARS = 40


@dataclass(frozen=True)
class BoardBody:
    """What the sensors of a board read since the message before it.

    It is a picture of now, no series that must be whole: one that never left is replaced by the next.

    Attributes:
        mono: monotonic ms at its end.
        wall: Unix ms, or None where the clock was not known to be good.
        span_ms: milliseconds that it covers.
        readings: for each sensor the latest, lowest, mean and highest value, in the sensor's unit.
    """

    mono: int
    wall: int | None
    span_ms: int
    readings: Mapping[str, tuple[float, float, float, float]]

    def to_bytes(self) -> bytes:
        """Packed body."""
        readings = {name: [round(value, 3) for value in values] for name, values in self.readings.items()}
        return pack({"m": self.mono, "w": self.wall, "s": self.span_ms, "r": readings})

    @classmethod
    def from_bytes(cls, data: bytes) -> BoardBody:
        """Strictly decoded body.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        fields = Fields(unpack(data, limit=4096, where="board"), "board")
        readings: dict[str, tuple[float, float, float, float]] = {}
        for name, values in fields.map("r", MAX_SENSORS).items():
            if not isinstance(name, str) or not 0 < len(name) <= MAX_SENSOR_CHARS:
                raise MalformedMessage("must be sensors by name", "board.r")
            if not isinstance(values, list) or len(values) != 4:
                raise MalformedMessage("must be [latest, lowest, mean, highest]", f"board.r.{name}")
            inner = Fields({str(place): value for place, value in enumerate(values)}, f"board.r.{name}")
            last, low, mean, high = (inner.number(str(place)) for place in range(4))
            readings[name] = (last, low, mean, high)
        return cls(
            mono=fields.time_ms("m"),
            wall=fields.optional_time_ms("w"),
            span_ms=fields.time_ms("s"),
            readings=readings,
        )
