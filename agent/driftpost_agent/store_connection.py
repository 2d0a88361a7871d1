"""One connection to the store's file, used by one thread at a time in transactions that nest."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from driftpost_agent.private_windows import PrivacyPolicy
from driftpost_agent.store_file import damaged
from driftpost_sync.clock import Clock
from driftpost_sync.outbox import Outbox


class StoreConnection:
    """What all parts of the store share.

    Attributes:
        lock: held around every use of the connection.
        outbox: messages on their way to the aggregator; use it inside `transaction()`.
        privacy: how windows may leave, None if as they are.
        damage: what showed in use that the file is damaged, "" while nothing did.
    """

    outbox: Outbox

    def __init__(self, connection: sqlite3.Connection, clock: Clock, privacy: PrivacyPolicy | None) -> None:
        self.lock = threading.RLock()
        self.privacy = privacy
        self._db = connection
        self._clock = clock
        self.damage = ""

    @property
    def incarnation(self) -> int:
        """Number of this start, see ARCHITECTURE.md."""
        return self.outbox.incarnation

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the lock and a write transaction; commits at the end, rolls back on an exception.

        Nested uses join the outermost one.
        """
        with self.lock:
            if self._db.in_transaction:
                yield self._db
                return
            try:
                self._db.execute("begin immediate")
                yield self._db
                self._db.execute("commit")
            except BaseException as error:
                # A full disk makes SQLite roll back by itself; a second time would hide what was wrong.
                if self._db.in_transaction:
                    self._db.execute("rollback")
                if isinstance(error, sqlite3.DatabaseError) and damaged(error):
                    self.damage = str(error)
                raise

    @contextmanager
    def outbox_transaction(self) -> Iterator[Outbox]:
        """The outbox inside a transaction, as the link wants it."""
        with self.transaction():
            yield self.outbox

    @contextmanager
    def _settled(self) -> Iterator[Outbox]:
        """The outbox for reading, after acknowledgements that were not written yet.

        Those are written in one transaction: a kill between rows and counters would leave an account that
        never adds up again.
        """
        with self.lock:
            if self.outbox.unsettled:
                with self.transaction():
                    self.outbox.settle()
            yield self.outbox
