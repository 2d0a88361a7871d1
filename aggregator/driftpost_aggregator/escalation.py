"""Requests from which nothing comes are brought to people: not taken up, not finished, refused, failed."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, RowMapping, func, select, update

from driftpost_aggregator import audit, incidents
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.store.tables import retrain_requests

_UNANSWERED = ("created", "delivered")
_UNDER_WAY = ("accepted", "running")
_HOPELESS = ("undeliverable", "failed")
MAX_A_ROUND = 100


def escalate_overdue(engine: Engine, *, answer_s: float, finish_s: float, now_ms: int) -> list[str]:
    """Write into its incident, once for each state, that a request needs a person.

    Args:
        engine: the database.
        answer_s: what was not taken up within this time is overdue, seconds.
        finish_s: so is what was taken up and has not ended after this time.
        now_ms: Unix ms.

    Returns:
        Ids of the requests.
    """
    with reading(engine) as connection:
        due = _due(connection, answer_s, finish_s, now_ms)
    told = []
    for row in due:
        with writing(engine) as connection:
            audit.hold(connection)
            taken = connection.execute(
                update(retrain_requests)
                .where(
                    retrain_requests.c.request == row["request"],
                    retrain_requests.c.state == row["state"],
                    retrain_requests.c.escalated_ms.is_(None),
                )
                .values(escalated_ms=now_ms)
            )
            if not taken.rowcount:
                continue
            incidents.record(
                connection,
                row["incident"],
                "escalated",
                actor=incidents.AGGREGATOR,
                at_ms=now_ms,
                text=_words(row, now_ms),
            )
            told.append(row["request"])
    return told


def _due(connection: Connection, answer_s: float, finish_s: float, now_ms: int) -> list[RowMapping]:
    column = retrain_requests.c
    query = (
        select(retrain_requests)
        .where(column.escalated_ms.is_(None))
        .where(
            column.state.in_(_HOPELESS)
            | (
                column.state.in_(_UNANSWERED)
                # Who got it late has as much time as anybody.
                & (func.coalesce(column.delivered_ms, column.created_ms) <= now_ms - int(answer_s * 1000))
            )
            | (column.state.in_(_UNDER_WAY) & (column.updated_ms <= now_ms - int(finish_s * 1000)))
        )
        .order_by(column.priority.desc(), column.request)
        .limit(MAX_A_ROUND)
    )
    return list(connection.execute(query).mappings())


def _words(row: RowMapping, now_ms: int) -> str:
    state, request = row["state"], row["request"]
    if state == "undeliverable":
        return f"request {request} reached no receiver; see its deliveries"
    if state == "failed":
        return f"the pipeline could not carry out request {request}" + (
            f": {row['detail']}" if row["detail"] else ""
        )
    since_ms = (row["delivered_ms"] or row["created_ms"]) if state in _UNANSWERED else row["updated_ms"]
    hours = (now_ms - since_ms) / 3_600_000
    if state == "created":
        return f"request {request} was delivered to nobody within {hours:.1f} hours"
    if state == "delivered":
        return f"no pipeline has taken up request {request} within {hours:.1f} hours"
    return f"request {request} has been {state} for {hours:.1f} hours"
