"""Watching merged windows: drift too small for any one device, seen by a cohort or the fleet together.

Every closed bucket of every cohort (of one attribute, at least two devices; of a pair of them, at least
eight) and of the fleet goes once through that scope's `MarginalDetector`. Half of the fleet's false-alarm
budget is shared by all these watchers of a bundle. State is one row for each; a restart goes on where it was.
The same pass tells which devices stand apart from the others (`census.py`).
"""

from __future__ import annotations

import heapq
import logging
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, Engine, delete, select

from driftpost_aggregator.bulk_windows import batches
from driftpost_aggregator.census import LEAST_LOG_E, Apart, Census
from driftpost_aggregator.joint_drift import KIND
from driftpost_aggregator.registry import KnownBundle
from driftpost_aggregator.store.database import reading, upsert, writing
from driftpost_aggregator.store.tables import apart, detector_states, devices, populations, rollups
from driftpost_sketches.drift.alarm import Alarm
from driftpost_sketches.drift.apart import MIN_POPULATION
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.joint.carriers import Ints
from driftpost_sketches.drift.joint.merge import merge_devices
from driftpost_sketches.drift.marginal import FloatArray, MarginalDetector
from driftpost_sketches.drift.robust_merge import RobustMerge
from driftpost_sketches.errors import SketchError

log = logging.getLogger(__name__)

# Buckets stepped in one call and bundle: a backlog is worked off over several rounds.
MAX_BUCKETS = 32
# A bucket is closed when this long has passed since its end, beside the length of a window, ms: time on the
# way.
TRANSIT_MS = 5_000
# Part of the fleet's false-alarm budget; the rest is for devices that stand apart and for labels.
SHARE = 0.5
# The budget is shared by at least this many watchers, a power of two.
LEAST_WATCHERS = 64
# A cohort of one says nothing that its device's own detectors do not say.
MIN_DEVICES = 2
# Pairs of attributes: a smaller one is explained by devices' own findings, and more than so many (the largest
# ones) would share the budget until nothing is left of it.
MIN_PAIR_DEVICES = 8
MAX_PAIRS = 64
# Devices with more attributes than this are watched by single ones alone.
MAX_PAIRED = 16
AND = " & "
# Devices whose windows are read in one bucket, beside so many of every scope at least: more tell no more of a
# fleet, and of 41 streams a thousand take 4 MB. A merge takes four times its devices' share for a moment.
MAX_SAMPLE = 8_192
LEAST_SAMPLE = 256
MAX_MERGED = 4_096
_NAMES_PER_QUERY = 500
# A device, or a cohort, that has sent nothing for so long stands nowhere any more, ms.
FORGOTTEN_MS = 7 * 86_400_000
# Before the names of streams in joint alarms, among what stands.
_JOINT = "joint:"


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


@dataclass
class _Held:
    """A detector in memory: its tables are costly to build, its state is only as good as what is stored.

    `next_ms` says which stored state it continues; None while it is ahead of, or apart from, what is stored.
    """

    share: int
    detector: MarginalDetector
    next_ms: int | None = None


