"""Concept shift that no single device has labels enough to tell: error rates of cohorts and of the fleet.

Labels come late and few. Merged by scope they make one confidence sequence for every day from which on they
may be counted (Waudby-Smith and Ramdas 2024), each at its share of the fleet's budget: it may be looked at
after every label. A scope whose sequence lies beyond the reference's error rate, give or take the reference's
own error and the smallest change worth knowing, is put to two more questions. Without the tenth of its
devices that say so most, capped so that none counts more than twice the usual, is it still so? And without
the cohort that explains most, is the rest?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, select

from driftpost_aggregator.causes import Affected, Cause, Kind, StreamEvidence, Surroundings
from driftpost_aggregator.label_rollups import DAY_MS
from driftpost_aggregator.merge import cohorts_of
from driftpost_aggregator.registry import KnownBundle
from driftpost_aggregator.store.tables import label_rollups
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.robust_merge import HEAVIEST, LIARS
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.labels.betting import confidence_sequence
from driftpost_sketches.labels.concept import STREAM
from driftpost_sketches.labels.dependence import Dependence
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.labels.reliability import STEPS

DETAIL = "concept"
# Days back from which labels are counted, each a sequence of its own.
STARTS = (0, 1, 2, 4, 8, 16, 28)
# Part of the fleet's false-alarm budget.
SHARE = 0.25
# Scopes share it as if there were this many at least.
LEAST_SCOPES = 64
MIN_DEVICES = 2
# Devices of a scope whose own labels are read, evenly by name.
MAX_DEVICES = 2_000
# Standard errors of the reference's own error rate that are no news.
REFERENCE_ERRORS = 3.0
# In standard deviations of the reference's losses, where the bundle names none.
DEFAULT_EFFECT = 0.02
_NAMES_PER_QUERY = 500

Scope = tuple[str, str]


@dataclass(frozen=True)
class Labelled:
    """Labels of one device or scope in some days.

    Attributes:
        rows: labelled answers.
        loss: sum of their losses.
        independent: rows that count as one.
    """

    rows: float
    loss: float
    independent: float


@dataclass(frozen=True)
class _Norm:
    """What an error rate is held against: the record, what is no news, and the level of a sequence."""

    record: PerformanceRecord
    low: float
    high: float
    alpha: float


@dataclass(frozen=True)
class Shifted:
    """A scope whose error rate has left the reference's.

    Attributes:
        scope: of it.
        since_ms: day from which its labels were counted.
        rate, low, high: error rate since then, with its confidence sequence.
    """

    scope: Scope
    since_ms: int
    rate: float
    low: float
    high: float


def concept_causes(
    connection: Connection, known: KnownBundle, around: Surroundings, *, budget: Budget, now_ms: int
) -> list[Cause]:
    """Causes that merged labels of one bundle tell of.

    Args:
        connection: to read with.
        known: the bundle.
        around: the fleet.
        budget: of the fleet.
        now_ms: Unix ms.
    """
    record = known.performance
    if record is None:
        return []
    today = now_ms // DAY_MS * DAY_MS
    merged = _by_scope(connection, known, today - STARTS[-1] * DAY_MS)
    members = _members(around)
    scopes = {scope: days for scope, days in merged.items() if len(members.get(scope, ())) >= MIN_DEVICES}
    if not scopes:
        return []
    share = budget.share(SHARE / max(len(scopes), LEAST_SCOPES))
    alpha = min(share.count * DAY_MS / 1000 / share.period_s, 0.01)
    norm = _norm(known, record, alpha)
    suspects = [
        found
        for scope, days in sorted(scopes.items())
        if (found := _shifted(scope, days, norm, today)) is not None
    ]
    if not suspects:
        return []
    own = _by_device(connection, known, sorted({d for one in suspects for d in members[one.scope]}), today)
    # The fleet first if it stands without the cohort that explains most; otherwise cohorts, largest first.
    order = sorted(suspects, key=lambda one: (one.scope[0] != "fleet", -len(members[one.scope]), one.scope))
    causes: list[Cause] = []
    explained: set[str] = set()
    for one in order:
        names = members[one.scope] - explained
        if not _stands(one, names, own, norm):
            continue
        narrower = [other for other in order if other is not one and other.scope[0] != "fleet"]
        if any(
            members[other.scope] < members[one.scope]
            and not _stands(one, names - members[other.scope], own, norm)
            and len(names - members[other.scope]) >= MIN_DEVICES
            for other in narrower
        ):
            continue
        causes.append(_cause(one, sorted(members[one.scope]), own, known, record))
        explained |= members[one.scope]
    return causes


def labelled_bundles(connection: Connection, now_ms: int) -> set[str]:
    """Bundles that labels came for lately."""
    query = select(label_rollups.c.bundle).where(
        label_rollups.c.scope == "fleet",
        label_rollups.c.scope_key == "",
        label_rollups.c.day_ms >= now_ms - (STARTS[-1] + 1) * DAY_MS,
    )
    return set(connection.execute(query.distinct()).scalars())


def _norm(known: KnownBundle, record: PerformanceRecord, alpha: float) -> _Norm:
    """No news is the reference's error rate, give or take its own error and the smallest change."""
    rate = record.labels.error_rate
    spread = math.sqrt(max(rate * (1.0 - rate), 1e-4))
    rows = max(record.labels.rows / max(record.independent, 1.0), 1.0)
    effect = known.smallest_effect.get(STREAM, known.smallest_effect.get("*", DEFAULT_EFFECT))
    give = spread * (effect + REFERENCE_ERRORS / math.sqrt(rows))
    return _Norm(record, rate - give, rate + give, alpha)


