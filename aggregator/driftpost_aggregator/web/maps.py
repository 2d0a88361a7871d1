"""What the heat maps show: evidence of devices, evidence of one device's streams, changes of cohorts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, func, or_, select

from driftpost_aggregator.store import tables
from driftpost_aggregator.web.charts.heat import ALARM, COLUMNS, Axis, Grid, Row, effect_map, evidence_map
from driftpost_aggregator.web.charts.theme import Figure, Look
from driftpost_aggregator.web.links import address, segment, stream_address
from driftpost_aggregator.web.models import Model
from driftpost_aggregator.web.queries import devices as device_queries
from driftpost_aggregator.web.queries.series import bundles_of, evidence
from driftpost_aggregator.web.site import Site

# Devices, cohorts or streams in one map: as many as fit a screen; those that need attention come first.
MAX_ROWS = {"narrow": 20, "medium": 30, "wide": 40}
# Bundles of one cohort that are looked at: those with the newest data.
_MAX_BUNDLES = 3
# Alarms of the shown devices in the shown span; far more than that and the map is red anyway.
_MAX_ALARMS = 4000

_finding = tables.findings.c


def shortest_cell_ms(site: Site, connection: Connection) -> float:
    """A cell must not be shorter than a device's window, or gaps would show where there are none."""
    newest = site.models.newest(connection)[:1]
    model = site.models.get(connection, newest[0].bundle) if newest else None
    return 1000.0 if model is None else 1000.0 * model.window_s


def _beginning(connection: Connection, devices: Sequence[str], from_ms: int) -> int:
    """When there is something to show: a young fleet would be a sliver at the end of an empty map."""
    first = connection.scalar(
        select(func.min(tables.devices.c.first_seen_ms)).where(tables.devices.c.device.in_(devices))
    )
    return from_ms if first is None else max(from_ms, int(first))


def alarms(
    connection: Connection, devices: Sequence[str], *, from_ms: int, to_ms: int
) -> list[tuple[str, list[str], int, int]]:
    """(device, streams, raised, cleared or to_ms) of the alarms that stood at some time in the span."""
    rows = connection.execute(
        select(_finding.device, _finding.streams, _finding.at_ms, _finding.cleared_ms)
        .where(
            _finding.device.in_(devices),
            _finding.state == "raised",
            _finding.at_ms <= to_ms,
            or_(_finding.cleared_ms.is_(None), _finding.cleared_ms >= from_ms),
        )
        .order_by(_finding.at_ms.desc())
        .limit(_MAX_ALARMS)
    )
    return [
        (device, [str(name) for name, _ in streams], at_ms, to_ms if cleared_ms is None else cleared_ms)
        for device, streams, at_ms, cleared_ms in rows
    ]


def _share_of_threshold(value: float, model: Model | None) -> float:
    if model is None or model.log_threshold <= 0:
        return 0.0
    return 100.0 * min(1.0, max(0.0, value / model.log_threshold))


def device_map(site: Site, connection: Connection, *, span_s: int, look: Look) -> Figure:
    """The devices that most need attention, by time."""
    now_ms = site.now_ms()
    names = device_queries.most_suspicious(connection, MAX_ROWS[look.width])
    from_ms = _beginning(connection, names, now_ms - span_s * 1000)
    axis = Axis.over(from_ms, now_ms, shortest_cell_ms(site, connection), COLUMNS[look.width])
    values: Grid = np.full((len(names), axis.cells), np.nan)
    line = {name: position for position, name in enumerate(names)}
    for one in evidence(connection, names, from_ms=axis.from_ms, cell_ms=axis.cell_ms, cells=axis.cells):
        share = _share_of_threshold(one.largest, site.models.get(connection, one.bundle))
        cells = axis.covered(one.start_ms, one.end_ms - 1)
        values[line[one.device], cells] = np.fmax(values[line[one.device], cells], share)
    for device, _, raised_ms, cleared_ms in alarms(connection, names, from_ms=axis.from_ms, to_ms=now_ms):
        values[line[device], axis.covered(raised_ms, cleared_ms)] = ALARM
    return evidence_map(look, [Row(name, f"/devices/{segment(name)}") for name in names], axis, values)


