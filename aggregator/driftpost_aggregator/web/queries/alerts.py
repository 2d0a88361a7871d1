"""Alerts: the channels and how they do, and the messages that went over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, tuple_

from driftpost_aggregator.store import tables
from driftpost_aggregator.web.cursor import Page, decode, encode

STATES = ("pending", "sent", "failed")
_message = tables.alert_messages.c
_channel = tables.alert_channels.c


@dataclass(frozen=True)
class Channel:
    """One channel; times in Unix milliseconds. See `store.tables.alert_channels`."""

    channel: str
    since_ms: int
    last_sent_ms: int | None
    failing_since_ms: int | None
    last_error: str


@dataclass(frozen=True)
class Message:
    """One message; see `store.tables.alert_messages`."""

    message: str
    channel: str
    state: str
    created_ms: int
    attempts: int
    next_attempt_ms: int
    sent_ms: int | None
    last_error: str
    changes: list[dict[str, Any]]


def channels(connection: Connection) -> list[Channel]:
    """Every channel that was ever set up, by name."""
    names = tuple(_channel[name] for name in Channel.__dataclass_fields__)
    return [Channel(*row) for row in connection.execute(select(*names).order_by(_channel.channel))]


def list_messages(
    connection: Connection, *, state: str = "", channel: str = "", limit: int, cursor: str | None = None
) -> Page[Message]:
    """Messages, newest first.

    Raises:
        BadParameter: the cursor is none of ours.
    """
    key = (_message.created_ms, _message.message)
    names = tuple(_message[name] for name in Message.__dataclass_fields__)
    query = select(*names).order_by(*(column.desc() for column in key)).limit(limit + 1)
    for column, wanted in ((_message.state, state), (_message.channel, channel)):
        if wanted:
            query = query.where(column == wanted)
    if cursor:
        query = query.where(tuple_(*key) < tuple_(*decode(cursor, int, str)))
    found = [Message(*row) for row in connection.execute(query)]
    last = found[limit - 1] if len(found) > limit else None
    return Page(found[:limit], encode(last.created_ms, last.message) if last else None)
