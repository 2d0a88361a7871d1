"""Sketches of delayed labels, merged by device, cohort and fleet and by day."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select, tuple_

from driftpost_aggregator.checks import MAX_ROWS_PER_S
from driftpost_aggregator.errors import MessageRejected
from driftpost_aggregator.merge import cohorts_of
from driftpost_aggregator.registry import KnownBundle
from driftpost_aggregator.store.database import upsert
from driftpost_aggregator.store.tables import label_rollups
from driftpost_sketches.errors import MalformedSketch, SketchError
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sync.messages import LabelsBody

log = logging.getLogger(__name__)

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

    Args:
        body: as decoded.
        known: its bundle, None while nobody has described it: `catch_up_labels` checks it then.

    Raises:
        MessageRejected: it is malformed, not of this bundle, or more than its device can have been told.
    """
    try:
        sketch = LabelSketch.from_bytes(body.sketch)
    except SketchError as error:
        raise MessageRejected(str(error)) from error
    span_ms = body.mono_end - body.mono_start
    if sketch.rows > MAX_ROWS_PER_S * (span_ms / 1000 + 1):
        raise MessageRejected(f"{sketch.rows} labels in {span_ms / 1000:g} s can not have been given")
    if known is None:
        return sketch
    if known.performance is None:
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
    undescribed: Collection[str] = (),
) -> None:
    """Add contributions to the rows of their device, its cohorts and the fleet.

    Args:
        connection: in a write transaction.
        contributions: each once.
        attributes: key to value, per device.
        now_ms: Unix ms.
        undescribed: bundles whose labels stay with their devices until `catch_up_labels` merges them.
    """
    sums: dict[Key, _Sum] = {}
    for part in contributions:
        day = part.end_ms // DAY_MS * DAY_MS
        scopes = [("device", part.device)]
        if part.bundle not in undescribed:
            scopes += _wider(part.device, attributes)
        for scope, key in scopes:
            _add(sums, (scope, key, part.bundle, day), part.sketch, part.unknown)
    _write(connection, sums, now_ms)


def catch_up_labels(
    connection: Connection,
    known: KnownBundle,
    attributes_of: Callable[[Connection, Iterable[str]], Mapping[str, Mapping[str, str]]],
    now_ms: int,
) -> None:
    """Merge labels that came before their bundle was described; drop those that do not fit its reference.

    Until then they stand with their devices only, so what the fleet has counted can not be counted again.

    Args:
        connection: in a write transaction.
        known: the bundle.
        attributes_of: key to value of each of these devices.
        now_ms: Unix ms.
    """
    columns = label_rollups.c
    ours = columns.bundle == known.bundle
    merged = select(columns.day_ms).where(ours, columns.scope == "fleet").limit(1)
    if connection.execute(merged).first() is not None:
        return
    rows = connection.execute(select(label_rollups).where(ours, columns.scope == "device")).all()
    classes = None if known.performance is None else known.performance.labels.classes
    attributes = attributes_of(connection, {row.scope_key for row in rows})
    sums: dict[Key, _Sum] = {}
    for row in rows:
        sketch = LabelSketch.from_bytes(row.sketch)
        if sketch.classes != classes:
            this = (columns.scope == "device") & (columns.scope_key == row.scope_key)
            connection.execute(delete(label_rollups).where(ours, this, columns.day_ms == row.day_ms))
            continue
        for scope, key in _wider(row.scope_key, attributes):
            _add(sums, (scope, key, known.bundle, row.day_ms), sketch, row.unknown)
    _write(connection, sums, now_ms)


@dataclass
class _Sum:
    sketch: LabelSketch
    unknown: int
    full: bool = False

    def add(self, sketch: LabelSketch, unknown: int) -> None:
        try:
            self.sketch = self.sketch.merge(sketch)
            self.unknown += unknown
        except MalformedSketch:
            self.full = True


def _wider(device: str, attributes: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """The scopes around a device."""
    return [("fleet", ""), *(("cohort", cohort) for cohort in cohorts_of(attributes.get(device, {})))]


def _add(sums: dict[Key, _Sum], name: Key, sketch: LabelSketch, unknown: int) -> None:
    if name in sums:
        sums[name].add(sketch, unknown)
    else:
        sums[name] = _Sum(sketch, unknown)


def _write(connection: Connection, sums: dict[Key, _Sum], now_ms: int) -> None:
    """Add sums to what is stored."""
    names = sorted(sums)
    columns = label_rollups.c
    key_of = tuple_(columns.scope, columns.scope_key, columns.bundle, columns.day_ms)
    for begin in range(0, len(names), _KEYS_PER_QUERY):
        query = select(label_rollups).where(key_of.in_(names[begin : begin + _KEYS_PER_QUERY]))
        for row in connection.execute(query).all():
            name = (row.scope, row.scope_key, row.bundle, row.day_ms)
            sums[name].add(LabelSketch.from_bytes(row.sketch), row.unknown)
    for name in names:
        if sums[name].full:
            # Only a device that invents its counts can fill one, or send two kinds of labels: what its
            # neighbours send is no less good, and stays in their own rows.
            log.warning("the labels of %s %s of bundle %s on day %d can hold no more", *name)
    upsert(
        connection,
        label_rollups,
        [
            {
                "scope": scope,
                "scope_key": key,
                "bundle": bundle,
                "day_ms": day,
                "rows": part.sketch.rows,
                "unknown": part.unknown,
                "sketch": part.sketch.to_bytes(),
                "updated_ms": now_ms,
            }
            for (scope, key, bundle, day), part in sorted(sums.items(), key=lambda item: item[0])
            if not part.full
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
