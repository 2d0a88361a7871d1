"""Drift that only merged windows show, told apart from what single devices already explain.

One device whose sensor is stuck moves the merged window of its cohort and of the fleet too. So each alarm
on merged windows is put to the counterfactual: without the devices that have findings of their own, is
there still drift? And where a wide scope drifts: without the narrower ones that drift as well, does the rest
still? The widest scope whose rest goes on drifting, whichever of the others is taken out of it, is the
cause; a pair of attributes is one only where neither attribute alone is.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from driftpost_aggregator.bulk_windows import totals
from driftpost_aggregator.causes import (
    Affected,
    Cause,
    Rest,
    StreamEvidence,
    Surroundings,
    drift_kind,
)
from driftpost_aggregator.comparison import Change, Comparison
from driftpost_aggregator.evidence import measure
from driftpost_aggregator.joint_drift import KIND, streams_of
from driftpost_aggregator.merge import cohorts_of
from driftpost_aggregator.merged_watch import AND, MIN_DEVICES, Standing
from driftpost_aggregator.registry import KnownBundle
from driftpost_aggregator.store.tables import rollups
from driftpost_sketches.window import Window

# A device of the scope counts as affected if it shows at least this share of the scope's effect.
_AFFECTED_SHARE = 0.5
_NAMES_PER_QUERY = 500
# Devices of each scope that are asked who drifts, and of all scopes together.
MAX_ASKED = 2_000
MAX_COMPARED = 10_000
# Buckets merged anew to ask who drifts: a change that has stood for long is still in the newest ones.
MAX_BUCKETS = 24


@dataclass(frozen=True)
class _Scope:
    scope: str
    scope_key: str
    alarms: tuple[Standing, ...]
    members: frozenset[str]

    @property
    def width(self) -> int:
        """Attributes that it takes to name it."""
        return 0 if self.scope == "fleet" else 1 + self.scope_key.count(AND)


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
    scopes = _scopes(alarms, around)
    # Of a large scope so many tell as much as all, and what they send must be held in memory.
    asked = set(sample(pool, MAX_ASKED))
    for one in sorted(scopes, key=lambda one: len(one.members)):
        if len(asked) < MAX_COMPARED:
            asked.update(sample(one.members & pool, MAX_ASKED))
    shown = device_windows(connection, known, asked, bucket_s=bucket_s, since_ms=since_ms)
    compared = Comparison(known, shown)
    causes: list[Cause] = []
    while True:
        chosen = _simplest(compared, scopes, pool)
        if chosen is None:
            return causes
        causes.append(_cause(known, compared, chosen, shown, pool))
        pool -= chosen.members


def sample(names: Collection[str], most: int) -> list[str]:
    """At most so many of them, by a hash of their names: the same ones every time, and of every kind."""
    if len(names) <= most:
        return sorted(names)
    return heapq.nsmallest(most, names, key=lambda name: (zlib.crc32(name.encode()), name))


def device_windows(
    connection: Connection, known: KnownBundle, names: Iterable[str], *, bucket_s: int, since_ms: int
) -> dict[str, Window]:
    """Each device's rollups since a moment, merged; of a long time those of the newest `MAX_BUCKETS`."""
    wanted = sorted(names)
    newest = newest_bucket(connection, known, bucket_s=bucket_s)
    if newest is None:
        return {}
    from_ms = max(since_ms, newest - (MAX_BUCKETS - 1) * bucket_s * 1000)
    result: dict[str, Window] = {}
    for begin in range(0, len(wanted), _NAMES_PER_QUERY):
        query = (
            select(rollups.c.scope_key, rollups.c.window)
            .where(rollups.c.scope == "device")
            .where(rollups.c.scope_key.in_(wanted[begin : begin + _NAMES_PER_QUERY]))
            .where(rollups.c.bundle == known.bundle, rollups.c.bucket_s == bucket_s)
            .where(rollups.c.bucket_start_ms >= from_ms)
            .order_by(rollups.c.scope_key)
        )
        rows = connection.execute(query)
        result |= totals(known, ((row.scope_key, row.window) for row in rows))
    return result


def newest_bucket(connection: Connection, known: KnownBundle, *, bucket_s: int) -> int | None:
    """Beginning of the newest bucket that any device of a bundle has sent a window of, Unix ms."""
    newest: int | None = connection.scalar(
        select(func.max(rollups.c.bucket_start_ms)).where(
            rollups.c.scope == "fleet",
            rollups.c.scope_key == "",
            rollups.c.bundle == known.bundle,
            rollups.c.bucket_s == bucket_s,
        )
    )
    return newest


def _scopes(alarms: Sequence[Standing], around: Surroundings) -> list[_Scope]:
    cohorts: dict[str, set[str]] = {}
    for device in around.devices:
        for cohort in cohorts_of(around.attributes.get(device, {})):
            cohorts.setdefault(cohort, set()).add(device)
    by_scope: dict[tuple[str, str], list[Standing]] = {}
    for alarm in alarms:
        by_scope.setdefault((alarm.scope, alarm.scope_key), []).append(alarm)
    everyone = frozenset(around.devices)
    result = []
    for (scope, key), group in by_scope.items():
        members = everyone
        for cohort in key.split(AND) if scope == "cohort" else ():
            members &= cohorts.get(cohort, frozenset())
        result.append(_Scope(scope, key, tuple(group), members))
    return result