def _shifted(scope: Scope, days: Mapping[int, LabelSketch], norm: _Norm, today: int) -> Shifted | None:
    """The clearest of the sequences that have left the band; None while none has."""
    best: Shifted | None = None
    for back in STARTS:
        since_ms = today - back * DAY_MS
        total = _summed([sketch for day, sketch in days.items() if day >= since_ms])
        if total is None or not total.rows:
            continue
        labelled = _labelled(total, norm.record)
        low, high = confidence_sequence(labelled.rows, labelled.loss, labelled.independent, norm.alpha)
        beyond = max(low - norm.high, norm.low - high)
        if beyond > 0 and (best is None or beyond > max(best.low - norm.high, norm.low - best.high)):
            best = Shifted(scope, since_ms, labelled.loss / labelled.rows, low, high)
    return best


def _stands(
    one: Shifted,
    names: set[str] | frozenset[str],
    own: Mapping[str, Mapping[int, LabelSketch]],
    norm: _Norm,
) -> bool:
    """Whether it is so without the devices that say so most, none of the others counting too much."""
    parts = []
    for name in names:
        total = _summed([sketch for day, sketch in own.get(name, {}).items() if day >= one.since_ms])
        if total is not None and total.rows:
            parts.append(_labelled(total, norm.record))
    left = trimmed(parts, worse=one.low > norm.high)
    if left is None:
        return False
    low, high = confidence_sequence(left.rows, left.loss, left.independent, norm.alpha)
    return low > norm.high if one.low > norm.high else high < norm.low


def trimmed(parts: Sequence[Labelled], *, worse: bool) -> Labelled | None:
    """Devices' labels as one, without the tenth (one at least) that pulls most, each capped in rows.

    Args:
        parts: of the devices.
        worse: whether errors are said to have become more.

    Returns:
        None where fewer than two devices are left.
    """
    out = max(1, math.ceil(LIARS * len(parts)))
    if len(parts) - out < MIN_DEVICES:
        return None
    rows = np.array([part.rows for part in parts])
    rates = np.array([part.loss / part.rows for part in parts])
    weight = np.minimum(rows, HEAVIEST * float(np.median(rows)))
    middle = float(np.median(rates))
    pull = weight * (rates - middle) * (1.0 if worse else -1.0)
    kept = np.argsort(pull, kind="stable")[: len(parts) - out]
    independent = np.array([part.independent for part in parts])
    return Labelled(
        float(weight[kept].sum()),
        float((weight[kept] * rates[kept]).sum()),
        float(np.average(independent[kept], weights=weight[kept])),
    )


