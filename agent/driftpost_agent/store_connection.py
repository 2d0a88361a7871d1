"""One connection to the store's file, used by one thread at a time in transactions that nest."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from driftpost_agent.private_windows import PrivacyPolicy
from driftpost_sync.clock import Clock
from driftpost_sync.outbox import Outbox


class StoreConnection:
    """What all parts of the store share.

    Attributes:
        lock: held around every use of the connection.
        outbox: messages on their way to the aggregator; use it inside `transaction()`.
        privacy: how windows may leave, None if as they are.
    """

    outbox: Outbox

    def __init__(self, connection: sqlite3.Connection, clock: Clock, privacy: PrivacyPolicy | None) -> None:
        self.lock = threading.RLock()
        self.privacy = privacy
        self._db = connection
        self._clock = clock

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
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                # A full disk makes SQLite roll back by itself; a second time would hide what was wrong.
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise
            self._db.execute("commit")

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