class MergedWatch:
    """Detectors of one bundle's cohorts and fleet; for one thread.

    Several workers may watch one database: each bucket is counted by whoever writes it down first.

    Args:
        known: the bundle.
        budget: of the fleet.
        bucket_s: length of a bucket, seconds.
    """

    def __init__(self, known: KnownBundle, budget: Budget, bucket_s: int) -> None:
        self._known = known
        self._budget = budget.share(SHARE)
        self._bucket_s = bucket_s
        self._held: dict[tuple[str, str], _Held] = {}
        self._yardstick = self._new_detector(LEAST_WATCHERS)
        self._census = Census(
            self._yardstick, [known.schema.streams[i].name for i in known.schema.tracked_streams]
        )

    def step(self, engine: Engine, now_ms: int) -> int:
        """Take every bucket that has closed since the last call; locks the database only to write it down.

        Returns:
            Buckets taken, 0 if another worker was faster.
        """
        with reading(engine) as connection:
            before, taken, rows, standing = self._taken(connection, now_ms)
        if not rows:
            return 0
        forgotten_ms = rows[0]["next_bucket_ms"] - FORGOTTEN_MS
        with writing(engine) as connection:
            fleet = connection.execute(
                select(detector_states.c.next_bucket_ms)
                .where(detector_states.c.bundle == self._known.bundle)
                .where(detector_states.c.scope == "fleet", detector_states.c.scope_key == "")
                .with_for_update()
            ).scalar()
            if fleet != before:
                return 0
            upsert(connection, detector_states, rows)
            # A cohort that nobody is in any more could never clear its alarm, nor give its share back.
            connection.execute(
                delete(detector_states).where(
                    detector_states.c.bundle == self._known.bundle,
                    detector_states.c.next_bucket_ms < forgotten_ms,
                )
            )
            self._tell(connection, standing, now_ms)
        for row in rows:
            self._held[row["scope"], row["scope_key"]].next_ms = row["next_bucket_ms"]
        self._held = {key: held for key, held in self._held.items() if (held.next_ms or 0) >= forgotten_ms}
        return taken

    def _tell(self, connection: Connection, standing: _Standings, now_ms: int) -> None:
        """Write down which devices stand apart now; who has not been heard of keeps what stood."""
        bundle = self._known.bundle
        if standing.bucket_ms is None:
            return
        self._tell_population(connection, standing.bucket_ms, len(standing.heard))
        query = select(apart.c.device, apart.c.raised_ms, apart.c.onset_ms).where(apart.c.bundle == bundle)
        before = {row.device: (row.raised_ms, row.onset_ms) for row in connection.execute(query)}
        over = sorted((before.keys() & standing.heard) - standing.apart.keys())
        for device in over:
            connection.execute(delete(apart).where(apart.c.bundle == bundle, apart.c.device == device))
        gone = select(devices.c.device).where(
            devices.c.last_window_ms < standing.bucket_ms - FORGOTTEN_MS, devices.c.device == apart.c.device
        )
        connection.execute(delete(apart).where(apart.c.bundle == bundle, gone.exists()))
        rows: list[dict[str, object]] = [
            {
                "bundle": bundle,
                "device": one.device,
                "log_e": one.log_e,
                "against": one.against,
                # A worker that has just started knows only the buckets since.
                "onset_ms": min(one.onset_ms, before.get(one.device, (0, one.onset_ms))[1]),
                "raised_ms": before.get(one.device, (now_ms, 0))[0],
                "private": one.private,
                "streams": [[name, round(share, 4)] for name, share in one.streams],
            }
            for one in standing.apart.values()
        ]
        upsert(connection, apart, rows)

    def _tell_population(self, connection: Connection, bucket_ms: int, heard: int) -> None:
        """Write down how many were compared; most of a fleet may be silent for a night or a weekend."""
        bundle = self._known.bundle
        enough = select(populations.c.devices).where(
            populations.c.bundle == bundle,
            populations.c.devices >= MIN_POPULATION,
            populations.c.bucket_ms >= bucket_ms - FORGOTTEN_MS,
        )
        if heard >= MIN_POPULATION or connection.scalar(enough) is None:
            row = {"bundle": bundle, "bucket_ms": bucket_ms, "devices": heard}
            upsert(connection, populations, [row])

    def _taken(
        self, connection: Connection, now_ms: int
    ) -> tuple[int | None, int, list[dict[str, Any]], _Standings]:
        """Where we stood, how many buckets have closed, and what is to be written down after them."""
        states = {
            (row.scope, row.scope_key): row
            for row in connection.execute(
                select(detector_states).where(detector_states.c.bundle == self._known.bundle)
            )
        }
        before = states["fleet", ""].next_bucket_ms if ("fleet", "") in states else None
        raised: dict[tuple[str, str], dict[str, Any]] = {}
        standing = _Standings()
        starts = self._closed(connection, before, now_ms)
        for start in starts:
            for key, merged, joint in self._merged(connection, start, standing):
                if key not in raised:
                    raised[key] = self._take_up(key, states.get(key), len(states))
                detector = self._held[key].detector
                alarms = detector.step_merged(merged) + detector.step_joint(*joint)
                _note(raised[key], alarms, start, self._bucket_s, now_ms)
        if starts and ("fleet", "") not in raised:
            # Where we are stands in the fleet's row, even while no bucket had two devices.
            raised["fleet", ""] = self._take_up(("fleet", ""), states.get(("fleet", "")), len(states))
        rows = [
            {
                "scope": scope,
                "scope_key": scope_key,
                "bundle": self._known.bundle,
                "next_bucket_ms": starts[-1] + self._bucket_s * 1000,
                "state": self._held[scope, scope_key].detector.state_to_bytes(),
                "raised": standing,
            }
            for (scope, scope_key), standing in raised.items()
        ]
        return before, len(starts), rows, standing

    def _closed(self, connection: Connection, first_ms: int | None, now_ms: int) -> Sequence[int]:
        closed_ms = now_ms - int(self._known.window_s * 1000) - TRANSIT_MS - self._bucket_s * 1000
        query = (
            select(rollups.c.bucket_start_ms)
            .where(rollups.c.scope == "fleet", rollups.c.scope_key == "")
            .where(rollups.c.bundle == self._known.bundle, rollups.c.bucket_s == self._bucket_s)
            .where(rollups.c.bucket_start_ms >= (first_ms or 0), rollups.c.bucket_start_ms <= closed_ms)
            .order_by(rollups.c.bucket_start_ms)
            .limit(MAX_BUCKETS)
        )
        return connection.execute(query).scalars().all()

    def _merged(
        self, connection: Connection, start_ms: int, standing: _Standings
    ) -> Iterator[tuple[tuple[str, str], RobustMerge, tuple[int, Ints]]]:
        """One bucket of the fleet and of every cohort, merged from its devices so that no few can bend it."""
        query = select(rollups.c.scope_key, rollups.c.cohorts).where(*self._bucket(start_ms))
        rows = connection.execute(query.order_by(rollups.c.scope_key))
        cohorts = {row.scope_key: row.cohorts or [] for row in rows}
        scopes = _scopes(cohorts)
        names: list[str] = []
        shown: list[tuple[npt.NDArray[np.float32], FloatArray, float]] = []
        joint: list[tuple[int, Ints]] = []
        for group, batch in batches(self._known, self._packed(connection, start_ms, cohorts, scopes)):
            for at, name in enumerate(group):
                # Refused: from before the bundle's owner replaced what a device had said of it.
                if at not in batch.refused:
                    window = batch.window(at)
                    names.append(name)
                    sums, told, noise = self._yardstick.read(window)
                    shown.append((sums.astype(np.float32), told, noise))
                    joint.append((window.joint_rows, window.joint))
        if not names:
            return
        sums32 = np.array([part[0] for part in shown])
        counted, noises = np.array([part[1] for part in shown]), np.array([part[2] for part in shown])
        standing.add(start_ms, names, self._census.take(start_ms, names, sums32, counted, noises))
        place = {name: at for at, name in enumerate(names)}
        for key, members in sorted(scopes.items()):
            chosen = [place[name] for name in members if name in place][:MAX_MERGED]
            if len(chosen) >= MIN_DEVICES:
                yield (
                    key,
                    self._yardstick.merge(sums32[chosen].astype(np.float64), counted[chosen], noises[chosen]),
                    self._merged_joint([joint[at] for at in chosen]),
                )

    def _bucket(self, start_ms: int) -> tuple[ColumnElement[bool], ...]:
        """Rows of the devices' rollups in one bucket."""
        return (
            rollups.c.bucket_start_ms == start_ms,
            rollups.c.scope == "device",
            rollups.c.bundle == self._known.bundle,
            rollups.c.bucket_s == self._bucket_s,
        )

    def _packed(
        self,
        connection: Connection,
        start_ms: int,
        cohorts: Collection[str],
        scopes: dict[tuple[str, str], list[str]],
    ) -> Iterator[tuple[str, bytes]]:
        """Windows of one bucket: all of them, or of a large fleet a sample in which every scope has its part.

        Members of `scopes` are put into the order of the sample.
        """
        query = select(rollups.c.scope_key, rollups.c.window).where(*self._bucket(start_ms))
        if len(cohorts) <= MAX_SAMPLE:
            for row in connection.execute(query.order_by(rollups.c.scope_key)):
                yield row.scope_key, row.window
            return
        # Another sample in every bucket, so that each device is looked at in its turn.
        rank = {name: zlib.crc32(f"{start_ms} {name}".encode()) for name in cohorts}
        sample = set(heapq.nsmallest(MAX_SAMPLE, rank, key=lambda name: rank[name]))
        for key, members in scopes.items():
            scopes[key] = sorted(members, key=lambda name: (rank[name], name))
            sample.update(scopes[key][:LEAST_SAMPLE])
        wanted = sorted(sample)
        for begin in range(0, len(wanted), _NAMES_PER_QUERY):
            some = rollups.c.scope_key.in_(wanted[begin : begin + _NAMES_PER_QUERY])
            for row in connection.execute(query.where(some).order_by(rollups.c.scope_key)):
                yield row.scope_key, row.window

    def _merged_joint(self, parts: Sequence[tuple[int, Ints]]) -> tuple[int, Ints]:
        """Joint sums of those devices that send any (old ones, and private ones, do not)."""
        plan = self._known.joint
        told = [] if plan is None else [one for one in parts if one[0] and len(one[1]) == plan.count]
        if plan is None or len(told) < MIN_DEVICES:
            return 0, np.zeros(0, dtype=np.int64)
        return merge_devices(plan, np.array([n for n, _ in told]), np.array([sums for _, sums in told]))

    def _take_up(self, key: tuple[str, str], stored: Any, watchers: int) -> dict[str, Any]:
        """Bring the detector of a scope to its stored state; returns the alarms that stand there."""
        # Powers of two from a generous start: a state belongs to its threshold, and one cohort more or less
        # must not make every detector start afresh.
        share = 1 << max(watchers - 1, LEAST_WATCHERS - 1).bit_length()
        held = self._held.get(key)
        if held is None or held.share != share or held.next_ms is None:
            held = self._held[key] = _Held(share, self._new_detector(share))
        current = stored is not None and held.next_ms == stored.next_bucket_ms
        held.next_ms = None
        if stored is None:
            return {}
        if not current:
            try:
                held.detector.restore(bytes(stored.state))
            except SketchError:
                log.info("the test on %s %s starts afresh: its threshold or baseline changed", *key)
                # An alarm that a new detector knows nothing of could never be cleared.
                return {}
        return dict(stored.raised)

    def _new_detector(self, share: int) -> MarginalDetector:
        known = self._known
        return MarginalDetector(
            known.schema,
            known.baseline,
            known.tau,
            known.n_ref,
            known.smallest_effect,
            self._budget.log_threshold(self._bucket_s, devices=share),
            known.joint,
        )


