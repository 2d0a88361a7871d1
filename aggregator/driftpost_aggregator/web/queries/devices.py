"""Devices: the filtered, paged list and one device with everything about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, Select, and_, exists, func, select

from driftpost_aggregator.store import tables
from driftpost_aggregator.web.cursor import Page, decode, encode
from driftpost_aggregator.web.queries.standing import STANDING, Standing, standing_findings

STATES = ("any", "online", "offline", "drifting")

# Names of attributes offered as filters; a fleet with more has free text in one of them.
_MAX_KEYS = 32
# Values offered for each; further ones can still be typed into the address.
_MAX_VALUES = 50
# Devices of one incident among those to look at first; a few show what the others do.
_PER_INCIDENT = 8
# Incarnations shown on a device's page; each start of the agent is one.
_MAX_INCARNATIONS = 20

_device = tables.devices.c
_attribute = tables.device_attributes.c


@dataclass(frozen=True)
class Device:
    """One device as lists show it; times in Unix milliseconds.

    Attributes:
        evidence: Largest ln evidence of its newest window over tracked streams, or None before its first
        window. standing: Findings that stand.
    """

    device: str
    online: bool
    incarnation: int | None
    agent_version: str | None
    runtime: str | None
    bundle: str | None
    clock_good: bool | None
    started_ms: int | None
    first_seen_ms: int
    last_seen_ms: int
    last_window_ms: int | None
    evidence: float | None
    windows: int
    parts: int
    rows: int
    quarantined: int
    attributes: dict[str, str] = field(default_factory=dict)
    standing: list[Standing] = field(default_factory=list)


@dataclass(frozen=True)
class DeviceFilter:
    """Which devices to list.

    Attributes:
        state: One of STATES.
        prefix: First characters of the name; compared as it is, no wildcards.
        attributes: (key, value) pairs that must all hold.
        bundle: Id of the bundle it runs, or "" for any.
    """

    state: str = "any"
    prefix: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    bundle: str = ""


_COLUMNS = tuple(
    _device[name]
    for name in [
        "device",
        "online",
        "incarnation",
        "agent_version",
        "runtime",
        "bundle",
        "clock_good",
        "started_ms",
        "first_seen_ms",
        "last_seen_ms",
        "last_window_ms",
        "evidence",
        "windows",
        "parts",
        "rows",
        "quarantined",
    ]
)


def after_prefix(prefix: str) -> str | None:
    """The smallest text greater than every text that starts with `prefix`, or None if there is none."""
    for position in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[position])
        # Surrogates are no characters, and U+10FFFF has no successor.
        if code < 0x10FFFF:
            return prefix[:position] + chr(0xE000 if code == 0xD7FF else code + 1)
    return None


def _filtered(wanted: DeviceFilter, *, ordered_by_code_points: bool) -> Select[tuple[str]]:
    query = select(_device.device)
    if wanted.state in ("online", "offline"):
        query = query.where(_device.online.is_(wanted.state == "online"))
    elif wanted.state == "drifting":
        query = query.where(_device.device.in_(select(tables.findings.c.device).where(STANDING)))
    if wanted.prefix and ordered_by_code_points:
        query = query.where(_device.device >= wanted.prefix)
        end = after_prefix(wanted.prefix)
        if end is not None:
            query = query.where(_device.device < end)
    elif wanted.prefix:
        query = query.where(func.substr(_device.device, 1, len(wanted.prefix)) == wanted.prefix)
    if wanted.bundle:
        query = query.where(_device.bundle == wanted.bundle)
    for position, (key, value) in enumerate(wanted.attributes):
        held = tables.device_attributes.alias(f"held{position}")
        matches = and_(held.c.device == _device.device, held.c.key == key, held.c.value == value)
        query = query.where(exists().where(matches))
    return query


def list_devices(
    connection: Connection, wanted: DeviceFilter, *, limit: int, cursor: str | None = None
) -> Page[Device]:
    """Devices by name, one page.

    Raises:
        BadParameter: the cursor is none of ours.
    """
    # PostgreSQL orders text by its locale, in which a prefix is no range.
    filtered = _filtered(wanted, ordered_by_code_points=connection.dialect.name == "sqlite")
    query = filtered.order_by(_device.device).limit(limit + 1)
    if cursor:
        (after,) = decode(cursor, str)
        query = query.where(_device.device > after)
    names = [str(row[0]) for row in connection.execute(query)]
    devices = devices_named(connection, names[:limit])
    return Page(devices, encode(names[limit - 1]) if len(names) > limit else None)


def devices_named(connection: Connection, names: Sequence[str]) -> list[Device]:
    """These devices, in this order; those that do not exist are left out."""
    if not names:
        return []
    attributes: dict[str, dict[str, str]] = {}
    held = select(_attribute.device, _attribute.key, _attribute.value).where(_attribute.device.in_(names))
    for device, key, value in connection.execute(held.order_by(_attribute.device, _attribute.key)):
        attributes.setdefault(device, {})[key] = value
    standing = standing_findings(connection, names)
    rows = connection.execute(select(*_COLUMNS).where(_device.device.in_(names)))
    found = {row.device: Device(*row) for row in rows}
    return [
        replace(found[name], attributes=attributes.get(name, {}), standing=standing.get(name, []))
        for name in names
        if name in found
    ]


def device_named(connection: Connection, name: str) -> Device | None:
    """One device, or None."""
    return next(iter(devices_named(connection, [name])), None)


def most_suspicious(connection: Connection, limit: int) -> list[str]:
    """Devices to look at first: some of every incident, then by evidence. Scans the table."""
    finding = tables.findings.c
    # Grouped by the columns of the index on standing findings first: cleared ones are never looked at.
    standing = (
        select(finding.device, finding.incident, func.max(finding.log_e).label("log_e"))
        .where(STANDING)
        .group_by(finding.bundle, finding.device, finding.incident)
        .subquery()
        .c
    )
    place = func.row_number().over(
        partition_by=standing.incident, order_by=(standing.log_e.desc(), standing.device)
    )
    placed = select(standing.device, standing.incident, place.label("place")).subquery().c
    rows = connection.execute(
        select(placed.device)
        .where(placed.place <= _PER_INCIDENT)
        .order_by(placed.incident, placed.place)
        .limit(limit)
    )
    drifting = list(dict.fromkeys(str(row[0]) for row in rows))
    if len(drifting) >= limit:
        return drifting
    rest = connection.execute(
        select(_device.device)
        .where(_device.device.not_in(drifting))
        .order_by(func.coalesce(_device.evidence, -1.0).desc(), _device.device)
        .limit(limit - len(drifting))
    )
    return [*drifting, *(str(row[0]) for row in rest)]


def attribute_choices(connection: Connection) -> dict[str, list[tuple[str, int]]]:
    """Attribute names with their values and how many devices have each, for the filter's menus.

    Reads the (key, value) index, so share the answer.
    """
    keys = connection.scalars(select(_attribute.key).distinct().order_by(_attribute.key).limit(_MAX_KEYS))
    choices: dict[str, list[tuple[str, int]]] = {}
    for key in list(keys):
        values = connection.execute(
            select(_attribute.value, func.count())
            .where(_attribute.key == key)
            .group_by(_attribute.value)
            .order_by(func.count().desc(), _attribute.value)
            .limit(_MAX_VALUES)
        )
        choices[key] = [(value, int(count)) for value, count in values]
    return choices


@dataclass(frozen=True)
class Ledger:
    """A device's account of one incarnation (one start of its agent)."""

    incarnation: int
    received_ms: int
    recorded_windows: int
    recorded_rows: int
    acked_windows: int
    acked_rows: int
    pending_windows: int
    pending_rows: int
    quarantined_windows: int
    quarantined_rows: int
    merged_windows: int
    merged_rows: int
    lost_rows_at_start: int


@dataclass(frozen=True)
class Sensor:
    """One sensor of a board over the time of its latest report."""

    name: str
    latest: float
    lowest: float
    mean: float
    highest: float


@dataclass(frozen=True)
class Board:
    """How a device's board fares, by its latest report."""

    at_ms: int
    span_ms: int
    sensors: tuple[Sensor, ...]


def board_of(connection: Connection, device: str) -> Board | None:
    """Its latest report, None where it has sent none."""
    board = tables.boards.c
    row = connection.execute(
        select(board.at_ms, board.span_ms, board.readings).where(board.device == device)
    ).first()
    if row is None:
        return None
    sensors = tuple(Sensor(name, *values) for name, values in row.readings.items())
    return Board(row.at_ms, row.span_ms, sensors)


def ledgers_of(connection: Connection, device: str) -> list[Ledger]:
    """Its ledgers, newest incarnation first."""
    ledger = tables.ledgers.c
    names = list(Ledger.__dataclass_fields__)
    rows = connection.execute(
        select(*(ledger[name] for name in names))
        .where(ledger.device == device)
        .order_by(ledger.incarnation.desc())
        .limit(_MAX_INCARNATIONS)
    )
    return [Ledger(*row) for row in rows]
