"""Merging what was stored before its bundle was described."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select, tuple_

from driftpost_aggregator.checks import joint_of
from driftpost_aggregator.horizons import Horizons
from driftpost_aggregator.label_rollups import catch_up_labels
from driftpost_aggregator.merge import Contribution, merge_into_rollups
from driftpost_aggregator.registry import Registry
from driftpost_aggregator.store import bulk, locks
from driftpost_aggregator.store.tables import device_attributes, windows
from driftpost_sketches.window_batch import WindowBatch

# Windows merged at a time: a few megabytes of sketches in memory.
CATCH_UP = 500
_NAMED = (windows.c.device, windows.c.incarnation, windows.c.seq)


def attributes_of(connection: Connection, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Key to value of each of these devices."""
    wanted = sorted(names)
    result: dict[str, dict[str, str]] = {name: {} for name in wanted}
    columns = device_attributes.c
    for device, key, value in bulk.fetch(
        connection,
        device_attributes,
        [columns.device],
        [(name,) for name in wanted],
        (columns.device, columns.key, columns.value),
    ):
        result[device][key] = value
    return result


def catch_up(connection: Connection, registry: Registry, bundle: str, *, bucket_s: int, now_ms: int) -> int:
    """Merge the stored windows and labels that waited for this bundle; windows that do not fit stay unmerged.

    No other worker's batch runs meanwhile: it could store a window that waits, and not be seen.

    Returns:
        Windows merged.
    """
    known = registry.find(connection, bundle)
    assert known is not None
    locks.hold(connection, locks.INGEST)
    at = Horizons.read(connection, bucket_s)
    catch_up_labels(connection, known, attributes_of, now_ms)
    merged, after = 0, ("", -1, -1)
    key = tuple_(windows.c.device, windows.c.incarnation, windows.c.seq)
    while True:
        query = (
            select(windows)
            .where(windows.c.bundle == bundle, ~windows.c.merged, key > after)
            .order_by(windows.c.device, windows.c.incarnation, windows.c.seq)
            .limit(CATCH_UP)
        )
        rows = connection.execute(query).all()
        if not rows:
            return merged
        batch = WindowBatch(known.schema, [row.window for row in rows], joint_of(known))
        parts = [
            (
                row,
                Contribution(
                    row.device, bundle, at.length_for(row.start_ms), row.start_ms, batch, place, row.window
                ),
            )
            for place, row in enumerate(rows)
            if place not in batch.refused
        ]
        written = merge_into_rollups(
            connection,
            [part for _, part in parts],
            attributes_of(connection, {row.device for row, _ in parts}),
            now_ms=now_ms,
        )
        at.queue(connection, written)
        bulk.update(
            connection,
            windows,
            _NAMED,
            [(row.device, row.incarnation, row.seq) for row, _ in parts],
            sets="merged = true",
            where="t.device = k.device AND t.incarnation = k.incarnation AND t.seq = k.seq",
        )
        merged += len(parts)
        after = (rows[-1].device, rows[-1].incarnation, rows[-1].seq)