@dataclass
class _Standings:
    """What a few buckets said of single devices, the newest of each."""

    bucket_ms: int | None = None
    heard: set[str] = field(default_factory=set)
    apart: dict[str, Apart] = field(default_factory=dict)

    def add(self, start_ms: int, heard: Sequence[str], apart: Sequence[Apart]) -> None:
        self.bucket_ms = start_ms
        self.heard.update(heard)
        for device in heard:
            self.apart.pop(device, None)
        self.apart |= {one.device: one for one in apart if one.log_e >= LEAST_LOG_E}


def _scopes(cohorts: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], list[str]]:
    """The devices of every scope that is watched, of which there are enough."""
    singles: dict[str, list[str]] = {}
    pairs: dict[tuple[str, str], list[str]] = {}
    for name, own in cohorts.items():
        for cohort in own:
            singles.setdefault(cohort, []).append(name)
        if len(own) <= MAX_PAIRED:
            for pair in combinations(sorted(own), 2):
                pairs.setdefault(pair, []).append(name)
    result = {("fleet", ""): list(cohorts)}
    result |= {("cohort", name): members for name, members in singles.items()}
    # A pair that is one of its two cohorts shows nothing that the cohort does not.
    own_pairs = {
        pair: members
        for pair, members in pairs.items()
        if MIN_PAIR_DEVICES <= len(members) < min(len(singles[name]) for name in pair)
    }
    largest = sorted(own_pairs, key=lambda pair: (-len(own_pairs[pair]), pair))[:MAX_PAIRS]
    result |= {("cohort", AND.join(pair)): own_pairs[pair] for pair in largest}
    return {key: members for key, members in result.items() if len(members) >= MIN_DEVICES}


