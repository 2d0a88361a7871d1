"""Incidents: the list and one incident with its members, timeline and requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, tuple_

from driftpost_aggregator.store import tables
from driftpost_aggregator.web.cursor import Page, decode, encode
from driftpost_aggregator.web.queries.standing import STANDING_STATES

# What a person may ask to see.
STATES = ("standing", "open", "acknowledged", "muted", "resolved", "absorbed", "all")
# Events shown of one incident; its life is told by the newest.
_MAX_EVENTS = 200

_incident = tables.incidents.c
_member = tables.incident_devices.c


@dataclass(frozen=True)
class Contribution:
    """One stream's part in an incident.

    Attributes:
        stream: Its name.
        share: Share of the evidence, 0 to 1.
        effect: Reference standard deviations, or difference of shares.
        effect_natural: In `unit`.
        unit: The stream's unit.
        spread: Standard deviation now over then.
        direction: up, down or none.
    """

    stream: str
    share: float
    effect: float
    effect_natural: float
    unit: str
    spread: float
    direction: str


@dataclass(frozen=True)
class Incident:
    """One incident; times in Unix milliseconds. See `store.tables.incidents` for the columns."""

    incident: str
    model: str
    bundle: str
    bundles: list[str]
    scope: str
    scope_key: str
    attributes: list[list[str]]
    kind: str
    detail: str
    state: str
    severity: float
    title: str
    cause: str
    onset_ms: int
    opened_ms: int
    updated_ms: int
    resolved_ms: int | None
    muted_until_ms: int | None
    affected: int
    members: int
    elsewhere: int
    streams: list[Contribution]
    log_e: float
    risk_ratio: float | None
    risk_ratio_low: float | None
    reopened: int
    absorbed_into: str | None
    card: dict[str, Any]

    @property
    def standing(self) -> bool:
        """Whether it still wants something from a person."""
        return self.state in STANDING_STATES


_NAMES = tuple(Incident.__dataclass_fields__)
_COLUMNS = tuple(_incident[name] for name in _NAMES)


def _incident_of(row: tuple[object, ...]) -> Incident:
    values: dict[str, object] = dict(zip(_NAMES, row, strict=True))
    streams = values["streams"]
    assert isinstance(streams, list)
    values["streams"] = [
        Contribution(
            stream=str(part.get("stream", "")),
            share=float(part.get("share") or 0.0),
            effect=float(part.get("effect") or 0.0),
            effect_natural=float(part.get("effect_natural") or 0.0),
            unit=str(part.get("unit") or ""),
            spread=float(part.get("spread", 1.0)),
            direction=str(part.get("direction") or "none"),
        )
        for part in streams
    ]
    return Incident(**values)  # type: ignore[arg-type]  # the columns were selected by these very names


def list_incidents(
    connection: Connection, *, state: str = "standing", limit: int, cursor: str | None = None
) -> Page[Incident]:
    """Incidents, last opened first.

    Raises:
        BadParameter: the cursor is none of ours.
    """
    key = (_incident.opened_ms, _incident.incident)
    query = select(*_COLUMNS).order_by(*(column.desc() for column in key)).limit(limit + 1)
    if state == "standing":
        query = query.where(_incident.state.in_(STANDING_STATES))
    elif state != "all":
        query = query.where(_incident.state == state)
    if cursor:
        query = query.where(tuple_(*key) < tuple_(*decode(cursor, int, str)))
    found = [_incident_of(tuple(row)) for row in connection.execute(query)]
    last = found[limit - 1] if len(found) > limit else None
    return Page(found[:limit], encode(last.opened_ms, last.incident) if last else None)


def incident_named(connection: Connection, incident: str) -> Incident | None:
    """One incident, or None."""
    row = connection.execute(select(*_COLUMNS).where(_incident.incident == incident)).one_or_none()
    return None if row is None else _incident_of(tuple(row))


def incidents_of_device(connection: Connection, device: str, limit: int) -> list[Incident]:
    """Incidents this device is or was in, last opened first."""
    rows = connection.execute(
        select(*_COLUMNS)
        .join(tables.incident_devices, _member.incident == _incident.incident)
        .where(_member.device == device)
        .order_by(_incident.opened_ms.desc())
        .limit(limit)
    )
    return [_incident_of(tuple(row)) for row in rows]


@dataclass(frozen=True)
class Member:
    """A device in an incident; times in Unix milliseconds."""

    device: str
    onset_ms: int
    raised_ms: int
    cleared_ms: int | None
    online: bool | None
    evidence: float | None


def list_members(
    connection: Connection, incident: str, *, limit: int, cursor: str | None = None
) -> Page[Member]:
    """Devices in an incident by name.

    Raises:
        BadParameter: the cursor is none of ours.
    """
    device = tables.devices.c
    query = (
        select(
            _member.device,
            _member.onset_ms,
            _member.raised_ms,
            _member.cleared_ms,
            device.online,
            device.evidence,
        )
        .select_from(tables.incident_devices.outerjoin(tables.devices, _member.device == device.device))
        .where(_member.incident == incident)
        .order_by(_member.device)
        .limit(limit + 1)
    )
    if cursor:
        (after,) = decode(cursor, str)
        query = query.where(_member.device > after)
    found = [Member(*row) for row in connection.execute(query)]
    return Page(found[:limit], encode(found[limit - 1].device) if len(found) > limit else None)


@dataclass(frozen=True)
class Event:
    """Something that happened to an incident."""

    id: int
    at_ms: int
    event: str
    actor: str
    text: str


def events_of(connection: Connection, incident: str) -> list[Event]:
    """What happened to it, newest first."""
    event = tables.incident_events.c
    rows = connection.execute(
        select(event.id, event.at_ms, event.event, event.actor, event.text)
        .where(event.incident == incident)
        .order_by(event.id.desc())
        .limit(_MAX_EVENTS)
    )
    return [Event(*row) for row in rows]
