"""Pushed labels: pushes, and the parts of them on their way to devices."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, tuple_

from driftpost_aggregator.store import tables
from driftpost_aggregator.web.cursor import Page, decode, encode

# Parts that are summed up, so that a page takes no longer when years of labels are there.
MAX_SUMMED = 10_000
STATES = ("waiting", "done", "refused", "expired")
_batch = tables.label_batches.c
_push = tables.label_pushes.c


@dataclass(frozen=True)
class Batch:
    """One part of a push; times in Unix milliseconds. See `store.tables.label_batches` for the columns."""

    batch: str
    device: str
    push: str
    state: str
    labels: int
    created_ms: int
    expires_ms: int
    attempts: int
    next_attempt_ms: int
    settled_ms: int | None
    counted: int
    twice: int
    unknown: int
    refused: int
    detail: str


@dataclass(frozen=True)
class Push:
    """One push; see `store.tables.label_pushes`."""

    push: str
    at_ms: int
    actor: str
    labels: int
    queued: int
    already: int
    refused: dict[str, int]


@dataclass(frozen=True)
class Totals:
    """What became of the labels in the newest parts."""

    batches: dict[str, int]
    counted: int
    twice: int
    unknown: int
    refused: int


_COLUMNS = tuple(_batch[name] for name in Batch.__dataclass_fields__)


def list_batches(
    connection: Connection,
    *,
    state: str = "",
    device: str = "",
    push: str = "",
    limit: int,
    cursor: str | None = None,
) -> Page[Batch]:
    """Parts, newest first.

    Raises:
        BadParameter: the cursor is none of ours.
    """
    key = (_batch.created_ms, _batch.batch)
    query = select(*_COLUMNS).order_by(*(column.desc() for column in key)).limit(limit + 1)
    for column, wanted in ((_batch.state, state), (_batch.device, device), (_batch.push, push)):
        if wanted:
            query = query.where(column == wanted)
    if cursor:
        query = query.where(tuple_(*key) < tuple_(*decode(cursor, int, str)))
    found = [Batch(*row) for row in connection.execute(query)]
    last = found[limit - 1] if len(found) > limit else None
    return Page(found[:limit], encode(last.created_ms, last.batch) if last else None)


def push_named(connection: Connection, push: str) -> Push | None:
    """One push, or None."""
    names = tuple(_push[name] for name in Push.__dataclass_fields__)
    row = connection.execute(select(*names).where(_push.push == push)).one_or_none()
    return None if row is None else Push(*row)


def newest_pushes(connection: Connection, limit: int) -> list[Push]:
    """The newest pushes."""
    names = tuple(_push[name] for name in Push.__dataclass_fields__)
    query = select(*names).order_by(_push.at_ms.desc(), _push.push).limit(limit)
    return [Push(*row) for row in connection.execute(query)]


def totals(connection: Connection) -> Totals:
    """Sums over the newest parts."""
    names = ("counted", "twice", "unknown", "refused")
    newest = (
        select(_batch.state, *(_batch[name] for name in names))
        .order_by(_batch.created_ms.desc())
        .limit(MAX_SUMMED)
        .subquery()
    )
    query = select(newest.c.state, func.count(), *(func.sum(newest.c[name]) for name in names))
    states: dict[str, int] = {}
    sums = dict.fromkeys(names, 0)
    for state, count, *values in connection.execute(query.group_by(newest.c.state)):
        states[state] = count
        for name, value in zip(names, values, strict=True):
            sums[name] += int(value or 0)
    return Totals(states, **sums)
