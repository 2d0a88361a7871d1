"""Which changes go to whom, put together and sent: each change of an incident in one message, until told.

A change is written down for a channel before its message is sent, and a message before each attempt: what a
crash costs is a repetition under the same id, never a silence and never a storm.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine, and_, case, delete, func, insert, select, update

from driftpost_aggregator.alerts import mail, posting
from driftpost_aggregator.alerts.change import Change, subject, words
from driftpost_aggregator.alerts.channels import Channel
from driftpost_aggregator.delivery.schedule import Answer, judge, lease, next_attempt
from driftpost_aggregator.store import locks
from driftpost_aggregator.store.database import reading, upsert, writing
from driftpost_aggregator.store.tables import (
    alert_channels,
    alert_messages,
    alerts,
    incident_events,
    incidents,
)

# Changes older than this are history, ms: an aggregator that was down for a week does not ring for it.
NEWS_MS = 2 * 86_400_000
# Changes in one message; the rest follows in the next.
MAX_CHANGES = 20
# Looked at in one round and channel.
_MAX_LOOKED_AT = 500
# Messages under way at once.
CONCURRENCY = 8
# What was sent, or given up, is kept for people to look at, ms.
KEEP_MS = 90 * 86_400_000
NOT_WORTH_ONE = ""


@dataclass(frozen=True)
class Telling:
    """What the alert loop knows.

    Attributes:
        channels: of the settings.
        group_s: changes that come within this time of each other are one message, seconds.
        fleet: its name.
        public_url: where people reach the dashboard, None if nowhere.
        new_id: makes ids for messages.
        jitter: source of the waits' randomness.
    """

    channels: tuple[Channel, ...]
    group_s: float
    fleet: str
    public_url: str | None
    new_id: Callable[[], str]
    jitter: random.Random


def tell(engine: Engine, telling: Telling, now_ms: int) -> dict[str, Answer]:
    """One round: put together what is new, send what is due.

    Returns:
        Message to what came of it.
    """
    for channel in telling.channels:
        _gather(engine, telling, channel, now_ms)
    return _send_due(engine, telling, now_ms)


def _gather(engine: Engine, telling: Telling, channel: Channel, now_ms: int) -> None:
    with reading(engine) as connection:
        since = connection.execute(
            select(alert_channels.c.since_ms).where(alert_channels.c.channel == channel.name)
        ).scalar()
        found = [] if since is None else _untold(connection, channel, max(since, now_ms - NEWS_MS))
    if since is None:
        with writing(engine) as connection:
            row: dict[str, object] = {"channel": channel.name, "since_ms": now_ms, "last_error": ""}
            upsert(connection, alert_channels, [row], keep=True)
        return
    news = [one for one in found if one.worth]
    ready = _ready(news, channel, telling.group_s, now_ms)
    passed_over = [one.change.event for one in found if not one.worth]
    if not ready and not passed_over:
        return
    with writing(engine) as connection:
        locks.hold(connection, locks.ALERTS)
        rows = [{"channel": channel.name, "event": event, "message": NOT_WORTH_ONE} for event in passed_over]
        message = telling.new_id()
        chosen = ready[:MAX_CHANGES]
        rows += [{"channel": channel.name, "event": one.event, "message": message} for one in chosen]
        taken = [one["event"] for one in rows]
        query = select(alerts.c.event).where(alerts.c.channel == channel.name, alerts.c.event.in_(taken))
        if connection.execute(query.limit(1)).first() is not None:
            return  # another worker was faster; the next round sees what is left
        connection.execute(insert(alerts), rows)
        if chosen:
            connection.execute(
                insert(alert_messages).values(
                    message=message,
                    channel=channel.name,
                    state="pending",
                    created_ms=now_ms,
                    attempts=0,
                    next_attempt_ms=now_ms,
                    last_error="",
                    changes=[one.to_dict() for one in chosen],
                )
            )


@dataclass(frozen=True)
class _Found:
    change: Change
    worth: bool


def _untold(connection: Connection, channel: Channel, since_ms: int) -> list[_Found]:
    """Changes that this channel was not told of, urgent ones and then the others, each oldest first."""
    event, incident = incident_events.c, incidents.c
    told = and_(alerts.c.channel == channel.name, alerts.c.event == event.id)
    query = (
        select(
            event.id,
            event.incident,
            incident.title,
            incident.scope,
            incident.kind,
            incident.state,
            event.event,
            event.text,
            event.at_ms,
            incident.affected,
            incident.members,
            incident.severity,
        )
        .join_from(incident_events, incidents, event.incident == incident.incident)
        .join(alerts, told, isouter=True)
        .where(event.at_ms >= since_ms, alerts.c.event.is_(None))
        # However much waits for the morning, what is urgent is among what is looked at.
        .order_by(case((incident.scope.in_(channel.urgent_scopes), 0), else_=1), event.id)
        .limit(_MAX_LOOKED_AT)
    )
    found = []
    for row in connection.execute(query):
        *about, severity = row
        change = Change(*about)
        found.append(_Found(change, _worth(channel, change, severity)))
    return found


def _worth(channel: Channel, change: Change, severity: float) -> bool:
    """Whether a channel wants to hear of a change."""
    return (
        change.change in channel.changes
        and change.scope in channel.scopes
        and (not channel.kinds or change.kind in channel.kinds)
        and (severity >= channel.min_severity or change.change == "resolved")
        # Whoever muted an incident asked for silence.
        and change.state != "muted"
    )


def _ready(news: Sequence[_Found], channel: Channel, group_s: float, now_ms: int) -> list[Change]:
    """What goes out now, once the oldest has waited for its neighbours: all, or in quiet hours the urgent."""
    if channel.quiet is not None and channel.quiet.over_at(now_ms) is not None:
        news = [one for one in news if one.change.scope in channel.urgent_scopes]
    if not news or now_ms - min(one.change.at_ms for one in news) < group_s * 1000:
        return []
    return [one.change for one in news]


@dataclass(frozen=True)
class _Due:
    message: str
    channel: Channel
    attempts: int
    changes: list[Change]


def _send_due(engine: Engine, telling: Telling, now_ms: int) -> dict[str, Answer]:
    due = _claim(engine, telling, now_ms)
    if not due:
        return {}
    answers = anyio.run(_send_all, due, telling, now_ms)
    for one in due:
        _note(engine, one, answers[one.message], telling, now_ms)
    return answers


def _claim(engine: Engine, telling: Telling, now_ms: int) -> list[_Due]:
    channels = {channel.name: channel for channel in telling.channels}
    column = alert_messages.c
    with reading(engine) as connection:
        rows = connection.execute(
            select(column.message, column.channel, column.attempts, column.changes)
            .where(column.state == "pending", column.next_attempt_ms <= now_ms)
            .where(column.channel.in_(channels))
            .order_by(column.next_attempt_ms)
            .limit(CONCURRENCY)
        ).all()
    claimed = []
    for row in rows:
        timeout_s = channels[row.channel].timeout_s
        again = lease(row.attempts + 1, now_ms, timeout_s, telling.jitter.random())
        with writing(engine) as connection:
            taken = connection.execute(
                update(alert_messages)
                .where(
                    column.message == row.message,
                    column.state == "pending",
                    # Another worker that took it meanwhile has counted its own attempt.
                    column.attempts == row.attempts,
                )
                .values(attempts=row.attempts + 1, next_attempt_ms=again)
            )
        if taken.rowcount:
            changes = [Change.from_dict(one) for one in row.changes]
            claimed.append(_Due(row.message, channels[row.channel], row.attempts + 1, changes))
    return claimed


async def _send_all(due: Sequence[_Due], telling: Telling, now_ms: int) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}

    async def one(part: _Due) -> None:
        answers[part.message] = await _send(part, telling, now_ms)

    async with anyio.create_task_group() as group:
        for part in due:
            group.start_soon(one, part)
    return answers


async def _send(one: _Due, telling: Telling, now_ms: int) -> Answer:
    line = subject(one.changes, telling.fleet)
    text = "\n\n".join(words(change, telling.public_url) for change in one.changes)
    if one.channel.kind == "email":
        return await anyio.to_thread.run_sync(mail.send, one.channel, one.message, line, text, now_ms)
    if one.channel.kind == "slack":
        return await posting.send_slack(one.channel, f"{line}\n\n{text}", now_ms)
    body = posting.event_body(
        one.message, one.changes, fleet=telling.fleet, public_url=telling.public_url, now_ms=now_ms
    )
    return await posting.send_event(one.channel, one.message, body, now_ms)


def _note(engine: Engine, one: _Due, answer: Answer, telling: Telling, now_ms: int) -> None:
    state = judge(answer, one.attempts).state
    error = answer.error[:500]
    values: dict[str, object] = {"state": "sent" if state == "delivered" else state, "last_error": error}
    told: dict[str, object] = {"last_sent_ms": now_ms, "failing_since_ms": None, "last_error": ""}
    if state == "delivered":
        values["sent_ms"] = now_ms
    elif state == "pending":
        again = next_attempt(one.attempts, now_ms, answer.retry_after_s, telling.jitter.random())
        values["next_attempt_ms"] = again
    with writing(engine) as connection:
        # What another worker has sent meanwhile stays sent, and its attempts are its own.
        mine = (
            alert_messages.c.state != "sent"
            if state == "delivered"
            else (alert_messages.c.state == "pending") & (alert_messages.c.attempts == one.attempts)
        )
        connection.execute(
            update(alert_messages).where(alert_messages.c.message == one.message, mine).values(**values)
        )
        channel = update(alert_channels).where(alert_channels.c.channel == one.channel.name)
        if state == "delivered":
            connection.execute(channel.values(**told))
        else:
            connection.execute(channel.values(last_error=error))
            connection.execute(
                channel.where(alert_channels.c.failing_since_ms.is_(None)).values(failing_since_ms=now_ms)
            )
        old = select(func.max(incident_events.c.id)).where(incident_events.c.at_ms < now_ms - KEEP_MS)
        connection.execute(delete(alerts).where(alerts.c.event <= old.scalar_subquery()))
        connection.execute(
            delete(alert_messages).where(
                alert_messages.c.created_ms < now_ms - KEEP_MS, alert_messages.c.state != "pending"
            )
        )
