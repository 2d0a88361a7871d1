"""Merging what was stored before its bundle was described."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select, tuple_, update

from driftpost_aggregator.checks import check_sketch
from driftpost_aggregator.label_rollups import catch_up_labels
from driftpost_aggregator.merge import Contribution, merge_into_rollups
from driftpost_aggregator.registry import Registry
from driftpost_aggregator.store.tables import device_attributes, windows
from driftpost_sketches.errors import SketchError
from driftpost_sketches.window import Window

# Windows merged at a time: a few megabytes of sketches in memory.
CATCH_UP = 500
_NAMES_PER_QUERY = 2_000


def attributes_of(connection: Connection, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Key to value of each of these devices."""
    wanted = sorted(names)
    result: dict[str, dict[str, str]] = {name: {} for name in wanted}
    for begin in range(0, len(wanted), _NAMES_PER_QUERY):
        query = select(device_attributes).where(
            device_attributes.c.device.in_(wanted[begin : begin + _NAMES_PER_QUERY])
        )
        for row in connection.execute(query):
            result[row.device][row.key] = row.value
    return result


def catch_up(connection: Connection, registry: Registry, bundle: str, *, bucket_s: int, now_ms: int) -> int:
    """Merge the stored windows and labels that waited for this bundle; windows that do not fit stay unmerged.

    Returns:
        Windows merged.
    """
    known = registry.find(connection, bundle)
    assert known is not None
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
        parts = []
        for row in rows:
            window = Window.from_bytes(row.window)
            try:
                check_sketch(window, known)
            except SketchError:
                continue
            parts.append((row, Contribution(row.device, bundle, row.start_ms, window, row.window)))
        merge_into_rollups(
            connection,
            [part for _, part in parts],
            attributes_of(connection, {row.device for row, _ in parts}),
            bucket_s=bucket_s,
            now_ms=now_ms,
        )
        for row, _ in parts:
            connection.execute(
                update(windows)
                .where(
                    windows.c.device == row.device,
                    windows.c.incarnation == row.incarnation,
                    windows.c.seq == row.seq,
                )
                .values(merged=True)
            )
        merged += len(parts)
        after = (rows[-1].device, rows[-1].incarnation, rows[-1].seq)
