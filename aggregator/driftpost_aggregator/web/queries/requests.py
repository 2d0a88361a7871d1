"""Retrain requests and their deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Row, select, tuple_

from driftpost_aggregator.store import tables
from driftpost_aggregator.web.cursor import Page, decode, encode
from driftpost_aggregator.web.errors import BadParameter

ORDERS = ("newest", "priority")
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
    devices: int
    gain: float
    gain_source: str
    cost: float
    priority: float
    reuse: dict[str, Any] | None
    escalated_ms: int | None
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
    connection: Connection,
    *,
    state: str = "",
    incident: str = "",
    order: str = "newest",
    limit: int,
    cursor: str | None = None,
) -> Page[RetrainRequest]:
    """Retrain requests, newest or worthiest first.

    Raises:
        BadParameter: the cursor is none of ours.
    """
    worth = order == "priority"
    key = (_request.priority if worth else _request.created_ms, _request.request)
    query = (
        select(*_COLUMNS).select_from(_SOURCE).order_by(*(column.desc() for column in key)).limit(limit + 1)
    )
    if state:
        query = query.where(_request.state == state)
    if incident:
        query = query.where(_request.incident == incident)
    if cursor:
        # Floats travel as text: JSON would turn 1.0 into a whole number.
        first, name = decode(cursor, str, str) if worth else decode(cursor, int, str)
        query = query.where(tuple_(*key) < tuple_(_number(first) if worth else first, name))
    rows = list(connection.execute(query))
    found = _with_deliveries(connection, rows[:limit])
    if len(rows) <= limit:
        return Page(found, None)
    last = found[-1]
    return Page(found, encode(repr(last.priority) if worth else last.created_ms, last.request))


def _number(text: str | int) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise BadParameter("cursor", "is not one of ours", "take it unchanged from `next`") from error


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
