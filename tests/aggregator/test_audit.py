from __future__ import annotations

import pytest
from sqlalchemy import Engine, delete, insert, update

from driftpost_aggregator import audit
from driftpost_aggregator.errors import AuditBroken
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading, writing


def _log(engine: Engine, rows: int) -> str:
    for number in range(rows):
        with writing(engine) as connection:
            audit.append(
                connection,
                at_ms=number,
                actor="anna",
                action="incident muted",
                subject=f"inc-{number}",
                words='über "Nacht"\n',
            )
    with reading(engine) as connection:
        return audit.verify(connection).head


def test_an_untouched_log_verifies_over_several_pages(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_PAGE", 3)
    head = _log(engine, 8)
    with reading(engine) as connection:
        chain = audit.verify(connection)
    assert (chain.rows, chain.head) == (8, head)
    assert len(head) == 64


def test_an_empty_log_verifies(engine: Engine) -> None:
    with reading(engine) as connection:
        assert audit.verify(connection) == audit.Chain(0, audit.GENESIS)


@pytest.mark.parametrize("column", ["at_ms", "actor", "action", "subject", "text", "previous", "hash"])
def test_a_change_of_any_column_is_found_at_its_row(engine: Engine, column: str) -> None:
    _log(engine, 5)
    value: object = 77 if column == "at_ms" else "f" * 64
    with writing(engine) as connection:
        connection.execute(update(tables.audit).where(tables.audit.c.id == 3).values({column: value}))
    with reading(engine) as connection, pytest.raises(AuditBroken) as caught:
        audit.verify(connection)
    assert caught.value.row == 3


def test_a_removed_row_is_found(engine: Engine) -> None:
    _log(engine, 5)
    with writing(engine) as connection:
        connection.execute(delete(tables.audit).where(tables.audit.c.id == 2))
    with reading(engine) as connection, pytest.raises(AuditBroken, match="row 2: is missing"):
        audit.verify(connection)


def test_a_row_whose_own_hash_was_made_to_fit_breaks_the_next(engine: Engine) -> None:
    _log(engine, 4)
    with reading(engine) as connection:
        row = connection.execute(tables.audit.select().where(tables.audit.c.id == 2)).one()
    forged = audit.row_hash(
        2,
        at_ms=row.at_ms,
        actor="mallory",
        action=row.action,
        subject=row.subject,
        words=row.text,
        previous=row.previous,
    )
    with writing(engine) as connection:
        connection.execute(
            update(tables.audit).where(tables.audit.c.id == 2).values(actor="mallory", hash=forged)
        )
    with reading(engine) as connection, pytest.raises(AuditBroken) as caught:
        audit.verify(connection)
    assert caught.value.row == 3


def test_a_row_before_the_first_is_found(engine: Engine) -> None:
    _log(engine, 2)
    with writing(engine) as connection:
        connection.execute(
            insert(tables.audit).values(
                id=-4, at_ms=0, actor="m", action="a", subject="s", text="", previous="", hash=""
            )
        )
    with reading(engine) as connection, pytest.raises(AuditBroken, match="outside the chain"):
        audit.verify(connection)


def test_a_change_that_is_rolled_back_leaves_no_trace_in_the_log(engine: Engine) -> None:
    head = _log(engine, 2)

    def fail() -> None:
        with writing(engine) as connection:
            audit.append(connection, at_ms=9, actor="a", action="b", subject="c", words="d")
            raise RuntimeError("the change failed")

    with pytest.raises(RuntimeError):
        fail()
    with reading(engine) as connection:
        assert audit.verify(connection).head == head