def devices_apart(connection: Connection, bundles: Sequence[str]) -> dict[str, Apart]:
    """Devices that stand apart on some bundles which they still run, by name."""
    runs = (devices.c.device == apart.c.device) & (devices.c.bundle == apart.c.bundle)
    query = select(apart).join(devices, runs).where(apart.c.bundle.in_(sorted(bundles)))
    rows = connection.execute(query)
    return {
        row.device: Apart(
            row.device,
            row.log_e,
            row.against,
            row.onset_ms,
            row.private,
            tuple((name, share) for name, share in row.streams),
            row.raised_ms,
        )
        for row in rows
    }


def populations_of(connection: Connection, bundles: Sequence[str]) -> Mapping[str, int]:
    """For each bundle whose devices are compared, how many of them were when it was done last."""
    rows = connection.execute(select(populations).where(populations.c.bundle.in_(sorted(bundles))))
    return {row.bundle: row.devices for row in rows}


def _note(raised: dict[str, Any], alarms: Sequence[Alarm], start_ms: int, bucket_s: int, now_ms: int) -> None:
    """Bring what stands up to date with what one bucket brought."""
    for alarm in alarms:
        for name, share in alarm.streams:
            # A stream may stand in an alarm of its own and in a joint one.
            stream = _JOINT + name if alarm.kind == KIND else name
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
            stream.removeprefix(_JOINT) if entry["kind"] == KIND else stream,
            entry["kind"],
            entry["log_e"],
            entry["onset_ms"],
            entry["raised_ms"],
        )
        for row in rows
        for stream, entry in row.raised.items()
    ]
    return sorted(result, key=lambda one: (-one.log_e, one.scope, one.scope_key, one.stream))
