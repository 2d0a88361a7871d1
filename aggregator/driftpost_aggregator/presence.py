"""Who is there: the retained state that a device publishes at its birth and leaves as its will."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, update

from driftpost_aggregator.errors import MessageRejected
from driftpost_aggregator.store import bulk
from driftpost_aggregator.store.tables import device_attributes, devices, findings
from driftpost_sync import topics
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages import Presence

_STATE = (
    "online",
    "incarnation",
    "agent_version",
    "runtime",
    "bundle",
    "schema_id",
    "clock_good",
    "started_ms",
    "last_seen_ms",
)
_COLUMNS = (devices.c.device, *(devices.c[name] for name in _STATE))
_ATTRIBUTES = (device_attributes.c.device, device_attributes.c.key, device_attributes.c.value)


@dataclass(frozen=True)
class Told:
    """What a device told about itself, and when it came, Unix ms."""

    device: str
    state: Presence
    received_ms: int


def read(topic: str, payload: bytes, fleet: str, received_ms: int) -> Told | None:
    """A state message, or None if it says nothing about a device.

    An empty payload, with which a broker's owner removes a retained state, is ignored.

    Raises:
        MessageRejected: it breaks the protocol or is another fleet's.
    """
    try:
        address = topics.parse(topic)
        if address.is_aggregator or not payload:
            return None
        state = Presence.from_bytes(payload)
    except MalformedMessage as error:
        raise MessageRejected(str(error)) from error
    if address.fleet != fleet:
        raise MessageRejected(f"fleet {address.fleet!r} is not ours")
    return Told(address.device, state, received_ms)


def take(connection: Connection, told: Sequence[Told], made: frozenset[str] | set[str]) -> None:
    """Store presences in the order in which they came, in the caller's write transaction.

    The will of an incarnation that has already been replaced says nothing any more and is ignored. Whatever
    says nothing new is not written: a broker repeats every retained state to every worker that subscribes.

    Args:
        connection: in a write transaction that holds these devices' rows.
        told: by the devices.
        made: devices whose rows were made in this transaction.
    """
    names = sorted({one.device for one in told})
    keys = [(name,) for name in names]
    stored: dict[str, tuple[object, ...]] = {
        row[0]: _plain(row[1:]) for row in bulk.fetch(connection, devices, [devices.c.device], keys, _COLUMNS)
    }
    now = dict(stored)
    attributes: dict[str, dict[str, str]] = {}
    lost: dict[str, int] = {}
    fresh = set(made)
    for one in told:
        before = now.get(one.device)
        if before is None:
            continue
        online, incarnation, last_seen_ms = one.state.online, before[1], before[-1]
        assert incarnation is None or isinstance(incarnation, int)
        assert isinstance(last_seen_ms, int)
        new = one.device in fresh
        if not new and not online and incarnation is not None and one.state.incarnation != incarnation:
            # The will of another incarnation than the one that was born last.
            continue
        if not new and incarnation is not None and _store_was_lost(incarnation, one.state.incarnation):
            lost[one.device] = one.received_ms
        fresh.discard(one.device)
        # A will says when its device was missed, and the broker repeats it whenever we subscribe again.
        seen = one.received_ms if online and one.received_ms > last_seen_ms else last_seen_ms
        now[one.device] = (
            online,
            one.state.incarnation,
            one.state.agent_version,
            one.state.runtime,
            one.state.bundle or None,
            one.state.schema_id or None,
            one.state.clock_good,
            one.state.started,
            seen,
        )
        attributes[one.device] = dict(one.state.attributes)
    changed = [(name, *now[name]) for name in names if name in now and now[name] != stored[name]]
    # The values' names on the right are those of `_COLUMNS`.
    sets = ", ".join(f"{name} = k.{name}" for name in _STATE)
    bulk.update(connection, devices, _COLUMNS, changed, sets=sets, where="t.device = k.device")
    _attributes(connection, attributes)
    for device, at_ms in lost.items():
        # Nobody is left who could take back what the lost store had raised.
        connection.execute(
            update(findings)
            .where(findings.c.device == device, findings.c.state == "raised", findings.c.cleared_ms.is_(None))
            .values(cleared_ms=at_ms)
        )


def _plain(values: tuple[object, ...]) -> tuple[object, ...]:
    """Values as they are compared: SQLite has no booleans."""
    online, *middle, clock_good, started, seen = values
    return (bool(online), *middle, None if clock_good is None else bool(clock_good), started, seen)


def _attributes(connection: Connection, wanted: dict[str, dict[str, str]]) -> None:
    before: dict[str, dict[str, str]] = {name: {} for name in wanted}
    keys = [(name,) for name in sorted(wanted)]
    for device, key, value in bulk.fetch(
        connection, device_attributes, [device_attributes.c.device], keys, _ATTRIBUTES
    ):
        before[device][key] = value
    changed = [name for name in sorted(wanted) if before[name] != wanted[name]]
    bulk.delete(connection, device_attributes, [device_attributes.c.device], [(name,) for name in changed])
    bulk.insert(
        connection,
        device_attributes,
        ("device", "key", "value"),
        [(name, key, value) for name in changed for key, value in wanted[name].items()],
    )


def _store_was_lost(before: int, now: int) -> bool:
    """Whether a device counts its starts (the high 32 bits) from anew: only a new store does that."""
    return before != now and (now >> 32) <= (before >> 32)
