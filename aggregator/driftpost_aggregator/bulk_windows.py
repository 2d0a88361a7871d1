"""Many stored windows of one bundle read in bulk and merged by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from driftpost_aggregator.merge import joined
from driftpost_aggregator.registry import KnownBundle
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.window import Window
from driftpost_sketches.window_batch import WindowBatch

# Windows read in one go at most, so that what waits to be read stays small beside its arrays.
MAX_BATCH = 4_096


def batches(
    known: KnownBundle, packed: Iterable[tuple[str, bytes]]
) -> Iterator[tuple[list[str], WindowBatch]]:
    """Windows with their names, read some thousands at a time; what is of another schema is refused there."""
    most = min(WindowBatch.most(known.schema), MAX_BATCH)
    source = iter(packed)
    joint = None if known.joint is None else known.joint.count
    while chunk := list(islice(source, most)):
        yield (
            [name for name, _ in chunk],
            WindowBatch(known.schema, [bytes(data) for _, data in chunk], joint),
        )


def totals(known: KnownBundle, packed: Iterable[tuple[str, bytes]]) -> dict[str, Window]:
    """All windows of each name as one; without those of another schema."""
    result: dict[str, Window] = {}
    for names, batch in batches(known, packed):
        places: dict[str, list[int]] = {}
        for at, name in enumerate(names):
            if at not in batch.refused:
                places.setdefault(name, []).append(at)
        for name, chosen in places.items():
            try:
                total = batch.total(chosen)
            except MalformedSketch:
                # Only a device that invents its counts sends more than a window can hold.
                total = batch.window(chosen[0])
            result[name] = joined(result.get(name), total)
    return result
