"""Taking messages: one transaction a batch, exactly once, acknowledged only after the commit.

If we die before the commit, nothing was counted and the devices send again. If we die after it, before the
acknowledgement left, they send again too, and `seen` recognises it. Either way everything counts once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from driftpost_aggregator.batch import Batch, Incoming, Reply
from driftpost_aggregator.registry import Registry
from driftpost_aggregator.store.database import writing

log = logging.getLogger(__name__)


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

        A message that makes the database, a merge or this program fail by itself is found by halving the
        batch, and goes to quarantine: one hostile device, or one mistake of ours, can not keep the others
        from being counted. One that can not even be set aside is left out, unacknowledged.

        Raises:
            sqlalchemy.exc.DBAPIError: the database is not usable now (disk full, locked, down); take the
                whole batch again later, what of it was committed is recognised.
            OSError, MemoryError, sqlalchemy.exc.TimeoutError: this machine is in trouble, not a message.
        """
        if not batch:
            return []
        try:
            return self._commit(batch)
        except (DataError, IntegrityError) as error:
            # What the database says about values is a message's fault; its own troubles are not.
            return self._halved(batch, error)
        except (DBAPIError, PoolTimeout, OSError, MemoryError):
            self._registry = Registry()
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the other messages must count
            return self._halved(batch, error)

    def _halved(self, batch: Sequence[Incoming], error: Exception) -> list[Reply]:
        """Take a failed batch in parts, or set its only message aside."""
        # What was rolled back must not be remembered as registered.
        self._registry = Registry()
        if len(batch) > 1:
            middle = len(batch) // 2
            return [*self.take(batch[:middle]), *self.take(batch[middle:])]
        log.warning("a message on %r can not be stored", batch[0].topic, exc_info=error)
        try:
            return self._commit(batch, refuse=f"can not be stored: {type(error).__name__}")
        except (DBAPIError, PoolTimeout, OSError, MemoryError):
            self._registry = Registry()
            raise
        except Exception:
            self._registry = Registry()
            log.exception(
                "a message on %r can not even be set aside; its device will repeat it", batch[0].topic
            )
            return []

    def _commit(self, batch: Sequence[Incoming], *, refuse: str | None = None) -> list[Reply]:
        work = Batch(
            self._registry,
            fleet=self._fleet,
            bucket_s=self._bucket_s,
            quarantine_rows=self._quarantine_rows,
            now_ms=self._now_ms(),
        )
        for incoming in batch:
            work.add(incoming, refuse)
        work.prepare(self._engine)
        with writing(self._engine) as connection:
            return work.finish(connection)
