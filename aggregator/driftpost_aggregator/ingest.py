"""Taking messages: one transaction a batch, exactly once, acknowledged only after the commit.

If we die before the commit, nothing was counted and the devices send again. If we die after it, before the
acknowledgement left, they send again too, and `seen` recognises it. Either way everything counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from driftpost_aggregator.batch import Batch, Incoming, Reply
from driftpost_aggregator.registry import Registry
from driftpost_aggregator.store.database import writing
from driftpost_sketches.errors import SketchError


class Ingest:
    """Takes batches into the database; for one thread.

    Args:
        engine: the database, migrated.
        fleet: name of the fleet whose topics we take.
        bucket_s: length of a rollup's bucket, seconds.
        quarantine_rows: rejected messages kept.
        now_ms: our clock, Unix ms.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        fleet: str,
        bucket_s: int,
        quarantine_rows: int = 10_000,
        now_ms: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._fleet = fleet
        self._bucket_s = bucket_s
        self._quarantine_rows = quarantine_rows
        self._now_ms = now_ms
        self._registry = Registry()

    def take(self, batch: Sequence[Incoming]) -> list[Reply]:
        """Commit a batch and say what to acknowledge.

        A message that makes the database or a merge fail by itself is found by halving the batch, and goes to
        quarantine: one hostile device can not keep the others from being counted.

        Raises:
            sqlalchemy.exc.DBAPIError: the database is not usable now (disk full, locked, down); nothing was
                committed, so take the batch again later.
        """
        if not batch:
            return []
        try:
            return self._commit(batch)
        except (SketchError, StatementError, OverflowError, UnicodeError) as error:
            # What was rolled back must not be remembered as registered.
            self._registry = Registry()
            # The database's own troubles are no message's fault; what it says about values is.
            if isinstance(error, DBAPIError) and not isinstance(error, DataError | IntegrityError):
                raise
            if len(batch) > 1:
                middle = len(batch) // 2
                return [*self.take(batch[:middle]), *self.take(batch[middle:])]
            return self._commit(batch, refuse=f"can not be stored: {type(error).__name__}")

    def _commit(self, batch: Sequence[Incoming], *, refuse: str | None = None) -> list[Reply]:
        with writing(self._engine) as connection:
            work = Batch(
                connection,
                self._registry,
                fleet=self._fleet,
                bucket_s=self._bucket_s,
                quarantine_rows=self._quarantine_rows,
                now_ms=self._now_ms(),
            )
            for incoming in batch:
                work.add(incoming, refuse)
            return work.finish()
