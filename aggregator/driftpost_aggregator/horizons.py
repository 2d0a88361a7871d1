"""Up to when rollups of each length are made and kept; what ingest asks before it merges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from driftpost_aggregator.merge import Key
from driftpost_aggregator.store import bulk
from driftpost_aggregator.store.tables import coarse_work, horizons

HOUR_S, DAY_S = 3_600, 86_400
_WORK_COLUMNS = ("bucket_s", "bucket_start_ms", "scope", "scope_key", "bundle")


def lengths(bucket_s: int) -> tuple[int, ...]:
    """Lengths of buckets that are kept, seconds, ascending: the settings', then hours and days."""
    # A length that does not divide an hour or a day is not merged into it.
    return (bucket_s, *(length for length in (HOUR_S, DAY_S) if length > bucket_s and length % bucket_s == 0))


@dataclass(frozen=True)
class Horizon:
    """Of one length of buckets.

    Attributes:
        begun_ms: buckets that start before it are made from shorter ones, or wait in `coarse_work`.
        queued_ms: before it all of them have been put there.
        kept_ms: rollups that start before it are merged into longer buckets only.
    """

    begun_ms: int = 0
    queued_ms: int = 0
    kept_ms: int = 0


@dataclass(frozen=True)
class Horizons:
    """Of every length, as one transaction saw them; they stand still while it holds `locks.INGEST`."""

    bucket_s: int
    by_length: Mapping[int, Horizon]

    @classmethod
    def read(cls, connection: Connection, bucket_s: int) -> Horizons:
        """As they are now."""
        rows = connection.execute(select(horizons))
        return cls(
            bucket_s, {row.bucket_s: Horizon(row.begun_ms, row.queued_ms, row.kept_ms) for row in rows}
        )

    def of(self, bucket_s: int) -> Horizon:
        """Of one length."""
        return self.by_length.get(bucket_s, Horizon())

    def length_for(self, start_ms: int) -> int:
        """The shortest buckets that are still kept for a window that began then, seconds."""
        *shorter, longest = lengths(self.bucket_s)
        return next((length for length in shorter if start_ms >= self.of(length).kept_ms), longest)

    def queue(self, connection: Connection, written: Iterable[Key]) -> int:
        """Let the longer buckets that these rollups belong to be merged again, where that was done before.

        Returns:
            How many.
        """
        known = lengths(self.bucket_s)
        late: set[tuple[int, int, str, str, str]] = set()
        for key in written:
            if key.bucket_s not in known[:-1]:
                continue
            length = known[known.index(key.bucket_s) + 1]
            start_ms = key.start_ms // (length * 1000) * (length * 1000)
            if start_ms < self.of(length).begun_ms:
                late.add((length, start_ms, key.scope, key.scope_key, key.bundle))
        bulk.insert_missing(connection, coarse_work, _WORK_COLUMNS, sorted(late))
        return len(late)
