"""Messages that were refused, and why."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, LargeBinary, func, select

from driftpost_aggregator.store import tables
from driftpost_aggregator.web.cursor import Page, decode, encode

_refusal = tables.quarantine.c

# Reasons summed up on the page; a fleet with more has one cause with the device's name in it.
_MAX_REASONS = 12
# Rows that the summary looks at, newest first: what goes wrong now, whatever the table has gathered.
_SUMMED_ROWS = 5000


@dataclass(frozen=True)
class Refusal:
    """One refused message; time in Unix milliseconds.

    Attributes:
        size: Bytes received.
        head: Its first bytes.
    """

    id: int
    received_ms: int
    device: str | None
    topic: str
    incarnation: int | None
    seq: int | None
    kind: str
    reason: str
    size: int
    head: bytes


# Bytes shown of a refused message.
HEAD_BYTES = 64


def list_quarantine(
    connection: Connection, *, device: str = "", limit: int, cursor: str | None = None
) -> Page[Refusal]:
    """Refused messages, newest first.

    Raises:
        BadParameter: the cursor is none of ours.
    """
    query = (
        select(
            *(_refusal[name] for name in tuple(Refusal.__dataclass_fields__)[:-1]),
            func.substr(_refusal.body, 1, HEAD_BYTES, type_=LargeBinary),
        )
        .order_by(_refusal.id.desc())
        .limit(limit + 1)
    )
    if device:
        query = query.where(_refusal.device == device)
    if cursor:
        (before,) = decode(cursor, int)
        query = query.where(_refusal.id < before)
    found = [Refusal(*tuple(row)) for row in connection.execute(query)]
    return Page(found[:limit], encode(found[limit - 1].id) if len(found) > limit else None)


@dataclass(frozen=True)
class Reason:
    """Why messages were refused, counted; time in Unix milliseconds."""

    kind: str
    reason: str
    messages: int
    devices: int
    last_ms: int


def reasons(connection: Connection) -> list[Reason]:
    """The newest refusals by reason, most frequent first."""
    newest = (
        select(_refusal.kind, _refusal.reason, _refusal.device, _refusal.received_ms)
        .order_by(_refusal.id.desc())
        .limit(_SUMMED_ROWS)
        .subquery()
        .c
    )
    rows = connection.execute(
        select(
            newest.kind,
            newest.reason,
            func.count().label("messages"),
            func.count(func.distinct(newest.device)),
            func.max(newest.received_ms),
        )
        .group_by(newest.kind, newest.reason)
        .order_by(func.count().desc(), newest.reason)
        .limit(_MAX_REASONS)
    )
    return [Reason(*row) for row in rows]
