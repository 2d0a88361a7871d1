"""Sketches of delayed labels, merged by device, cohort and fleet and by day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, tuple_

from driftpost_aggregator.errors import MessageRejected
from driftpost_aggregator.merge import cohorts_of
from driftpost_aggregator.registry import KnownBundle
from driftpost_aggregator.store.database import upsert
from driftpost_aggregator.store.tables import label_rollups
from driftpost_sketches.errors import SketchError
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sync.messages import LabelsBody

DAY_MS = 86_400_000
_KEYS_PER_QUERY = 1_000

Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class LabelContribution:
    """What one message adds.

    Attributes:
        device: that sent it.
        bundle: whose answers were labelled.
        end_ms: when the last of the labels came, Unix ms.
        sketch: of them.
        unknown: labels whose inference the device no longer remembered.
    """

    device: str
    bundle: str
    end_ms: int
    sketch: LabelSketch
    unknown: int


def check_labels(body: LabelsBody, known: KnownBundle | None) -> LabelSketch:
    """The sketch of a message, checked against the bundle that it names.

    Raises:
        MessageRejected: it is malformed, or not of this bundle.
    """
    try:
        sketch = LabelSketch.from_bytes(body.sketch)
    except SketchError as error:
        raise MessageRejected(str(error)) from error
    if known is None or known.performance is None:
        raise MessageRejected("labels of a bundle that was not described with a labelled reference")
    if sketch.classes != known.performance.labels.classes:
        raise MessageRejected(
            f"labels of {sketch.classes} classes, not of {known.performance.labels.classes} as its reference"
        )
    return sketch


def merge_labels(
    connection: Connection,
    contributions: Sequence[LabelContribution],
    attributes: Mapping[str, Mapping[str, str]],
    now_ms: int,
) -> None:
    """Add contributions to the rows of their device, its cohorts and the fleet.

    Args:
        connection: in a write transaction.
        contributions: each once.
        attributes: key to value, per device.
        now_ms: Unix ms.
    """
    sums: dict[Key, tuple[LabelSketch, int]] = {}
    for part in contributions:
        day = part.end_ms // DAY_MS * DAY_MS
        scopes = [("device", part.device), ("fleet", "")]
        scopes += [("cohort", cohort) for cohort in cohorts_of(attributes.get(part.device, {}))]
        for scope, key in scopes:
            name = (scope, key, part.bundle, day)
            before = sums.get(name)
            merged = part.sketch if before is None else before[0].merge(part.sketch)
            sums[name] = (merged, part.unknown + (0 if before is None else before[1]))
    names = sorted(sums)
    columns = label_rollups.c
    key_of = tuple_(columns.scope, columns.scope_key, columns.bundle, columns.day_ms)
    for begin in range(0, len(names), _KEYS_PER_QUERY):
        query = select(label_rollups).where(key_of.in_(names[begin : begin + _KEYS_PER_QUERY]))
        for row in connection.execute(query).all():
            name = (row.scope, row.scope_key, row.bundle, row.day_ms)
            sketch, unknown = sums[name]
            sums[name] = (LabelSketch.from_bytes(row.sketch).merge(sketch), unknown + row.unknown)
    upsert(
        connection,
        label_rollups,
        [
            {
                "scope": scope,
                "scope_key": key,
                "bundle": bundle,
                "day_ms": day,
                "rows": sums[scope, key, bundle, day][0].rows,
                "unknown": sums[scope, key, bundle, day][1],
                "sketch": sums[scope, key, bundle, day][0].to_bytes(),
                "updated_ms": now_ms,
            }
            for scope, key, bundle, day in names
        ],
    )


def labels_since(
    connection: Connection, scope: str, scope_key: str, bundle: str, since_ms: int
) -> LabelSketch | None:
    """Labels of a scope since the day of a moment, merged; None where none came."""
    query = select(label_rollups.c.sketch).where(
        label_rollups.c.scope == scope,
        label_rollups.c.scope_key == scope_key,
        label_rollups.c.bundle == bundle,
        label_rollups.c.day_ms >= since_ms // DAY_MS * DAY_MS,
    )
    total: LabelSketch | None = None
    for packed in connection.execute(query).scalars():
        one = LabelSketch.from_bytes(bytes(packed))
        total = one if total is None else total.merge(one)
    return total
