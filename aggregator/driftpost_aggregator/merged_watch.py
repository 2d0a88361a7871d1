"""Watching merged windows: drift too small for any one device, seen by a cohort or the fleet together.

Every closed bucket of every cohort (of at least two devices) and of the fleet goes once through that scope's
`MarginalDetector`. The fleet's false-alarm budget is shared by all these watchers. State is one row for each;
a restart goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from driftpost_aggregator.registry import KnownBundle
from driftpost_aggregator.store.database import upsert
from driftpost_aggregator.store.tables import detector_states, rollups
from driftpost_sketches.drift.alarm import Alarm
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.marginal import MarginalDetector
from driftpost_sketches.errors import SketchError
from driftpost_sketches.window import Window

log = logging.getLogger(__name__)

# Buckets stepped in one call and bundle: a backlog is worked off over several rounds.
MAX_BUCKETS = 64
# A bucket is closed when this long has passed since its end, beside the length of a window, ms: time on the
# way.
TRANSIT_MS = 5_000
# The budget is shared by at least this many watchers, a power of two.
LEAST_WATCHERS = 64
# A cohort of one says nothing that its device's own detectors do not say.
MIN_DEVICES = 2


@dataclass(frozen=True)
class Standing:
    """An alarm on merged windows that stands.

    Attributes:
        scope, scope_key: "cohort" and "key=value", or "fleet" and "".
        stream: that raised it.
        kind: as in findings.
        log_e: ln e-value.
        onset_ms: estimated beginning, Unix ms.
        raised_ms: when it was raised, our clock, Unix ms.
    """

    scope: str
    scope_key: str
    stream: str
    kind: str
    log_e: float
    onset_ms: int
    raised_ms: int


class MergedWatch:
    """Detectors of one bundle's cohorts and fleet; for one thread.

    Args:
        known: the bundle.
        budget: of the fleet.
        bucket_s: length of a bucket, seconds.
    """

    def __init__(self, known: KnownBundle, budget: Budget, bucket_s: int) -> None:
        self._known = known
        self._budget = budget
        self._bucket_s = bucket_s
        self._detectors: dict[tuple[str, str], tuple[int, MarginalDetector]] = {}

    def step(self, connection: Connection, now_ms: int) -> int:
        """Take every bucket that has closed since the last call, in the caller's write transaction.

        Returns:
            Buckets taken.
        """
        closed_ms = now_ms - int(self._known.window_s * 1000) - TRANSIT_MS - self._bucket_s * 1000
        states = {
            (row.scope, row.scope_key): row
            for row in connection.execute(
                select(detector_states).where(detector_states.c.bundle == self._known.bundle)
            )
        }
        fleet = states.get(("fleet", ""))
        first = fleet.next_bucket_ms if fleet is not None else 0
        starts = (
            connection.execute(
                select(rollups.c.bucket_start_ms)
                .where(rollups.c.scope == "fleet", rollups.c.scope_key == "")
                .where(rollups.c.bundle == self._known.bundle, rollups.c.bucket_s == self._bucket_s)
                .where(rollups.c.bucket_start_ms >= first, rollups.c.bucket_start_ms <= closed_ms)
                .order_by(rollups.c.bucket_start_ms)
                .limit(MAX_BUCKETS)
            )
            .scalars()
            .all()
        )
        raised: dict[tuple[str, str], dict[str, Any]] = {}
        stepped: dict[tuple[str, str], MarginalDetector] = {}
        watchers = len(states)
        for start in starts:
            for scope, scope_key, packed in self._bucket(connection, start):
                window = Window.from_bytes(packed)
                if window.schema_id != self._known.schema.id:
                    # From before the bundle's owner replaced what a device had said of it.
                    continue
                key = (scope, scope_key)
                if key not in stepped:
                    stepped[key], continued = self._detector(key, states.get(key), watchers)
                    # An alarm that a detector knows nothing of could never be cleared.
                    raised[key] = dict(states[key].raised) if continued and key in states else {}
                _note(raised[key], stepped[key].step(window), start, self._bucket_s, now_ms)
        if starts and ("fleet", "") not in stepped:
            # Where we are stands in the fleet's row, even while no bucket had two devices.
            stepped["fleet", ""], _ = self._detector(("fleet", ""), states.get(("fleet", "")), watchers)
        upsert(
            connection,
            detector_states,
            [
                {
                    "scope": scope,
                    "scope_key": scope_key,
                    "bundle": self._known.bundle,
                    "next_bucket_ms": starts[-1] + self._bucket_s * 1000,
                    "state": detector.state_to_bytes(),
                    "raised": raised.get((scope, scope_key), {}),
                }
                for (scope, scope_key), detector in stepped.items()
            ],
        )
        return len(starts)

    def _bucket(self, connection: Connection, start_ms: int) -> Sequence[tuple[str, str, bytes]]:
        query = (
            select(rollups.c.scope, rollups.c.scope_key, rollups.c.window)
            .where(rollups.c.bucket_start_ms == start_ms, rollups.c.scope.in_(("cohort", "fleet")))
            .where(rollups.c.bundle == self._known.bundle, rollups.c.bucket_s == self._bucket_s)
            .where(rollups.c.devices >= MIN_DEVICES)
            .order_by(rollups.c.scope, rollups.c.scope_key)
        )
        return [(row.scope, row.scope_key, row.window) for row in connection.execute(query)]

    def _detector(self, key: tuple[str, str], stored: Any, watchers: int) -> tuple[MarginalDetector, bool]:
        """One scope's detector, and whether it goes on from where it was."""
        # Powers of two from a generous start: a state belongs to its threshold, and one cohort more or less
        # must not make every detector start afresh.
        share = 1 << max(watchers - 1, LEAST_WATCHERS - 1).bit_length()
        held = self._detectors.get(key)
        if held is not None and held[0] == share:
            return held[1], True
        known = self._known
        detector = MarginalDetector(
            known.schema,
            known.baseline,
            known.tau,
            known.n_ref,
            known.smallest_effect,
            self._budget.log_threshold(self._bucket_s, devices=share),
        )
        continued = False
        if stored is not None:
            try:
                detector.restore(bytes(stored.state))
                continued = True
            except SketchError:
                log.info("the test on %s %s starts afresh: its threshold or baseline changed", *key)
        self._detectors[key] = (share, detector)
        return detector, continued


def _note(raised: dict[str, Any], alarms: Sequence[Alarm], start_ms: int, bucket_s: int, now_ms: int) -> None:
    """Bring what stands up to date with what one bucket brought."""
    for alarm in alarms:
        for stream, share in alarm.streams:
            if alarm.state == "cleared":
                raised.pop(stream, None)
            else:
                before = raised.get(stream, {})
                onset = start_ms - alarm.onset_windows_ago * bucket_s * 1000
                raised[stream] = {
                    "kind": alarm.kind,
                    "log_e": alarm.log_e * share,
                    "onset_ms": min(onset, before.get("onset_ms", onset)),
                    "raised_ms": before.get("raised_ms", now_ms),
                }


def standing_alarms(connection: Connection, bundle: str) -> list[Standing]:
    """What stands on merged windows of a bundle, strongest first."""
    rows = connection.execute(select(detector_states).where(detector_states.c.bundle == bundle))
    result = [
        Standing(
            row.scope,
            row.scope_key,
            stream,
            entry["kind"],
            entry["log_e"],
            entry["onset_ms"],
            entry["raised_ms"],
        )
        for row in rows
        for stream, entry in row.raised.items()
    ]
    return sorted(result, key=lambda one: (-one.log_e, one.scope, one.scope_key, one.stream))
