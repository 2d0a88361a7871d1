"""The audit log: who changed what, in a chain that shows any later change.

Each row's hash is SHA-256 over a canonical JSON list of its columns and the hash before it (RFC 6962 uses
the same idea for certificates). Rows are only ever added, in the same transaction as the change they
record.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from sqlalchemy import Connection, desc, func, insert, select, text

from driftpost_aggregator.errors import AuditBroken
from driftpost_aggregator.store.tables import audit

GENESIS = "0" * 64
# Rows read at once when verifying.
_PAGE = 2_000
# Two workers must not take the same predecessor: PostgreSQL's advisory lock of this arbitrary number.
_CHAIN_LOCK = 0x6472_6967


def row_hash(
    row: int, *, at_ms: int, actor: str, action: str, subject: str, words: str, previous: str
) -> str:
    """The hash that a row must carry, hex."""
    canonical = json.dumps(
        [row, at_ms, actor, action, subject, words, previous], ensure_ascii=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def hold(connection: Connection) -> None:
    """Take the end of the chain, until the transaction ends.

    Who changes more rows than one, and who waits for a row that such a one may hold, takes it before any row:
    two that took them in different orders would lock each other out.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _CHAIN_LOCK})


def append(connection: Connection, *, at_ms: int, actor: str, action: str, subject: str, words: str) -> None:
    """Add a row, inside the caller's write transaction.

    Args:
        connection: a connection in a transaction from `store.database.writing`.
        at_ms: Unix ms.
        actor: "aggregator", or the person's name as the API knows it.
        action: what was done, a short verb phrase.
        subject: the id it was done to.
        words: the change in words.
    """
    hold(connection)
    last = connection.execute(select(audit.c.id, audit.c.hash).order_by(desc(audit.c.id)).limit(1)).first()
    row, previous = (1, GENESIS) if last is None else (last.id + 1, last.hash)
    connection.execute(
        insert(audit).values(
            id=row,
            at_ms=at_ms,
            actor=actor,
            action=action,
            subject=subject,
            text=words,
            previous=previous,
            hash=row_hash(
                row, at_ms=at_ms, actor=actor, action=action, subject=subject, words=words, previous=previous
            ),
        )
    )


@dataclass(frozen=True)
class Chain:
    """A verified chain: its length, and its last hash to write down elsewhere.

    A chain alone can not show that its end was cut off; comparing `head` with a noted one can.
    """

    rows: int
    head: str


def verify(connection: Connection) -> Chain:
    """Walk the whole log.

    Raises:
        AuditBroken: at the first row that does not follow from those before it.
    """
    expected, previous = 1, GENESIS
    while True:
        page = connection.execute(
            select(audit).where(audit.c.id >= expected).order_by(audit.c.id).limit(_PAGE)
        ).all()
        if not page:
            break
        for row in page:
            if row.id != expected:
                raise AuditBroken(expected, "is missing")
            if row.previous != previous:
                raise AuditBroken(row.id, "does not continue the row before it")
            if row.hash != row_hash(
                row.id,
                at_ms=row.at_ms,
                actor=row.actor,
                action=row.action,
                subject=row.subject,
                words=row.text,
                previous=row.previous,
            ):
                raise AuditBroken(row.id, "was changed after it was written")
            expected, previous = expected + 1, row.hash
    extra = connection.execute(select(func.count()).select_from(audit)).scalar_one() - (expected - 1)
    if extra:
        raise AuditBroken(0, f"{extra} rows stand outside the chain")
    return Chain(expected - 1, previous)
