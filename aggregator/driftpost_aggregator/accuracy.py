"""Accuracy of the answers that an incident is about, as a retrain request tells it."""

from __future__ import annotations

import msgpack
from sqlalchemy import Connection, RowMapping, select

from driftpost_aggregator.label_rollups import labels_since
from driftpost_aggregator.merge import joined, shortest
from driftpost_aggregator.performance import performance_of
from driftpost_aggregator.store.tables import rollups
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.schema import Schema
from driftpost_sketches.window import Window

# Newest buckets since the onset that the estimate rests on.
_BUCKETS = 16


def incident_accuracy(
    connection: Connection, incident: RowMapping, bundle: RowMapping | None
) -> dict[str, object] | None:
    """What labels and confidences tell; None where the bundle has no labelled reference.

    Args:
        connection: to read with.
        incident: its row.
        bundle: the row of its bundle; None while nobody has described it.
    """
    if bundle is None or not bundle["performance"]:
        return None
    record = PerformanceRecord.from_bytes(bundle["performance"])
    scope, key, since = incident["scope"], incident["scope_key"], incident["onset_ms"]
    if scope == "cohort" and len(incident["attributes"]) != 1:
        return None
    query = (
        select(rollups.c.window)
        .where(rollups.c.scope == scope, rollups.c.scope_key == key)
        .where(rollups.c.bundle == incident["bundle"], rollups.c.bucket_start_ms >= since)
        .where(rollups.c.bucket_s == shortest(scope, key, incident["bundle"]))
        .order_by(rollups.c.bucket_start_ms.desc())
        .limit(_BUCKETS)
    )
    window: Window | None = None
    for packed in connection.execute(query).scalars():
        window = joined(window, Window.from_bytes(packed))
    found = performance_of(
        record,
        Schema.from_dict(msgpack.unpackb(bundle["schema"])),
        Window.from_bytes(bundle["baseline"]),
        bundle["tau"],
        window=window,
        labels=labels_since(connection, scope, key, incident["bundle"], since),
        drifting=() if incident["kind"] == "label_shift" else [one["stream"] for one in incident["streams"]],
    )
    plain: dict[str, object] = {"reference": round(1.0 - found.reference, 4)}
    if found.error_rate is not None and found.low is not None and found.high is not None:
        plain["by_labels"] = {
            "accuracy": round(1.0 - found.error_rate, 4),
            "low": round(1.0 - found.high, 4),
            "high": round(1.0 - found.low, 4),
            "labels": found.rows,
        }
    if found.estimate is not None:
        plain["estimated"] = {
            "accuracy": round(found.estimate.accuracy, 4),
            "low": round(found.estimate.low, 4),
            "high": round(found.estimate.high, 4),
            "doubts": list(found.estimate.doubts),
        }
    plain["loss"] = None if found.loss is None else round(found.loss, 4)
    return plain