def stream_map(
    site: Site, connection: Connection, device: str, model: Model, *, span_s: int, look: Look
) -> Figure:
    """One device's tracked streams, by time; those with most evidence first."""
    now_ms = site.now_ms()
    from_ms = _beginning(connection, [device], now_ms - span_s * 1000)
    axis = Axis.over(from_ms, now_ms, 1000.0 * model.window_s, COLUMNS[look.width])
    names = model.tracked
    values: Grid = np.full((len(names), axis.cells), np.nan)
    for one in evidence(connection, [device], from_ms=axis.from_ms, cell_ms=axis.cell_ms, cells=axis.cells):
        if one.bundle != model.bundle or one.values.size != len(names):
            continue
        shares = [_share_of_threshold(float(value), model) for value in np.nan_to_num(one.values)]
        cells = axis.covered(one.start_ms, one.end_ms - 1)
        values[:, cells] = np.fmax(values[:, cells], np.array(shares)[:, np.newaxis])
    line = {name: position for position, name in enumerate(names)}
    for _, streams, raised_ms, cleared_ms in alarms(connection, [device], from_ms=axis.from_ms, to_ms=now_ms):
        for stream in streams:
            if stream in line:
                values[line[stream], axis.covered(raised_ms, cleared_ms)] = ALARM
    strength = np.nan_to_num(values).sum(axis=1)
    order = np.argsort(-strength, kind="stable")[: MAX_ROWS[look.width]]
    rows = [
        Row(names[position], stream_address(model.bundle, names[position], "device", device))
        for position in order
    ]
    return evidence_map(look, rows, axis, values[order])


def cohort_map(site: Site, connection: Connection, *, span_s: int, look: Look) -> Figure:
    """The fleet and its largest cohorts, by time."""
    now_ms = site.now_ms()
    cohorts = [
        (count, f"{key}={value}")
        for key, values in site.attributes().items()
        for value, count in values
        if count > 1
    ]
    # Largest first to choose which, then by name so that an attribute's values stand together.
    chosen = sorted(
        name
        for _, name in sorted(cohorts, key=lambda cohort: (-cohort[0], cohort[1]))[: MAX_ROWS[look.width] - 1]
    )
    scopes = [("fleet", ""), *(("cohort", name) for name in chosen)]
    from_ms = now_ms - span_s * 1000
    courses = []
    for scope, key in scopes:
        changes = []
        for bundle in bundles_of(connection, scope, key)[:_MAX_BUNDLES]:
            model = site.models.get(connection, bundle)
            if model is not None:
                changes += site.changes.over(connection, model, scope, key, from_ms=from_ms, to_ms=now_ms)
        courses.append(changes)
    every = [change for changes in courses for change in changes]
    # As above: a map begins where there is something to show.
    from_ms = max(from_ms, min((change.start_ms for change in every), default=from_ms))
    longest = max((change.bucket_s for change in every), default=1)
    axis = Axis.over(from_ms, now_ms, 1000.0 * longest, COLUMNS[look.width])
    values: Grid = np.full((len(scopes), axis.cells), np.nan)
    streams = [[""] * axis.cells for _ in scopes]
    for position, changes in enumerate(courses):
        for change in changes:
            cells = axis.covered(change.start_ms, change.start_ms + change.bucket_s * 1000 - 1)
            for cell in range(cells.start, cells.stop):
                if not values[position, cell] >= change.size:
                    values[position, cell] = change.size
                    streams[position][cell] = change.stream
    rows = [
        Row("whole fleet", "/streams") if scope == "fleet" else Row(key, address("/devices", attribute=key))
        for scope, key in scopes
    ]
    return effect_map(look, rows, axis, values, streams)
