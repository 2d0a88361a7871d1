"""Who is there: the retained state that a device publishes at its birth and leaves as its will."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from driftpost_aggregator.errors import MessageRejected
from driftpost_aggregator.store.database import upsert
from driftpost_aggregator.store.tables import device_attributes, devices, findings
from driftpost_sync import topics
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages import Presence


def take(connection: Connection, topic: str, payload: bytes, fleet: str, received_ms: int) -> None:
    """Store a device's presence, in the caller's write transaction.

    The will of an incarnation that has already been replaced says nothing any more and is ignored; so is an
    empty payload, with which a broker's owner removes a retained state.

    Raises:
        MessageRejected: it breaks the protocol or is another fleet's.
    """
    try:
        address = topics.parse(topic)
        if address.is_aggregator or not payload:
            return
        state = Presence.from_bytes(payload)
    except MalformedMessage as error:
        raise MessageRejected(str(error)) from error
    if address.fleet != fleet:
        raise MessageRejected(f"fleet {address.fleet!r} is not ours")
    device = address.device
    row = connection.execute(
        select(devices.c.incarnation, devices.c.last_seen_ms).where(devices.c.device == device)
    ).first()
    if row is None:
        fresh: dict[str, object] = {
            "device": device,
            "online": state.online,
            "first_seen_ms": received_ms,
            "last_seen_ms": received_ms,
            "windows": 0,
            "parts": 0,
            "rows": 0,
            "quarantined": 0,
        }
        upsert(connection, devices, [fresh], keep=True)
    elif not state.online and row.incarnation is not None and state.incarnation != row.incarnation:
        # The will of another incarnation than the one that was born last.
        return
    elif row.incarnation is not None and _store_was_lost(row.incarnation, state.incarnation):
        # Nobody is left who could take back what the lost store had raised.
        connection.execute(
            update(findings)
            .where(findings.c.device == device, findings.c.state == "raised", findings.c.cleared_ms.is_(None))
            .values(cleared_ms=received_ms)
        )
    values: dict[str, object] = {
        "online": state.online,
        "incarnation": state.incarnation,
        "agent_version": state.agent_version,
        "runtime": state.runtime,
        "bundle": state.bundle or None,
        "schema_id": state.schema_id or None,
        "clock_good": state.clock_good,
        "started_ms": state.started,
    }
    # A will says when its device was missed, and the broker repeats it whenever we subscribe again.
    if row is None or (state.online and received_ms > row.last_seen_ms):
        values["last_seen_ms"] = received_ms
    connection.execute(update(devices).where(devices.c.device == device).values(**values))
    query = select(device_attributes.c.key, device_attributes.c.value)
    before = {
        row.key: row.value for row in connection.execute(query.where(device_attributes.c.device == device))
    }
    if before != dict(state.attributes):
        connection.execute(delete(device_attributes).where(device_attributes.c.device == device))
        if state.attributes:
            connection.execute(
                insert(device_attributes),
                [{"device": device, "key": key, "value": value} for key, value in state.attributes.items()],
            )


def _store_was_lost(before: int, now: int) -> bool:
    """Whether a device counts its starts (the high 32 bits) from anew: only a new store does that."""
    return before != now and (now >> 32) <= (before >> 32)
