"""Sending labels to their devices: to those that are there, again until they answer, not for ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, case, delete, func, select, update

from driftpost_aggregator.errors import MessageRejected
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.store.tables import devices, label_batches, label_pushes
from driftpost_sync.messages import AnswerBody, Request
from driftpost_sync.messages.given_labels import MAX_GIVEN, MAX_LABEL_ROWS

REQUEST = "labels"
# Parts sent in one round; their answers come over the same ingest that windows come over.
MAX_A_ROUND = 200
# Waits after each attempt, ms. A device answers when its window closes, usually within minutes; asking again
# costs it nothing but the bytes.
FIRST_WAIT_MS = 15 * 60_000
MAX_WAIT_MS = 6 * 3_600_000
# What is settled is kept for people to look at, ms.
KEEP_MS = 90 * 86_400_000

Send = Callable[[str, Request], bool]


@dataclass(frozen=True)
class _Due:
    batch: str
    device: str
    attempts: int
    expires_ms: int
    body: bytes


def forward_due(engine: Engine, send: Send, now_ms: int) -> int:
    """One round: end what has waited too long, send what is due to devices that are there.

    Args:
        engine: the database.
        send: gives a request to the link; False where it takes no more now.
        now_ms: Unix ms.

    Returns:
        Parts that were sent.
    """
    with reading(engine) as connection:
        due = _due(connection, now_ms)
        over = connection.execute(
            select(func.count()).where(
                label_batches.c.state == "waiting", label_batches.c.expires_ms <= now_ms
            )
        ).scalar_one()
        old = connection.execute(
            select(func.count()).where(
                label_batches.c.state != "waiting", label_batches.c.created_ms < now_ms - KEEP_MS
            )
        ).scalar_one()
    if over or old:
        with writing(engine) as connection:
            _end(connection, now_ms)
    sent = 0
    for one in due:
        wait_ms = min(FIRST_WAIT_MS << min(one.attempts, 10), MAX_WAIT_MS)
        with writing(engine) as connection:
            taken = connection.execute(
                update(label_batches)
                .where(
                    label_batches.c.batch == one.batch,
                    label_batches.c.state == "waiting",
                    # Another worker that took it has counted its own attempt.
                    label_batches.c.attempts == one.attempts,
                )
                .values(attempts=one.attempts + 1, next_attempt_ms=now_ms + wait_ms)
            )
        if not taken.rowcount:
            continue
        if not send(one.device, Request(one.batch, REQUEST, one.expires_ms, one.body)):
            break
        sent += 1
    return sent


def _due(connection: Connection, now_ms: int) -> list[_Due]:
    column = label_batches.c
    query = (
        select(column.batch, column.device, column.attempts, column.expires_ms, column.body)
        .join(devices, devices.c.device == column.device)
        .where(column.state == "waiting", column.next_attempt_ms <= now_ms, column.expires_ms > now_ms)
        .where(devices.c.online.is_(True))
        .order_by(column.next_attempt_ms, column.batch)
        .limit(MAX_A_ROUND)
    )
    return [
        _Due(row.batch, row.device, row.attempts, row.expires_ms, bytes(row.body))
        for row in connection.execute(query)
    ]


def _end(connection: Connection, now_ms: int) -> None:
    column = label_batches.c
    connection.execute(
        update(label_batches)
        .where(column.state == "waiting", column.expires_ms <= now_ms)
        .values(
            state="expired",
            settled_ms=now_ms,
            body=b"",
            detail=case(
                (column.attempts == 0, "its device was never there while it waited"),
                else_="its device was asked and did not answer",
            ),
        )
    )
    connection.execute(
        delete(label_batches).where(column.state != "waiting", column.created_ms < now_ms - KEEP_MS)
    )
    connection.execute(delete(label_pushes).where(label_pushes.c.at_ms < now_ms - KEEP_MS))


def settle(connection: Connection, device: str, answer: AnswerBody, now_ms: int) -> None:
    """Write down what a device said about a part, in the caller's write transaction.

    An answer that comes after its part has expired still counts: it says what really became of it.

    Raises:
        MessageRejected: it was not asked for that.
    """
    column = label_batches.c
    row = connection.execute(
        select(column.device, column.state, column.expires_ms).where(column.batch == answer.request)
    ).first()
    if row is None or row.device != device:
        raise MessageRejected("an answer to a request that was not made to it")
    if row.state not in ("waiting", "expired"):
        return
    if answer.outcome == "expired" and row.state == "waiting" and now_ms < row.expires_ms:
        # It was pushed again meanwhile, and this is about the time before; or that device's clock is wrong.
        return
    if sum(answer.counts.values()) > MAX_GIVEN * MAX_LABEL_ROWS:
        raise MessageRejected("an answer that counts more labels than it was given")
    counts = {name: answer.counts.get(name, 0) for name in ("counted", "twice", "unknown", "refused")}
    connection.execute(
        update(label_batches)
        .where(column.batch == answer.request)
        .values(state=answer.outcome, settled_ms=now_ms, detail=answer.text, body=b"", **counts)
    )
