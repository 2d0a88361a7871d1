"""The description of a bundle, from which the aggregator reads its windows."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from driftpost_sync.codec import Fields, pack, unpack
from driftpost_sync.errors import MalformedMessage, MessageTooLarge
from driftpost_sync.messages.limits import MAX_DESCRIBE_BYTES, MAX_READ_BYTES, MAX_STREAMS, check_body_size
from driftpost_sync.topics import MAX_NAME_CHARS


@dataclass(frozen=True)
class DescribeBody:
    """A newly activated bundle: what the aggregator has to know to read its windows.

    Attributes:
        bundle: its id.
        name, version: for people.
        model_sha256: hash of the model file, hex.
        schema: `Schema.to_dict()`.
        baseline: `Window.to_bytes()` of the reference.
        tau, n_ref, smallest_effect: per stream, as the bundle's calibration has them.
        window_s: length of a window, seconds.
        budget: false-alarm budget in words.
        classes: names of the model's classes, if it has any.
        performance: `PerformanceRecord.to_bytes()` of the labelled reference, b"" without one.
        joint: `JointPlan.to_bytes()`, b"" where joint changes are not watched.
        provenance: hashes, tool versions, who and when; plain types.
    """

    bundle: str
    name: str
    version: str
    model_sha256: str
    schema: Mapping[str, object]
    baseline: bytes
    tau: Mapping[str, float]
    n_ref: Mapping[str, float]
    smallest_effect: Mapping[str, float]
    window_s: float
    budget: str
    classes: tuple[str, ...] = ()
    performance: bytes = b""
    joint: bytes = b""
    provenance: Mapping[str, object] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Packed body, compressed.

        Raises:
            MessageTooLarge: it would not fit a message.
        """
        packed = pack({name: getattr(self, name) for name in _DESCRIBE_FIELDS})
        if len(packed) > MAX_DESCRIBE_BYTES:
            raise MessageTooLarge("the description of a bundle", len(packed), MAX_DESCRIBE_BYTES)
        return check_body_size("the description of a bundle", zlib.compress(packed, 9))

    @classmethod
    def from_bytes(cls, data: bytes) -> DescribeBody:
        """Strictly decoded body.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        if len(data) > MAX_READ_BYTES:
            raise MalformedMessage(f"{len(data)} bytes, at most {MAX_READ_BYTES} are allowed", "describe")
        inflater = zlib.decompressobj()
        try:
            packed = inflater.decompress(data, MAX_DESCRIBE_BYTES)
        except zlib.error:
            raise MalformedMessage("not zlib data", "describe") from None
        if not inflater.eof or inflater.unused_data:
            raise MalformedMessage("truncated, padded or too large once decompressed", "describe")
        return cls.from_plain(unpack(packed, limit=MAX_DESCRIBE_BYTES, where="describe"))

    @classmethod
    def from_plain(cls, value: object) -> DescribeBody:
        """Checked body from the plain map that `driftpost_models` makes of a bundle.

        Raises:
            MalformedMessage: a field is missing, or not what it should be.
        """
        fields = Fields(dict(value) if isinstance(value, Mapping) else value, "describe")
        classes = fields.raw("classes")
        window_s = fields.number("window_s")
        if window_s <= 0:
            raise MalformedMessage("must be positive", "describe.window_s")
        return cls(
            bundle=fields.text("bundle", MAX_NAME_CHARS + 17),
            name=fields.text("name", 200),
            version=fields.text("version", 100, empty=True),
            model_sha256=fields.text("model_sha256", 64),
            schema=fields.map("schema", MAX_STREAMS),
            baseline=fields.binary("baseline", MAX_DESCRIBE_BYTES),
            tau=fields.number_map("tau", MAX_STREAMS),
            n_ref=fields.number_map("n_ref", MAX_STREAMS),
            smallest_effect=fields.number_map("smallest_effect", MAX_STREAMS),
            window_s=window_s,
            budget=fields.text("budget", 80),
            classes=Fields({"classes": list(classes)}, "describe").texts("classes", MAX_STREAMS, 200)
            if isinstance(classes, list | tuple)
            else fields.texts("classes", 0, 0),
            performance=fields.binary("performance", MAX_READ_BYTES),
            joint=fields.binary("joint", MAX_READ_BYTES),
            provenance=fields.map("provenance", MAX_STREAMS),
        )


_DESCRIBE_FIELDS = tuple(DescribeBody.__dataclass_fields__)
