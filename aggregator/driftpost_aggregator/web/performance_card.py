"""The card on errors, calibration and estimated accuracy, for the pages of a device and of an incident."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from driftpost_aggregator.label_rollups import labels_since
from driftpost_aggregator.performance import Performance, performance_of
from driftpost_aggregator.web.models import Model
from driftpost_sketches.window import Window


def performance_card(
    connection: Connection,
    model: Model | None,
    scope: tuple[str, str],
    windows: Sequence[Window],
    *,
    since_ms: int,
    drifting: Collection[str] = (),
) -> Performance | None:
    """What labels and windows of a scope tell; None where the bundle has no labelled reference.

    Args:
        connection: to read with.
        model: its bundle.
        scope: as in rollups: ("device", name), ("cohort", "key=value") or ("fleet", "").
        windows: of the scope, in the span that is shown.
        since_ms: beginning of the span; labels are counted from that day on.
        drifting: streams in which something stands.
    """
    if model is None or model.performance is None:
        return None
    merged: Window | None = None
    for window in windows:
        if window.schema_id == model.schema.id:
            merged = window if merged is None else merged.merge(window)
    return performance_of(
        model.performance,
        model.schema,
        model.baseline,
        model.tau,
        window=merged,
        labels=labels_since(connection, *scope, model.bundle, since_ms),
        drifting=drifting,
    )
