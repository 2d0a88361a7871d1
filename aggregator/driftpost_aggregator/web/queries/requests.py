"""Retrain requests and their deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Row, select, tuple_

from driftpost_aggregator.store import tables
from driftpost_aggregator.web.cursor import Page, decode, encode

STATES = ("created", "delivered", "undeliverable", "accepted", "running", "done", "failed")

_request = tables.retrain_requests.c


@dataclass(frozen=True)
class Delivery:
    """One target of a request; times in Unix milliseconds."""

    target: str
    state: str
    attempts: int
    next_attempt_ms: int
    last_attempt_ms: int | None
    last_status: int | None
    last_error: str
    delivered_ms: int | None


@dataclass(frozen=True)
class RetrainRequest:
    """One retrain request; times in Unix milliseconds. See `store.tables.retrain_requests` for the columns.

    Attributes:
        title: Of its incident.
    """

    request: str
    incident: str
    episode: int
    bundle: str
    state: str
    created_ms: int
    updated_ms: int
    delivered_ms: int | None
    new_bundle: str | None
    detail: str
    title: str
    deliveries: list[Delivery] = field(default_factory=list)


_COLUMNS = (
    *(_request[name] for name in tuple(RetrainRequest.__dataclass_fields__)[:-2]),
    tables.incidents.c.title,
)
_SOURCE = tables.retrain_requests.join(
    tables.incidents, _request.incident == tables.incidents.c.incident, isouter=True
)


def _with_deliveries(connection: Connection, rows: Sequence[Row[Any]]) -> list[RetrainRequest]:
    delivery = tables.deliveries.c
    found: dict[str, list[Delivery]] = {str(row[0]): [] for row in rows}
    if found:
        names = tuple(Delivery.__dataclass_fields__)
        # A request has as many deliveries as the settings have targets.
        query = (
            select(delivery.request, *(delivery[name] for name in names))
            .where(delivery.request.in_(found))
            .order_by(delivery.request, delivery.target)
        )
        for request, *values in connection.execute(query):
            found[request].append(Delivery(*values))
    return [
        # An incident's title is missing only in a damaged database.
        replace(RetrainRequest(*tuple(row)), title=row.title or "", deliveries=found[row.request])
        for row in rows
    ]


def list_requests(
    connection: Connection, *, state: str = "", incident: str = "", limit: int, cursor: str | None = None
) -> Page[RetrainRequest]:
    """Retrain requests, newest first.

    Raises:
        BadParameter: the cursor is none of ours.
    """
    key = (_request.created_ms, _request.request)
    query = (
        select(*_COLUMNS).select_from(_SOURCE).order_by(*(column.desc() for column in key)).limit(limit + 1)
    )
    if state:
        query = query.where(_request.state == state)
    if incident:
        query = query.where(_request.incident == incident)
    if cursor:
        query = query.where(tuple_(*key) < tuple_(*decode(cursor, int, str)))
    rows = list(connection.execute(query))
    found = _with_deliveries(connection, rows[:limit])
    return Page(found, encode(found[-1].created_ms, found[-1].request) if len(rows) > limit else None)


def request_named(connection: Connection, request: str) -> RetrainRequest | None:
    """One request, or None."""
    row = connection.execute(
        select(*_COLUMNS).select_from(_SOURCE).where(_request.request == request)
    ).one_or_none()
    return None if row is None else _with_deliveries(connection, [row])[0]


def event_of(connection: Connection, request: str) -> bytes | None:
    """The CloudEvent, byte for byte as it is sent, or None."""
    body = connection.scalar(select(_request.body).where(_request.request == request))
    return None if body is None else bytes(body)