def _simplest(compared: Comparison, scopes: Sequence[_Scope], pool: frozenset[str]) -> _Scope | None:
    """The widest scope whose rest drifts on, whichever narrower scope is taken out of it."""
    drifting: dict[_Scope, float] = {}
    wholes = {one: compared.changes(one.members & pool) for one in scopes}
    for one in scopes:
        strength = _drift(compared, one.alarms, one.members & pool, wholes[one])
        if strength > 0:
            drifting[one] = strength
    order = sorted(drifting, key=lambda one: (one.width, -drifting[one], one.scope_key))
    for one in order:
        others = [other for other in order if other is not one and other.width >= max(one.width, 1)]
        if all(_goes_on(compared, one, other, pool, wholes[one]) for other in others):
            return one
    return max(order, key=lambda one: (drifting[one], -one.width), default=None)


def _goes_on(
    compared: Comparison, one: _Scope, other: _Scope, pool: frozenset[str], before: Mapping[str, Change]
) -> bool:
    """Whether a scope drifts as before without the devices of another one."""
    whole = one.members & pool
    rest = whole - other.members
    if len(rest & compared.devices) < MIN_DEVICES:
        # Nothing is left to ask: the two are one, and the shorter name stands.
        return other.width > one.width or (other.width, other.scope_key) > (one.width, one.scope_key)
    if rest == whole:
        return True
    left = compared.changes(rest)
    streams = {alarm.stream for alarm in one.alarms if alarm.kind != KIND}
    if any(
        before[stream].clear and left[stream].clear and left[stream].goes_with(before[stream])
        for stream in streams & left.keys() & before.keys()
    ):
        return True
    joint = any(alarm.kind == KIND for alarm in one.alarms)
    return joint and compared.joint_change(rest) > 0


def _drift(
    compared: Comparison, alarms: Sequence[Standing], names: frozenset[str], changes: Mapping[str, Change]
) -> float:
    """The largest change among the alarms' streams in some devices' merged windows; 0 if none is clear."""
    sizes = [
        changes[alarm.stream].size
        for alarm in alarms
        if alarm.kind != KIND and alarm.stream in changes and changes[alarm.stream].clear
    ]
    if any(alarm.kind == KIND for alarm in alarms):
        sizes.append(compared.joint_change(names))
    return max(sizes, default=0.0)


def _cause(
    known: KnownBundle,
    compared: Comparison,
    chosen: _Scope,
    shown: Mapping[str, Window],
    pool: frozenset[str],
) -> Cause:
    names = sorted(chosen.members & pool)
    changes = compared.changes(names)
    weights: dict[str, float] = {}
    for alarm in chosen.alarms:
        if alarm.kind != KIND and alarm.stream in changes:
            weights[alarm.stream] = weights.get(alarm.stream, 0.0) + max(alarm.log_e, 0.0)
    sum_of_weights = sum(weights.values()) or 1.0
    streams = tuple(
        _stream_evidence(stream, weight / sum_of_weights, changes[stream], known.units[stream])
        for stream, weight in sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    )
    strongest = max(chosen.alarms, key=lambda alarm: alarm.log_e)
    joint = strongest.kind == KIND or not streams
    if joint:
        streams = streams_of(known, *compared.joint(names))
    part = Affected(
        min(alarm.onset_ms for alarm in chosen.alarms), min(alarm.raised_ms for alarm in chosen.alarms)
    )
    affected = [] if joint else _showing(known, streams, shown, names)
    if len(names) > MAX_ASKED and affected and 2 * len(affected) >= len(compared.devices.intersection(names)):
        # Those of a large scope that were not asked are what most of those asked are.
        affected += [name for name in names if name not in compared.devices]
    return Cause(
        kind=drift_kind(strongest.kind, chosen.scope, streams, known.inputs),
        detail=strongest.kind,
        scope=chosen.scope,
        attributes=() if chosen.scope == "fleet" else tuple(map(_pair, chosen.scope_key.split(AND))),
        members=tuple(sorted(chosen.members)),
        affected=dict.fromkeys(affected or names, part),
        elsewhere=0,
        streams=streams,
        log_e=strongest.log_e,
        bundles=(known.bundle,),
        rest=None if joint else rest_of(compared, streams, chosen.members & pool, pool - chosen.members),
    )


def rest_of(
    compared: Comparison,
    streams: Sequence[StreamEvidence],
    inside: frozenset[str],
    outside: frozenset[str],
) -> Rest | None:
    """What devices outside a cause show of it; None where there is nothing to compare."""
    changed, left = compared.changes(inside), compared.changes(outside)
    lead, unit = next(((part.stream, part.unit) for part in streams if part.stream in left), (None, ""))
    if lead is None:
        return None
    sent = len(outside & compared.devices)
    if lead not in changed:  # one device is no merge
        (own,) = [part for part in streams if part.stream == lead]
        before = Change(own.effect, own.effect_natural, own.spread, 0.0, 0)
    else:
        before = changed[lead]
    drifts = left[lead].clear and left[lead].goes_with(before)
    return Rest(sent, drifts, lead, before.shift, left[lead].shift, unit)


def _stream_evidence(stream: str, share: float, change: Change, unit: str) -> StreamEvidence:
    direction = "up" if change.shift > 0 else "down"
    return StreamEvidence(stream, share, change.shift, change.natural, unit, change.spread, direction)


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
