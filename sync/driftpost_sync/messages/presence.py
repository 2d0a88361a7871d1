"""Who is there: the retained states of a device and of the aggregator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from driftpost_sync.codec import MAX_INCARNATION, Fields, pack, unpack
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages.limits import (
    MAX_ATTRIBUTE_CHARS,
    MAX_ATTRIBUTES,
    MAX_READ_BYTES,
    VERSION,
    check_version,
)
from driftpost_sync.topics import MAX_NAME_CHARS


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
        check_version(fields, "state")
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
        check_version(fields, "host state")
        return cls(online=fields.flag("online"), wall=fields.time_ms("wall"))
