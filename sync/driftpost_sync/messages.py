"""What travels between device and aggregator; `docs/protocol.md` has every byte.

Each class has `to_bytes` and a strict `from_bytes`. A body is packed once, when it is put into the outbox,
and rides in its envelope as those very bytes, so that a damaged one spoils only itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from driftpost_sync.codec import MAX_INCARNATION, MAX_SEQ, Fields, pack, unpack
from driftpost_sync.errors import MalformedMessage, MessageTooLarge, UnsupportedVersion
from driftpost_sync.topics import MAX_NAME_CHARS, check_name

VERSION = 1
# Some clouds cut the connection above 128 KiB; 48 KiB leaves room for a broker's own framing and topics.
MAX_MESSAGE_BYTES = 48 * 1024
# A message holds at least one body beside its envelope (at most 200 bytes with the longest names).
MAX_BODY_BYTES = MAX_MESSAGE_BYTES - 1024
# What any end reads at most: larger than what is sent, so that limits can grow without a new version.
MAX_READ_BYTES = 64 * 1024
# A description decompresses to at most this: 300 streams of 20 bins are about 80 kB.
MAX_DESCRIBE_BYTES = 1 << 20
MAX_ITEMS = 512  # bodies in one envelope, ranges or reasons in one acknowledgement
MAX_STREAMS = 4_096
MAX_REASON_CHARS = 200
MAX_TEXT_CHARS = 1_000
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_CHARS = 200
MAX_WINDOW_BYTES = MAX_BODY_BYTES
MAX_COUNT = MAX_SEQ

Kind = Literal["window", "finding", "describe", "labels", "ledger"]
KINDS: tuple[Kind, ...] = ("window", "finding", "describe", "labels", "ledger")
Source = Literal["drift", "runtime", "quality", "device"]
SOURCES: tuple[Source, ...] = ("drift", "runtime", "quality", "device")
Normal = Literal["training", "site"]
NORMALS: tuple[Normal, ...] = ("training", "site")
_STATES = ("raised", "cleared")
_DIRECTIONS = ("up", "down", "none")


def _version(fields: Fields, where: str) -> None:
    version = fields.integer("v", 0, 255)
    if version != VERSION:
        raise UnsupportedVersion(version, where)


def _check_body_size(what: str, body: bytes) -> bytes:
    if len(body) > MAX_BODY_BYTES:
        raise MessageTooLarge(what, len(body), MAX_BODY_BYTES)
    return body


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
        return _check_body_size("a window", body)

    @classmethod
    def from_bytes(cls, data: bytes) -> WindowBody:
        """Strictly decoded body.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        fields = Fields(unpack(data, limit=MAX_READ_BYTES, where="window"), "window")
        mono = _span(fields, "m", optional=False)
        wall = _span(fields, "w", optional=True)
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


def _span(fields: Fields, key: str, *, optional: bool) -> tuple[int | None, int | None]:
    """A [start, end] pair of times; the end of a wall span may precede its start when the clock was set."""
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
        return _check_body_size("a sketch of labels", body)

    @classmethod
    def from_bytes(cls, data: bytes) -> LabelsBody:
        """Strictly decoded body.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        fields = Fields(unpack(data, limit=MAX_READ_BYTES, where="labels"), "labels")
        mono = _span(fields, "m", optional=False)
        wall = _span(fields, "w", optional=True)
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
        return _check_body_size("a finding", body)

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
        return _check_body_size("the description of a bundle", zlib.compress(packed, 9))

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


@dataclass(frozen=True)
class Tally:
    """How many windows, and how many rows (inferences) in them."""

    windows: int = 0
    rows: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.windows + other.windows, self.rows + other.rows)


@dataclass(frozen=True)
class LedgerBody:
    """What became of every window a device recorded in one incarnation.

    `recorded = acked + pending + quarantined`, in windows and in rows. A window that took others in counts
    as all of them; `merged` says how many no longer stand alone.

    Attributes:
        incarnation: the one accounted for.
        lost_rows_at_start: rows known to have been in memory when the previous incarnation died.
    """

    incarnation: int
    recorded: Tally
    acked: Tally
    pending: Tally
    quarantined: Tally
    merged: Tally = Tally()
    lost_rows_at_start: int = 0

    @property
    def balanced(self) -> bool:
        """Whether nothing is unaccounted for."""
        return self.recorded == self.acked + self.pending + self.quarantined

    def to_bytes(self) -> bytes:
        """Packed body."""
        return pack(
            {
                "i": self.incarnation,
                "n": [self.recorded.windows, self.recorded.rows],
                "a": [self.acked.windows, self.acked.rows],
                "p": [self.pending.windows, self.pending.rows],
                "q": [self.quarantined.windows, self.quarantined.rows],
                "g": [self.merged.windows, self.merged.rows],
                "l": self.lost_rows_at_start,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> LedgerBody:
        """Strictly decoded body; whether it balances is for the reader to judge.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        fields = Fields(unpack(data, limit=1024, where="ledger"), "ledger")
        return cls(
            incarnation=fields.integer("i", 1, MAX_INCARNATION),
            recorded=_tally(fields, "n"),
            acked=_tally(fields, "a"),
            pending=_tally(fields, "p"),
            quarantined=_tally(fields, "q"),
            merged=_tally(fields, "g"),
            lost_rows_at_start=fields.integer("l", 0, MAX_COUNT),
        )


