"""Rollups become coarser with age: minutes for days, hours for weeks, days for years, by merging.

A longer bucket is merged from shorter ones once it has closed, and again whenever a late window changes one
of them: `coarse_work` holds what is to be done, so a crash at any point repeats work and never loses or
doubles any. Shorter buckets are deleted only when nothing is left to be merged from them; from then on, a
window from before that moment is merged into the longer bucket directly. So the counts of all closed buckets
of one length are the counts of everything that was taken, to the last row.

Everything goes in bounded transactions; one worker of a database does it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, literal, select, text
from sqlalchemy.dialects import postgresql, sqlite

from driftpost_aggregator import merge
from driftpost_aggregator.horizons import DAY_S, HOUR_S, Horizons, lengths
from driftpost_aggregator.merge import Key, Stored, joined
from driftpost_aggregator.registry import Registry
from driftpost_aggregator.store import bulk, locks, partitions
from driftpost_aggregator.store.database import reading, upsert, writing
from driftpost_aggregator.store.tables import coarse_work, devices, horizons, rollups
from driftpost_sketches.window import Window
from driftpost_sketches.window_batch import WindowBatch

log = logging.getLogger(__name__)

# A bucket is merged this long after its end, ms: most late windows have arrived.
GRACE_MS = 120_000
# Longer buckets of one scope merged in one transaction: each reads up to 24 shorter ones of 2 kB.
KEYS_PER_STEP = 200
# Rows deleted in one transaction.
ROWS_PER_DELETE = 2_000
DAY_MS = 86_400_000
# Transactions in one round, so that the loop shows progress.
STEPS_PER_ROUND = 20
IDLE_S = 20.0


@dataclass(frozen=True)
class Keep:
    """How long what is kept, days.

    Attributes:
        raw_days: windows as they came, and rollups of `rollups.bucket_s`.
        hours_days: rollups by the hour.
        days_days: rollups by the day.
    """

    raw_days: int = 7
    hours_days: int = 60
    days_days: int = 1_830

    def of(self, bucket_s: int) -> int:
        """Of rollups of one length."""
        return {HOUR_S: self.hours_days, DAY_S: self.days_days}.get(bucket_s, self.raw_days)


class Retention:
    """Makes and deletes rollups and deletes windows; for one thread.

    Args:
        engine: the database, migrated.
        bucket_s: length of a rollup's shortest bucket, seconds.
        keep: how long what is kept.
        now_ms: our clock, Unix ms.
    """

    def __init__(self, engine: Engine, *, bucket_s: int, keep: Keep, now_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._bucket_s = bucket_s
        self._lengths = lengths(bucket_s)
        self._keep = keep
        self._now_ms = now_ms
        self._registry = Registry()

    def round(self) -> float:
        """Some steps of whatever is due.

        Returns:
            Seconds to wait before the next round.
        """
        if self._engine.dialect.name == "postgresql":
            with writing(self._engine) as connection:
                locks.hold(connection, locks.RETENTION)
                made = partitions.make_ahead(connection, self._now_ms(), self._lengths)
            for name in made:
                log.info("made the partition %s", name)
        for _ in range(STEPS_PER_ROUND):
            if not self.step():
                return IDLE_S
        return 0.0

    def step(self) -> bool:
        """One bounded transaction or two; whether there may be more to do."""
        for source, target in zip(self._lengths, self._lengths[1:], strict=False):
            if self._merge_some(source, target) or self._begin_next(source, target):
                return True
        return (
            any(self._forget(length) for length in self._lengths)
            or self._forget_others()
            or self._forget_windows()
        )

    def _begin_next(self, source: int, target: int) -> bool:
        """Queue the next longer bucket that has closed."""
        with reading(self._engine) as connection:
            if self._next(connection, source, target) is None:
                return False
        with writing(self._engine) as connection:
            # Nobody writes meanwhile: what came before is seen here, and from here on whoever writes into
            # this bucket, or an earlier one, queues it himself.
            locks.hold(connection, locks.INGEST)
            found = self._next(connection, source, target)
            if found is None:
                return False
            _put(connection, self._bucket_s, target, begun_ms=found + target * 1000)
        with writing(self._engine) as connection:
            _queue_all(connection, source, target, found)
            _put(connection, self._bucket_s, target, queued_ms=found + target * 1000)
        return True

    def _next(self, connection: Connection, source: int, target: int) -> int | None:
        """The start of the next longer bucket, if it has closed."""
        at = Horizons.read(connection, self._bucket_s).of(target)
        if at.begun_ms > at.queued_ms:
            # It was begun when we were interrupted.
            return at.begun_ms - target * 1000
        first = connection.execute(
            select(func.min(rollups.c.bucket_start_ms)).where(
                rollups.c.bucket_start_ms >= at.queued_ms,
                rollups.c.scope == "fleet",
                rollups.c.bucket_s == source,
            )
        ).scalar()
        if first is None:
            return None
        start_ms = int(first) // (target * 1000) * (target * 1000)
        return start_ms if start_ms + target * 1000 + GRACE_MS <= self._now_ms() else None

    def _merge_some(self, source: int, target: int) -> bool:
        """Merge some of the longer buckets that wait; whether there were any."""
        with writing(self._engine) as connection:
            if not locks.try_hold(connection, locks.RETENTION):
                return False
            work = connection.execute(
                select(
                    coarse_work.c.scope,
                    coarse_work.c.scope_key,
                    coarse_work.c.bundle,
                    coarse_work.c.bucket_s,
                    coarse_work.c.bucket_start_ms,
                )
                .where(coarse_work.c.bucket_s == target)
                .order_by(*(coarse_work.c[column.name] for column in coarse_work.primary_key.columns))
                .limit(KEYS_PER_STEP)
            ).all()
            keys = [Key(*row) for row in work]
            if not keys:
                return False
            locks.share(connection, locks.INGEST)
            held = [(name,) for name in sorted({key.scope_key for key in keys if key.scope == "device"})]
            # Whoever writes the rollups of a device holds its row.
            bulk.fetch(
                connection,
                devices,
                [devices.c.device],
                held,
                [devices.c.device],
                lock=True,
            )
            written = self._merge(connection, source, keys)
            # Days that were merged from these hours before have to be merged again.
            Horizons.read(connection, self._bucket_s).queue(connection, written)
            bulk.delete(
                connection,
                coarse_work,
                [
                    coarse_work.c[name]
                    for name in ("scope", "scope_key", "bundle", "bucket_s", "bucket_start_ms")
                ],
                [tuple(key) for key in keys],
            )
        return True

    def _merge(self, connection: Connection, source: int, keys: Sequence[Key]) -> list[Key]:
        own = [key for key in keys if key.scope == "device"]
        wide = {key: 0 for key in keys if key.scope != "device"}
        stored = merge.load(connection, own)
        parts = self._parts(connection, source, own)
        rows: list[bulk.Values] = []
        for key in own:
            if not parts[key]:
                continue
            before = stored.get(key)
            counted = set(before.cohorts) if before is not None else set()
            present = {cohort for part in parts[key] for cohort in part.cohorts}
            if before is None:
                wide[_wider(key, "fleet", "")] = wide.get(_wider(key, "fleet", ""), 0) + 1
            for cohort in present - counted:
                wide[_wider(key, "cohort", cohort)] = wide.get(_wider(key, "cohort", cohort), 0) + 1
            rows.append(self._row(connection, key, parts[key], 1, sorted(counted | present)))
        bulk.replace(connection, rollups, merge.COLUMNS, rows)
        locks.hold(connection, locks.WIDE)
        stored = merge.load(connection, wide)
        parts = self._parts(connection, source, list(wide))
        rows = []
        for key in sorted(wide):
            before = stored.get(key)
            found = parts[key] or ([] if before is None else [before])
            if found:
                counted_devices = wide[key] + (0 if before is None else before.devices)
                rows.append(self._row(connection, key, found, counted_devices, None))
        bulk.replace(connection, rollups, merge.COLUMNS, rows)
        return [*own, *wide]

    def _parts(self, connection: Connection, source: int, keys: Sequence[Key]) -> dict[Key, list[Stored]]:
        """The shorter buckets in each longer one."""
        found: dict[Key, list[Stored]] = {key: [] for key in keys}
        wanted = {
            key._replace(bucket_s=source, start_ms=start_ms): key
            for key in keys
            for start_ms in range(key.start_ms, key.start_ms + key.bucket_s * 1000, source * 1000)
        }
        for key, part in merge.load(connection, wanted).items():
            found[wanted[key]].append(part)
        return found

    def _row(
        self,
        connection: Connection,
        key: Key,
        parts: Sequence[Stored],
        counted: int,
        cohorts: list[str] | None,
    ) -> bulk.Values:
        packed = parts[0].window if len(parts) == 1 else None
        window = (
            Window.from_bytes(packed) if packed is not None else self._total(connection, key.bundle, parts)
        )
        return merge.row(key, window, packed, devices=counted, cohorts=cohorts, now_ms=self._now_ms())

    def _total(self, connection: Connection, bundle: str, parts: Sequence[Stored]) -> Window:
        known = self._registry.find(connection, bundle)
        if known is not None:
            joint = None if known.joint is None else known.joint.count
            batch = WindowBatch(known.schema, [part.window for part in parts], joint)
            if not batch.refused:
                total: Window | None = None
                for at in range(len(batch)):
                    total = joined(total, batch.window(at))
                assert total is not None
                return total
        # Merged before the bundle's owner replaced what a device had said of it.
        total = None
        for part in parts:
            window = Window.from_bytes(part.window)
            if total is None or total.schema_id == window.schema_id:
                total = joined(total, window)
        assert total is not None
        return total

    def _forget(self, bucket_s: int) -> bool:
        """Delete some rollups of one length that are too old; whether there were any."""
        longest = bucket_s == self._lengths[-1]
        days = self._keep.days_days if longest else self._keep.of(bucket_s)
        old_ms = (self._now_ms() - days * DAY_MS) // DAY_MS * DAY_MS
        with reading(self._engine) as connection:
            at = Horizons.read(connection, self._bucket_s)
        if at.of(bucket_s).kept_ms < old_ms and not self._raise(bucket_s, old_ms, longest=longest):
            return False
        with writing(self._engine) as connection:
            kept_ms = Horizons.read(connection, self._bucket_s).of(bucket_s).kept_ms
            if partitions.drop_before(connection, "rollups", kept_ms, bucket_s):
                return True
            values = {"kept": kept_ms, "length": bucket_s}
            return (
                _delete_some(connection, "rollups", "bucket_start_ms < :kept AND bucket_s = :length", values)
                > 0
            )

    def _forget_others(self) -> bool:
        """Delete some rollups of a length that the settings had before; whether there were any."""
        with reading(self._engine) as connection:
            others = [length for length in _stored_lengths(connection) if length not in self._lengths]
        for length in others:
            old_ms = (self._now_ms() - self._keep.of(length) * DAY_MS) // DAY_MS * DAY_MS
            with writing(self._engine) as connection:
                if partitions.drop_before(connection, "rollups", old_ms, length):
                    return True
                values = {"old": old_ms, "length": length}
                chosen = "bucket_start_ms < :old AND bucket_s = :length"
                if _delete_some(connection, "rollups", chosen, values):
                    return True
        return False

    def _raise(self, bucket_s: int, old_ms: int, *, longest: bool) -> bool:
        """Keep nothing of this length before a moment, if all of it has been merged into longer buckets."""
        with writing(self._engine) as connection:
            locks.hold(connection, locks.INGEST)
            at = Horizons.read(connection, self._bucket_s)
            if not longest:
                target = self._lengths[self._lengths.index(bucket_s) + 1]
                waits = select(coarse_work.c.bucket_s).where(
                    coarse_work.c.bucket_s == target, coarse_work.c.bucket_start_ms < old_ms
                )
                unmade = select(rollups.c.bucket_s).where(
                    rollups.c.scope == "fleet",
                    rollups.c.bucket_s == bucket_s,
                    rollups.c.bucket_start_ms >= at.of(target).queued_ms,
                    rollups.c.bucket_start_ms < old_ms,
                )
                if connection.execute(waits.limit(1)).first() or connection.execute(unmade.limit(1)).first():
                    return False
                # What comes now from before is merged into the longer bucket, and that is made.
                begun_ms = max(at.of(target).begun_ms, old_ms)
                queued_ms = max(at.of(target).queued_ms, old_ms)
                _put(connection, self._bucket_s, target, begun_ms=begun_ms, queued_ms=queued_ms)
            _put(connection, self._bucket_s, bucket_s, kept_ms=old_ms)
        return True

    def _forget_windows(self) -> bool:
        """Delete some windows that are too old and in the rollups; whether there were any."""
        old_ms = self._now_ms() - self._keep.raw_days * DAY_MS
        with writing(self._engine) as connection:
            if partitions.drop_before(connection, "windows", old_ms):
                return True
            # Parts in which some windows wait for their bundle are not dropped: the others go row by row.
            kept = []
            if self._engine.dialect.name == "postgresql":
                kept = partitions.parts_before(connection, "windows", old_ms)
            chosen = "received_ms < :old AND merged"
            return _delete_some(connection, "windows", chosen, {"old": old_ms}, kept) > 0


def _put(connection: Connection, bucket_s: int, length: int, **values: int) -> None:
    """Change the horizon of one length."""
    one = Horizons.read(connection, bucket_s).of(length)
    row: dict[str, object] = {
        "bucket_s": length,
        "begun_ms": one.begun_ms,
        "queued_ms": one.queued_ms,
        "kept_ms": one.kept_ms,
    }
    upsert(connection, horizons, [row | values])


def _wider(key: Key, scope: str, scope_key: str) -> Key:
    return key._replace(scope=scope, scope_key=scope_key)


def _queue_all(connection: Connection, source: int, target: int, start_ms: int) -> None:
    """Queue every scope that has anything in a longer bucket."""
    found = (
        select(literal(target), literal(start_ms), rollups.c.scope, rollups.c.scope_key, rollups.c.bundle)
        .where(
            rollups.c.bucket_s == source,
            rollups.c.bucket_start_ms >= start_ms,
            rollups.c.bucket_start_ms < start_ms + target * 1000,
        )
        .distinct()
    )
    names = [column.name for column in coarse_work.columns]
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    connection.execute(dialect.insert(coarse_work).from_select(names, found).on_conflict_do_nothing())


def _stored_lengths(connection: Connection) -> list[int]:
    """Lengths of the buckets there are, seconds, ascending; one step into the index for each."""
    found: list[int] = []
    while True:
        beyond = found[-1] if found else 0
        query = select(func.min(rollups.c.bucket_s)).where(rollups.c.bucket_s > beyond)
        longer = connection.execute(query).scalar()
        if longer is None:
            return found
        found.append(int(longer))


def _delete_some(
    connection: Connection, table: str, chosen: str, values: dict[str, int], parts: Sequence[str] = ()
) -> int:
    """Delete a bounded number of rows by where they lie; how many it were.

    Args:
        connection: in a write transaction.
        table: windows or rollups.
        chosen: which rows.
        values: bound in `chosen`.
        parts: of PostgreSQL's table, to be looked through beside the default one.
    """
    if connection.dialect.name == "sqlite":
        return _delete_from(connection, table, "rowid", chosen, values)
    # A row's place is only unique within its part; what lies beside whole parts is in the default one.
    for part in (f"{table}_default", *parts):
        deleted = _delete_from(connection, part, "ctid", chosen, values)
        if deleted:
            return deleted
    return 0


def _delete_from(connection: Connection, part: str, place: str, chosen: str, values: dict[str, int]) -> int:
    some = f"SELECT {place} FROM {part} WHERE {chosen} LIMIT {ROWS_PER_DELETE}"
    statement = f"DELETE FROM {part} WHERE {place} IN ({some})"
    return int(connection.execute(text(statement), values).rowcount)
