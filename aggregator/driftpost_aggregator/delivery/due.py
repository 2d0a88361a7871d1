"""Making every attempt that is due, to whatever kind of receiver.

What to do after an attempt and when (`schedule.py`) is pure; the attempts and their times live in the
database, so a restart neither forgets nor hurries. An attempt is written down before it is made: a crash in
between costs one attempt, never a storm of them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine, select, update

from driftpost_aggregator import audit
from driftpost_aggregator.delivery import command, file_drop, topic, webhook
from driftpost_aggregator.delivery.schedule import Answer, judge, lease, next_attempt
from driftpost_aggregator.delivery.targets import Target
from driftpost_aggregator.delivery.topic import Post
from driftpost_aggregator.incidents import AGGREGATOR
from driftpost_aggregator.retrain import settle_delivery
from driftpost_aggregator.store.database import reading, upsert, writing
from driftpost_aggregator.store.tables import deliveries, disabled_targets, retrain_requests

# Attempts in flight at once.
CONCURRENCY = 8


@dataclass(frozen=True)
class _Claimed:
    request: str
    target: Target
    body: bytes
    attempts: int


def deliver_due(
    engine: Engine,
    targets: Sequence[Target],
    *,
    now_ms: int,
    jitter: random.Random,
    post: Post | None = None,
) -> dict[tuple[str, str], Answer]:
    """Make every attempt that is due.

    Args:
        engine: the database.
        targets: the receivers of the settings; deliveries to others wait until they are back.
        now_ms: Unix ms.
        jitter: source of the waits' randomness.
        post: publishes on the fleet's broker; None in a process without a connection.

    Returns:
        (request, target name) to what came of it.
    """
    claimed = _claim(engine, {target.name: target for target in targets}, now_ms, jitter)
    if not claimed:
        return {}
    answers = anyio.run(_attempt_all, claimed, now_ms, post)
    for one, answer in zip(claimed, answers, strict=True):
        _note(engine, one, answer, now_ms, jitter)
    return {(one.request, one.target.name): answer for one, answer in zip(claimed, answers, strict=True)}


def _claim(
    engine: Engine, targets: Mapping[str, Target], now_ms: int, jitter: random.Random
) -> list[_Claimed]:
    due = (
        select(deliveries.c.request, deliveries.c.target, deliveries.c.attempts, retrain_requests.c.body)
        .join_from(deliveries, retrain_requests)
        .where(deliveries.c.state == "pending", deliveries.c.next_attempt_ms <= now_ms)
        .where(deliveries.c.target.in_(targets))
        .order_by(deliveries.c.next_attempt_ms)
        .limit(CONCURRENCY)
    )
    with reading(engine) as connection:
        rows = connection.execute(due).all()
    if not rows:
        return []
    claimed = []
    with writing(engine) as connection:
        for row in rows:
            taken = connection.execute(
                update(deliveries)
                .where(
                    deliveries.c.request == row.request,
                    deliveries.c.target == row.target,
                    deliveries.c.state == "pending",
                    # Another worker that took it meanwhile has counted its own attempt.
                    deliveries.c.attempts == row.attempts,
                )
                .values(
                    attempts=row.attempts + 1,
                    last_attempt_ms=now_ms,
                    next_attempt_ms=lease(
                        row.attempts + 1, now_ms, targets[row.target].timeout_s, jitter.random()
                    ),
                )
            )
            if taken.rowcount:
                claimed.append(_Claimed(row.request, targets[row.target], row.body, row.attempts + 1))
    return claimed


async def _attempt_all(claimed: Sequence[_Claimed], now_ms: int, post: Post | None) -> list[Answer]:
    answers: dict[int, Answer] = {}

    async def one(index: int, part: _Claimed) -> None:
        answers[index] = await _attempt(part, now_ms, post)

    async with anyio.create_task_group() as group:
        for index, part in enumerate(claimed):
            group.start_soon(one, index, part)
    return [answers[index] for index in range(len(claimed))]


async def _attempt(one: _Claimed, now_ms: int, post: Post | None) -> Answer:
    if one.target.kind == "command":
        return await anyio.to_thread.run_sync(command.deliver, one.target, one.request, one.body)
    if one.target.kind == "file":
        assert one.target.folder is not None, "checked with the settings"
        return await anyio.to_thread.run_sync(file_drop.deliver, one.target.folder, one.request, one.body)
    if one.target.kind == "mqtt":
        return await topic.deliver(one.target, one.body, post)
    return await webhook.deliver(one.target, one.request, one.body, now_ms)


def _note(engine: Engine, one: _Claimed, answer: Answer, now_ms: int, jitter: random.Random) -> None:
    verdict = judge(answer, one.attempts)
    values: dict[str, object] = {
        "state": verdict.state,
        "last_status": answer.status,
        "last_error": answer.error[:500],
    }
    if verdict.state == "delivered":
        values["delivered_ms"] = now_ms
    elif verdict.state == "pending":
        values["next_attempt_ms"] = next_attempt(one.attempts, now_ms, answer.retry_after_s, jitter.random())
    # What another worker has delivered meanwhile stays delivered, and its attempts are its own.
    mine = (
        deliveries.c.state != "delivered"
        if verdict.state == "delivered"
        else (deliveries.c.state == "pending") & (deliveries.c.attempts == one.attempts)
    )
    with writing(engine) as connection:
        audit.hold(connection)
        connection.execute(
            update(deliveries)
            .where(deliveries.c.request == one.request, deliveries.c.target == one.target.name, mine)
            .values(**values)
        )
        settle_delivery(connection, one.request, now_ms)
        if verdict.disable:
            _disable(connection, one.target, answer.error[:500], now_ms)


def _disable(connection: Connection, target: Target, reason: str, now_ms: int) -> None:
    """Leave a target alone: what waits for it has failed, and so has a request that has no other."""
    row: dict[str, object] = {
        "target": target.name,
        "url": target.place,
        "disabled_ms": now_ms,
        "reason": reason,
    }
    upsert(connection, disabled_targets, [row])
    waiting = (deliveries.c.target == target.name) & (deliveries.c.state == "pending")
    requests = connection.execute(select(deliveries.c.request).where(waiting).order_by(deliveries.c.request))
    names = list(requests.scalars())
    connection.execute(
        update(deliveries).where(waiting).values(state="failed", last_error="the target answered 410 Gone")
    )
    for name in names:
        settle_delivery(connection, name, now_ms)
    audit.append(
        connection,
        at_ms=now_ms,
        actor=AGGREGATOR,
        action="target disabled",
        subject=target.name,
        words=f"{target.place} answered 410 Gone",
    )
