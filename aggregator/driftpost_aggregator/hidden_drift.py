"""Drift that only merged windows show, told apart from what single devices already explain.

One device whose sensor is stuck moves the merged window of its cohort and of the fleet too. So each alarm
on merged windows is put to the counterfactual: without the devices that have findings of their own, is
there still drift? And if the fleet drifts: without the cohort that drifts most, does the rest still? Only
what remains is a cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from driftpost_aggregator.causes import (
    Affected,
    Cause,
    Measured,
    StreamEvidence,
    Surroundings,
    drift_kind,
)
from driftpost_aggregator.evidence import measure
from driftpost_aggregator.joint_drift import KIND, clear_change, streams_of
from driftpost_aggregator.merge import cohorts_of, joined
from driftpost_aggregator.merged_watch import MIN_DEVICES, Standing
from driftpost_aggregator.registry import KnownBundle
from driftpost_aggregator.store.tables import rollups
from driftpost_sketches.window import Window

# What remains must exceed the smallest effect worth knowing by this many standard errors.
CLEAR_ERRORS = 4.0
# A device of the scope counts as affected if it shows at least this share of the scope's effect.
_AFFECTED_SHARE = 0.5
_NAMES_PER_QUERY = 500


@dataclass(frozen=True)
class _Scope:
    scope: str
    scope_key: str
    alarms: tuple[Standing, ...]
    members: frozenset[str]


def hidden_causes(
    connection: Connection,
    known: KnownBundle,
    alarms: Sequence[Standing],
    around: Surroundings,
    explained: frozenset[str],
    *,
    bucket_s: int,
) -> list[Cause]:
    """Causes behind alarms on merged windows that devices' own findings do not explain.

    Args:
        connection: for the devices' rollups.
        known: the bundle.
        alarms: what stands on merged windows.
        around: its devices and their attributes.
        explained: devices whose own findings tell of it, or told of it while the alarm stood.
        bucket_s: length of a bucket, seconds.
    """
    pool = frozenset(around.devices) - explained
    if not alarms or len(pool) < MIN_DEVICES:
        return []
    bucket_ms = bucket_s * 1000
    since_ms = min(alarm.onset_ms for alarm in alarms) // bucket_ms * bucket_ms
    shown = device_windows(connection, known, pool, bucket_s=bucket_s, since_ms=since_ms)
    scopes = _scopes(alarms, around)
    causes: list[Cause] = []
    while True:
        chosen = _simplest(known, scopes, shown, pool)
        if chosen is None:
            return causes
        causes.append(_cause(known, chosen, shown, pool))
        pool -= chosen.members


def device_windows(
    connection: Connection, known: KnownBundle, names: Iterable[str], *, bucket_s: int, since_ms: int
) -> dict[str, Window]:
    """Each device's rollups since a moment, merged."""
    wanted = sorted(names)
    result: dict[str, Window] = {}
    for begin in range(0, len(wanted), _NAMES_PER_QUERY):
        query = (
            select(rollups.c.scope_key, rollups.c.window)
            .where(rollups.c.scope == "device")
            .where(rollups.c.scope_key.in_(wanted[begin : begin + _NAMES_PER_QUERY]))
            .where(rollups.c.bundle == known.bundle, rollups.c.bucket_s == bucket_s)
            .where(rollups.c.bucket_start_ms >= since_ms)
        )
        for row in connection.execute(query):
            window = Window.from_bytes(row.window)
            if window.schema_id == known.schema.id:
                result[row.scope_key] = joined(result.get(row.scope_key), window)
    return result


def _scopes(alarms: Sequence[Standing], around: Surroundings) -> list[_Scope]:
    cohorts: dict[str, set[str]] = {}
    for device in around.devices:
        for cohort in cohorts_of(around.attributes.get(device, {})):
            cohorts.setdefault(cohort, set()).add(device)
    by_scope: dict[tuple[str, str], list[Standing]] = {}
    for alarm in alarms:
        by_scope.setdefault((alarm.scope, alarm.scope_key), []).append(alarm)
    return [
        _Scope(
            scope,
            key,
            tuple(group),
            frozenset(around.devices) if scope == "fleet" else frozenset(cohorts.get(key, ())),
        )
        for (scope, key), group in by_scope.items()
    ]