def _labelled(total: LabelSketch, record: PerformanceRecord) -> Labelled:
    dependence = Dependence(record.independent)
    dependence.update(total.rows, total.loss / STEPS, total.moves)
    return Labelled(float(total.rows), total.loss / STEPS, dependence.independent)


def _summed(sketches: Sequence[LabelSketch]) -> LabelSketch | None:
    total: LabelSketch | None = None
    for one in sketches:
        try:
            total = one if total is None else total.merge(one)
        except MalformedSketch:
            continue  # only invented counts are more than one can hold
    return total


def _by_scope(
    connection: Connection, known: KnownBundle, since_ms: int
) -> dict[Scope, dict[int, LabelSketch]]:
    columns = label_rollups.c
    query = select(columns.scope, columns.scope_key, columns.day_ms, columns.sketch).where(
        columns.scope.in_(("fleet", "cohort")), columns.bundle == known.bundle, columns.day_ms >= since_ms
    )
    result: dict[Scope, dict[int, LabelSketch]] = {}
    for row in connection.execute(query):
        result.setdefault((row.scope, row.scope_key), {})[row.day_ms] = LabelSketch.from_bytes(
            bytes(row.sketch)
        )
    return result


def _by_device(
    connection: Connection, known: KnownBundle, names: Sequence[str], today: int
) -> dict[str, dict[int, LabelSketch]]:
    columns = label_rollups.c
    chosen = names[:: -(-len(names) // MAX_DEVICES) or 1]
    result: dict[str, dict[int, LabelSketch]] = {}
    for begin in range(0, len(chosen), _NAMES_PER_QUERY):
        query = select(columns.scope_key, columns.day_ms, columns.sketch).where(
            columns.scope == "device",
            columns.scope_key.in_(chosen[begin : begin + _NAMES_PER_QUERY]),
            columns.bundle == known.bundle,
            columns.day_ms >= today - STARTS[-1] * DAY_MS,
        )
        for row in connection.execute(query):
            result.setdefault(row.scope_key, {})[row.day_ms] = LabelSketch.from_bytes(bytes(row.sketch))
    return result


def _members(around: Surroundings) -> dict[Scope, frozenset[str]]:
    sets: dict[Scope, set[str]] = {("fleet", ""): set(around.devices)}
    for device in around.devices:
        for cohort in cohorts_of(around.attributes.get(device, {})):
            sets.setdefault(("cohort", cohort), set()).add(device)
    return {scope: frozenset(names) for scope, names in sets.items()}


def _cause(
    one: Shifted,
    names: Sequence[str],
    own: Mapping[str, Mapping[int, LabelSketch]],
    known: KnownBundle,
    record: PerformanceRecord,
) -> Cause:
    change = one.rate - record.labels.error_rate
    spread = math.sqrt(max(record.labels.error_rate * (1.0 - record.labels.error_rate), 1e-4))
    labelled = [name for name in names if own.get(name)] or list(names)
    scope, key = one.scope
    pair = tuple(key.partition("=")[::2])
    return Cause(
        kind=Kind.CONCEPT_SHIFT,
        detail=DETAIL,
        scope=scope,
        attributes=() if scope == "fleet" else ((pair[0], pair[1]),),
        members=tuple(names),
        affected=dict.fromkeys(labelled, Affected(one.since_ms, one.since_ms)),
        elsewhere=0,
        streams=(
            StreamEvidence(STREAM, 1.0, change / spread, change, "", 1.0, "up" if change > 0 else "down"),
        ),
        log_e=0.0,
        bundles=(known.bundle,),
        text=f"error rate {one.rate:.1%} ({one.low:.1%} to {one.high:.1%}) by labels, "
        f"{record.labels.error_rate:.1%} on the reference",
    )
