"""Incidents in the database: what people may do with one, and how every change is recorded.

open -> acknowledged -> resolved, with muted beside them; a resolved one can be reopened by the same cause,
and one that turned out to be part of a wider one is absorbed into it. Every change writes an incident event
for people and a row of the hash-chained audit log, in the transaction that makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, insert, select, update

from driftpost_aggregator import audit
from driftpost_aggregator.errors import NotPossible, UnknownIncident
from driftpost_aggregator.store.database import writing
from driftpost_aggregator.store.tables import incident_events, incidents

AGGREGATOR = "aggregator"
ACTIVE = ("open", "acknowledged", "muted")
# Notes and names come from people through the API; longer ones belong into a ticket.
MAX_NOTE_CHARS = 4_000
MAX_ACTOR_CHARS = 120


def record(connection: Connection, incident: str, event: str, *, actor: str, at_ms: int, text: str) -> None:
    """Write one change into the incident's history and the audit log, in the caller's transaction."""
    connection.execute(
        insert(incident_events).values(
            incident=incident, at_ms=at_ms, event=event, actor=actor[:MAX_ACTOR_CHARS], text=text
        )
    )
    audit.append(
        connection,
        at_ms=at_ms,
        actor=actor[:MAX_ACTOR_CHARS],
        action=f"incident {event}",
        subject=incident,
        words=text,
    )


def locked(connection: Connection, incident: str) -> RowMapping:
    """The incident's row, held until the transaction ends.

    Raises:
        UnknownIncident: there is none.
    """
    audit.hold(connection)
    row = connection.execute(select(incidents).where(incidents.c.incident == incident).with_for_update())
    found = row.mappings().first()
    if found is None:
        raise UnknownIncident(incident)
    return found


def change(
    connection: Connection,
    incident: str,
    values: Mapping[str, Any],
    event: str,
    *,
    actor: str,
    at_ms: int,
    text: str,
) -> None:
    """Update an incident's columns and record why, in the caller's transaction."""
    audit.hold(connection)
    connection.execute(
        update(incidents).where(incidents.c.incident == incident).values(**values, updated_ms=at_ms)
    )
    record(connection, incident, event, actor=actor, at_ms=at_ms, text=text)


def acknowledge(engine: Engine, incident: str, *, actor: str, now_ms: int) -> None:
    """Someone looks after it.

    Raises:
        UnknownIncident: there is none of that id.
        NotPossible: it is not open or muted.
    """
    with writing(engine) as connection:
        row = locked(connection, incident)
        if row["state"] not in ("open", "muted"):
            raise NotPossible(f"incident {incident}", row["state"], "acknowledged")
        change(
            connection,
            incident,
            {"state": "acknowledged", "muted_until_ms": None},
            "acknowledged",
            actor=actor,
            at_ms=now_ms,
            text=f"acknowledged by {actor}",
        )


def mute(engine: Engine, incident: str, *, until_ms: int, actor: str, now_ms: int) -> None:
    """No alert and no retrain request from it until then; it goes on collecting evidence.

    Raises:
        UnknownIncident: there is none of that id.
        NotPossible: it is not active, or `until_ms` is not in the future.
    """
    with writing(engine) as connection:
        row = locked(connection, incident)
        if row["state"] not in ACTIVE:
            raise NotPossible(f"incident {incident}", row["state"], "muted")
        if until_ms <= now_ms:
            raise NotPossible(
                f"incident {incident}",
                row["state"],
                "muted",
                "can be muted only until a time that is yet to come",
            )
        change(
            connection,
            incident,
            {"state": "muted", "muted_until_ms": until_ms},
            "muted",
            actor=actor,
            at_ms=now_ms,
            text=f"muted by {actor}",
        )


def unmute(engine: Engine, incident: str, *, actor: str, now_ms: int) -> None:
    """A muted one is open again.

    Raises:
        UnknownIncident: there is none of that id.
        NotPossible: it is not muted.
    """
    with writing(engine) as connection:
        row = locked(connection, incident)
        if row["state"] != "muted":
            raise NotPossible(
                f"incident {incident}", row["state"], "unmuted", f"is {row['state']}, not muted"
            )
        change(
            connection,
            incident,
            {"state": "open", "muted_until_ms": None},
            "unmuted",
            actor=actor,
            at_ms=now_ms,
            text="mute ended" if actor == AGGREGATOR else f"unmuted by {actor}",
        )


def resolve(engine: Engine, incident: str, *, actor: str, now_ms: int, text: str = "") -> None:
    """A person declares it over; evidence that still stands will reopen it when it is renewed.

    Raises:
        UnknownIncident: there is none of that id.
        NotPossible: it is not active.
    """
    with writing(engine) as connection:
        row = locked(connection, incident)
        if row["state"] not in ACTIVE:
            raise NotPossible(f"incident {incident}", row["state"], "resolved")
        change(
            connection,
            incident,
            {"state": "resolved", "resolved_ms": now_ms, "muted_until_ms": None},
            "resolved",
            actor=actor,
            at_ms=now_ms,
            text=text[:MAX_NOTE_CHARS] or f"resolved by {actor}",
        )


def reopen(engine: Engine, incident: str, *, actor: str, now_ms: int, text: str = "") -> None:
    """A person takes a resolution back; if nothing of it stands any more, the evidence resolves it again.

    Raises:
        UnknownIncident: there is none of that id.
        NotPossible: it is not resolved.
    """
    with writing(engine) as connection:
        row = locked(connection, incident)
        if row["state"] != "resolved":
            raise NotPossible(
                f"incident {incident}",
                row["state"],
                "reopened",
                f"is {row['state']}; only a resolved one can be reopened",
            )
        change(
            connection,
            incident,
            {"state": "open", "resolved_ms": None, "reopened": row["reopened"] + 1},
            "reopened",
            actor=actor,
            at_ms=now_ms,
            text=text[:MAX_NOTE_CHARS] or f"reopened by {actor}",
        )


def note(engine: Engine, incident: str, *, text: str, actor: str, now_ms: int) -> None:
    """Add a person's remark.

    Raises:
        UnknownIncident: there is none of that id.
        NotPossible: the remark is empty.
    """
    if not text.strip():
        raise NotPossible(
            f"incident {incident}", "unchanged", "annotated", "takes no empty note; say what you found"
        )
    with writing(engine) as connection:
        row = locked(connection, incident)
        change(
            connection,
            incident,
            {"state": row["state"]},
            "note",
            actor=actor,
            at_ms=now_ms,
            text=text.strip()[:MAX_NOTE_CHARS],
        )