def _simplest(
    known: KnownBundle, scopes: Sequence[_Scope], shown: Mapping[str, Window], pool: frozenset[str]
) -> _Scope | None:
    """The scope that explains most with least: a cohort, unless the fleet drifts without it too."""
    drifting = {
        one: strength
        for one in scopes
        if (strength := _drift(known, one.alarms, shown, one.members & pool)) > 0
    }
    fleet = next((one for one in drifting if one.scope == "fleet"), None)
    cohort = max(
        (one for one in drifting if one.scope == "cohort"),
        key=lambda one: (drifting[one], one.scope_key),
        default=None,
    )
    if fleet is None or cohort is None:
        return fleet or cohort
    without = _drift(known, fleet.alarms, shown, pool - cohort.members)
    return fleet if without > 0 else cohort


def _drift(
    known: KnownBundle, alarms: Sequence[Standing], shown: Mapping[str, Window], names: frozenset[str]
) -> float:
    """The largest shift among the alarms' streams in some devices' merged windows; 0 if none is clear."""
    if len(names) < MIN_DEVICES:
        return 0.0
    total = _total(shown, names)
    if total is None:
        return 0.0
    measured = measure(known, total)
    shifts = [_clear_shift(known, measured, alarm.stream) for alarm in alarms if alarm.kind != KIND]
    if len(shifts) < len(alarms):
        shifts.append(clear_change(known, total))
    return max(shifts, default=0.0)


def _clear_shift(known: KnownBundle, measured: Measured, stream: str) -> float:
    if stream not in measured.shift:
        return 0.0
    size = abs(measured.shift[stream])
    needed = known.smallest_effect.get(stream, 0.0) + CLEAR_ERRORS * measured.error[stream]
    return size if size > needed else 0.0


def _total(shown: Mapping[str, Window], names: Iterable[str]) -> Window | None:
    total: Window | None = None
    for name in sorted(names):
        window = shown.get(name)
        if window is not None:
            total = joined(total, window)
    return total


def _cause(known: KnownBundle, chosen: _Scope, shown: Mapping[str, Window], pool: frozenset[str]) -> Cause:
    names = sorted(chosen.members & pool)
    total = _total(shown, names)
    assert total is not None, "_simplest only chooses scopes whose devices show drift"
    measured = measure(known, total)
    weights: dict[str, float] = {}
    for alarm in chosen.alarms:
        if alarm.kind != KIND and alarm.stream in measured.shift:
            weights[alarm.stream] = weights.get(alarm.stream, 0.0) + max(alarm.log_e, 0.0)
    units = {stream.name: stream.unit for stream in known.schema.streams}
    sum_of_weights = sum(weights.values()) or 1.0
    streams = tuple(
        StreamEvidence(
            stream,
            weight / sum_of_weights,
            measured.shift[stream],
            measured.natural[stream],
            units[stream],
            measured.spread[stream],
            "up" if measured.shift[stream] > 0 else "down",
        )
        for stream, weight in sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    )
    strongest = max(chosen.alarms, key=lambda alarm: alarm.log_e)
    if strongest.kind == KIND or not streams:
        streams = streams_of(known, total)
    part = Affected(
        min(alarm.onset_ms for alarm in chosen.alarms), min(alarm.raised_ms for alarm in chosen.alarms)
    )
    affected = [] if strongest.kind == KIND else _showing(known, streams, shown, names)
    pairs = () if chosen.scope == "fleet" else (_pair(chosen.scope_key),)
    return Cause(
        kind=drift_kind(strongest.kind, chosen.scope, streams, known.inputs),
        detail=strongest.kind,
        scope=chosen.scope,
        attributes=pairs,
        members=tuple(sorted(chosen.members)),
        affected=dict.fromkeys(affected or names, part),
        elsewhere=0,
        streams=streams,
        log_e=strongest.log_e,
        bundles=(known.bundle,),
    )


def _showing(
    known: KnownBundle, streams: Sequence[StreamEvidence], shown: Mapping[str, Window], names: Sequence[str]
) -> list[str]:
    """Devices that show at least a share of the largest effect themselves."""
    lead = max(streams, key=lambda part: abs(part.effect))
    side = 1 if lead.effect > 0 else -1
    return [
        name
        for name in names
        if name in shown
        and measure(known, shown[name]).shift[lead.stream] * side >= _AFFECTED_SHARE * abs(lead.effect)
    ]


def _pair(cohort: str) -> tuple[str, str]:
    key, _, value = cohort.partition("=")
    return key, value
