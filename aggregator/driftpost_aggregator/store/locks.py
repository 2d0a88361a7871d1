"""PostgreSQL's advisory locks that workers of one database meet at; SQLite has one writer anyway.

Numbers are arbitrary; they only must differ. Taken in this order, everything else in between: `INGEST`, rows
of devices by name, `WIDE`.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

# Shared by every batch, alone for what must not run beside any: merging what waited for its bundle, and
# moving the moments before which only coarser rollups are kept.
INGEST = 0x6472_6968
# Rollups of cohorts and the fleet, which every batch of every worker touches: held from their merge, at the
# end of a transaction, to its commit.
WIDE = 0x6472_696A
# One worker at a time coarsens and deletes.
RETENTION = 0x6472_696B
# One worker at a time decides on a retrain request, queues a push of labels, puts a message together.
REQUESTS = 0x6472_696C
LABELS = 0x6472_696D
ALERTS = 0x6472_696E


def share(connection: Connection, number: int) -> None:
    """Take a lock that others may share, until the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock_shared(:n)"), {"n": number})


def hold(connection: Connection, number: int) -> None:
    """Take a lock alone, until the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": number})


def try_hold(connection: Connection, number: int) -> bool:
    """Take a lock alone, if nobody has it."""
    if connection.dialect.name != "postgresql":
        return True
    return bool(connection.execute(text("SELECT pg_try_advisory_xact_lock(:n)"), {"n": number}).scalar_one())