def _tally(fields: Fields, key: str) -> Tally:
    pair = fields.array(key, 2)
    if len(pair) != 2:
        raise MalformedMessage("must be [windows, rows]", f"ledger.{key}")
    inner = Fields({"windows": pair[0], "rows": pair[1]}, f"ledger.{key}")
    return Tally(inner.integer("windows", 0, MAX_COUNT), inner.integer("rows", 0, MAX_COUNT))


Body = WindowBody | FindingBody | DescribeBody | LabelsBody | LedgerBody
_BODIES: dict[
    str,
    type[WindowBody] | type[FindingBody] | type[DescribeBody] | type[LabelsBody] | type[LedgerBody],
] = {
    "window": WindowBody,
    "finding": FindingBody,
    "describe": DescribeBody,
    "labels": LabelsBody,
    "ledger": LedgerBody,
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
        _version(fields, "up")
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


@dataclass(frozen=True)
class Presence:
    """A device's retained state: published as its birth, left as its will with `online` false.

    Attributes:
        online: false in the will and in an orderly goodbye.
        incarnation: a will of an earlier incarnation than the last birth is out of date.
        agent_version: of the sender.
        bundle, schema_id: what is active, "" and b"" when nothing is.
        attributes: what cohorts are formed by.
        runtime: name, version and provider of what runs the model, for people.
        started: Unix ms of the incarnation's start, or None.
        clock_good: whether the device's wall clock is known to be good.
    """

    online: bool
    incarnation: int
    agent_version: str
    bundle: str = ""
    schema_id: bytes = b""
    attributes: Mapping[str, str] = field(default_factory=dict)
    runtime: str = ""
    started: int | None = None
    clock_good: bool = False

    def to_bytes(self) -> bytes:
        """Packed message."""
        return pack(
            {
                "v": VERSION,
                "online": self.online,
                "incarnation": self.incarnation,
                "agent": self.agent_version,
                "bundle": self.bundle,
                "schema": self.schema_id,
                "attributes": dict(self.attributes),
                "runtime": self.runtime,
                "started": self.started,
                "clock_good": self.clock_good,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Presence:
        """Strictly decoded message.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        fields = Fields(unpack(data, limit=MAX_READ_BYTES, where="state"), "state")
        _version(fields, "state")
        schema_id = fields.binary("schema", 16)
        if len(schema_id) not in (0, 16):
            raise MalformedMessage("must be 16 bytes or none", "state.schema")
        return cls(
            online=fields.flag("online"),
            incarnation=fields.integer("incarnation", 1, MAX_INCARNATION),
            agent_version=fields.text("agent", 80),
            bundle=fields.text("bundle", MAX_NAME_CHARS + 17, empty=True),
            schema_id=schema_id,
            attributes=fields.text_map("attributes", MAX_ATTRIBUTES, MAX_ATTRIBUTE_CHARS),
            runtime=fields.text("runtime", 200, empty=True),
            started=fields.optional_time_ms("started"),
            clock_good=fields.flag("clock_good"),
        )


@dataclass(frozen=True)
class HostPresence:
    """The aggregator's retained state. `wall` is its Unix ms, with which a device can judge its own clock."""

    online: bool
    wall: int

    def to_bytes(self) -> bytes:
        """Packed message."""
        return pack({"v": VERSION, "online": self.online, "wall": self.wall})

    @classmethod
    def from_bytes(cls, data: bytes) -> HostPresence:
        """Strictly decoded message.

        Raises:
            MalformedMessage: it breaks the protocol.
        """
        fields = Fields(unpack(data, limit=1024, where="host state"), "host state")
        _version(fields, "host state")
        return cls(online=fields.flag("online"), wall=fields.time_ms("wall"))


Range = tuple[int, int]


def printable(text: str, limit: int = MAX_REASON_CHARS) -> str:
    """`text` as it may travel: at most `limit` characters, control characters replaced.

    >>> printable("a\\tb")
    'a b'
    """
    return "".join(c if c.isprintable() else " " for c in text[:limit])


def ranges_of(seqs: Sequence[int]) -> tuple[Range, ...]:
    """Sequence numbers as ascending [first, last] ranges, both inclusive.

    >>> ranges_of([3, 1, 2, 7])
    ((1, 3), (7, 7))
    """
    ranges: list[Range] = []
    for seq in sorted(set(seqs)):
        if ranges and seq == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], seq)
        else:
            ranges.append((seq, seq))
    return tuple(ranges)


@dataclass(frozen=True)
class Ack:
    """What the aggregator has committed, refused and wants, about one incarnation of the device addressed.

    Attributes:
        incarnation: that the ranges belong to.
        ranges: inclusive [first, last] sequence numbers that are committed (or were before: duplicates too).
        refused: (seq, reason): will never be committed; the device quarantines them.
        wanted: what the device should send again: "describe", "describe:<bundle>", "ledger", "birth".
    """

    incarnation: int
    ranges: tuple[Range, ...] = ()
    refused: tuple[tuple[int, str], ...] = ()
    wanted: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Packed message."""
        return pack(
            {
                "v": VERSION,
                "t": "ack",
                "i": self.incarnation,
                "a": [list(pair) for pair in self.ranges],
                "r": [[seq, printable(reason)] for seq, reason in self.refused],
                "q": list(self.wanted),
            }
        )


@dataclass(frozen=True)
class Command:
    """Something the aggregator asks a device to do; a device carries out only what it can verify.

    Attributes:
        id: names the command; carried out at most once.
        name: what to do.
        arguments: plain types.
        signature: Ed25519 over `signed_bytes(device)`, empty if unsigned.
    """

    id: str
    name: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    signature: bytes = b""

    def signed_bytes(self, device: str) -> bytes:
        """What the signature covers: the addressee, the id, the name and the arguments in sorted order."""
        return pack(["driftpost-command-1", device, self.id, self.name, _sorted(self.arguments)])

    def to_bytes(self) -> bytes:
        """Packed message."""
        return pack(
            {
                "v": VERSION,
                "t": "cmd",
                "id": self.id,
                "n": self.name,
                "p": dict(self.arguments),
                "s": self.signature,
            }
        )


def _sorted(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    return value


def decode_down(data: bytes) -> Ack | Command | None:
    """A `down` message; None if it is of a type that this release does not know, to be ignored.

    Raises:
        MalformedMessage: it breaks the protocol.
    """
    fields = Fields(unpack(data, limit=MAX_READ_BYTES, where="down"), "down")
    _version(fields, "down")
    kind = fields.text("t", 40)
    if kind == "ack":
        return _decode_ack(fields)
    if kind == "cmd":
        return Command(
            id=fields.text("id", 80),
            name=fields.text("n", 80),
            arguments=fields.map("p", 256),
            signature=fields.binary("s", 64),
        )
    return None


def _decode_ack(fields: Fields) -> Ack:
    ranges: list[Range] = []
    for first, last in fields.pairs("a", MAX_ITEMS):
        inner = Fields({"first": first, "last": last}, "down.a")
        low = inner.integer("first", 1, MAX_SEQ)
        ranges.append((low, inner.integer("last", low, MAX_SEQ)))
    refused: list[tuple[int, str]] = []
    for seq, reason in fields.pairs("r", MAX_ITEMS):
        inner = Fields({"seq": seq, "reason": reason}, "down.r")
        refused.append((inner.integer("seq", 1, MAX_SEQ), inner.text("reason", MAX_REASON_CHARS, empty=True)))
    return Ack(
        incarnation=fields.integer("i", 1, MAX_INCARNATION),
        ranges=tuple(ranges),
        refused=tuple(refused),
        wanted=fields.texts("q", 16, 120),
    )
