"""Closed windows through the detectors into the store: one transaction for each.

The detectors' state is advanced in memory first and then stored with the window it came from, by another
thread where there is one: a card that takes seconds must not keep rows from being flushed. When the store
can't be written (a full disk), the window waits in memory with its findings and state, in order, and is tried
again with the next one; when too many wait, neighbours are merged, which loses nothing but resolution.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from driftpost_agent.commissioning import SiteBaseline
from driftpost_agent.label_checks import LABEL_SHARE
from driftpost_agent.open_window import OpenWindow, WaitingWindow
from driftpost_agent.private_windows import PrivateWindows
from driftpost_agent.recorder import ClosedWindow
from driftpost_agent.site_store import SiteChange
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_models.policy import Policy
from driftpost_sketches.commissioning.watch import Baseline, Told
from driftpost_sketches.drift.alarm import Alarm
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.errors import SketchError
from driftpost_sketches.schema import Role, Schema
from driftpost_sync.clock import Clock
from driftpost_sync.errors import MessageTooLarge
from driftpost_sync.messages import MAX_TEXT_CHARS, FindingBody, Source, WindowBody

log = logging.getLogger(__name__)

# Streams named in a finding; those after it carry next to none of the evidence.
MAX_NAMED_STREAMS = 16
# Windows that wait in memory for a store that can't be written, before neighbours are merged.
MAX_WAITING = 64
# Seconds between two writings of the detectors' state while nothing is raised or cleared. It is thirty times
# a window's size, and what a kill costs is evidence of the windows since: delay, but no promise.
STATE_EVERY_S = 24 * 3600
# Stands for the streams of a finding on how the device is installed: no later alarm may clear it.
_SKEW = "(installed differently)"
_OWN_NORMAL = " Compared with this device's own normal."
# Findings kept for a guard without a store.
MAX_REMEMBERED = 256
# float16's largest number: evidence beyond it says nothing more.
_FLOAT16_MAX = 65504.0
# What stands for infinity in a finding, whose numbers must be finite.
_LARGE = 1e300

_SOURCES: dict[Role, Source] = {Role.QUALITY: "quality", Role.LATENCY: "device", Role.HEALTH: "device"}


@dataclass
class _Waiting:
    """A closed window on its way into the store, with what follows from it."""

    closed: ClosedWindow
    evidence: bytes
    findings: list[FindingBody]
    # None where the state is not due to be written.
    state: bytes | None
    standing: dict[str, str]
    site: SiteChange | None
    kept: list[WaitingWindow] = field(default_factory=list)


@dataclass
class _Standing:
    """Raised findings by id, with the streams they are about."""

    streams: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def raise_(self, finding: str, streams: Sequence[str]) -> None:
        self.streams[finding] = tuple(streams)

    def clear(self, streams: Sequence[str]) -> str | None:
        """The finding that these streams clear: the one they have most in common with."""
        ranked = sorted(self.streams, key=lambda finding: -len(set(self.streams[finding]) & set(streams)))
        if not ranked or not set(self.streams[ranked[0]]) & set(streams):
            return None
        del self.streams[ranked[0]]
        return ranked[0]

    def to_plain(self) -> dict[str, str]:
        return {finding: "\n".join(streams) for finding, streams in self.streams.items()}

    @classmethod
    def from_plain(cls, plain: dict[str, str]) -> _Standing:
        return cls({finding: tuple(text.split("\n")) for finding, text in plain.items()})


class WindowChecks:
    """Checks the windows of one bundle and records them.

    Attributes:
        remembered: the latest findings, also without a store.
        store_problem: why windows can't be stored now, "" when they can.
        given_up: windows that were too large for any message.
        holding: while set, windows without findings wait in memory and merge: the card may take no more now.

    Args:
        bundle: whose windows.
        store: where they go; None checks and remembers findings only.
        window_seconds: length of a window, for the threshold.
        budget: false alarms allowed, in words.
        clock: for findings that belong to no window.
        policy: the owner's wishes about a site baseline; the bundle's if None.
        background: make a site's calibration in a thread of its own, and leave it to whoever calls `write`
            to store windows.
        kept: where the recorder's open window is kept.
    """

    def __init__(
        self,
        bundle: Bundle,
        store: Store | None,
        *,
        window_seconds: float,
        budget: str,
        clock: Clock,
        policy: Policy | None = None,
        background: bool = False,
        kept: OpenWindow | None = None,
    ) -> None:
        self._bundle = bundle
        self._store = store
        self._kept = kept
        self._background = background
        self._window_ms = window_seconds * 1000
        # What delayed labels may use of the budget is theirs alone where the bundle knows an error rate.
        share = 1.0 if bundle.performance is None else 1.0 - LABEL_SHARE
        self._log_threshold = Budget.parse(budget).share(share).log_threshold(window_seconds)
        policy = policy or bundle.policy
        self._site: SiteBaseline | None = None
        self._own: DriftDetector | None = None
        if policy.site.baseline or bundle.unknown_streams:
            self._site = SiteBaseline(
                bundle,
                policy,
                store,
                log_threshold=self._log_threshold,
                detectors=self._detector_of,
                background=background,
            )
        else:
            self._own = self._detector_of(bundle.calibration)
        privacy = store.privacy if store is not None else None
        self._private = (
            None if privacy is None else PrivateWindows(privacy, bundle.schema, bundle.calibration.baseline)
        )
        self._standing = _Standing()
        self._waiting: deque[_Waiting] = deque()
        # Order of the locks: writing (the card may hold it up for seconds), then the next, then the store's.
        self._writing = threading.RLock()
        self._lock = threading.RLock()
        # Whether the first window that waits is being written, and whether one with findings waits.
        self._in_hand = self._urgent = False
        # Monotonic ms at which the detectors' state is written next, and whether it has changed since it was.
        self._state_due = 0
        self._state_changed = False
        self._clock = clock
        self._findings = 0
        self.remembered: deque[FindingBody] = deque(maxlen=MAX_REMEMBERED)
        self.store_problem = ""
        self.given_up = 0
        self.holding = False
        self._restore()

    @property
    def waiting(self) -> int:
        """Closed windows that could not be stored yet."""
        return len(self._waiting)

    def evidence(self) -> NDArray[np.float32]:
        """Log evidence of each tracked stream now, float32[T]; -inf before the first window."""
        if self._site is not None:
            return self._site.evidence()
        assert self._own is not None
        return self._own.evidence()

    def observe(self, values: NDArray[Any]) -> None:
        """Show the rows that the open window has taken, float[rows, S], to what learns from them."""
        if self._site is not None:
            with self._lock:
                self._site.watch.update(values)

    @property
    def observes(self) -> bool:
        """Whether rows have to be shown."""
        return self._site is not None

    def site(self) -> dict[str, Any]:
        """What the device has learnt of its own normal, for the status document."""
        return {"baseline": "training", "mode": "off"} if self._site is None else self._site.facts()

    def decide(self, *, accept: bool) -> bool:
        """A person's word on the site baseline; whether there is one.

        Args:
            accept: what stands is this device's normal; otherwise it learns its normal anew.
        """
        if self._site is None:
            return False
        with self._writing, self._lock:
            watch = self._site.watch
            told = watch.accept() if accept else watch.again()
            now, wall = self._clock.mono_ms(), self._clock.wall_ms()
            over = [self._told(each, None, now=now, wall=wall) for each in told]
            self.remembered.extend(over)
            if self._store is not None:
                # What waits for the disk was made before this and must not come after it.
                self._store_waiting(self._store)
                if self._waiting:
                    raise sqlite3.OperationalError(
                        "windows wait for the store; try again when it can be written"
                    )
                change = self._site.change(due=True)
                assert change is not None
                self._store.record_site(
                    self._bundle.id,
                    change,
                    findings=over,
                    detector_state=self._state(),
                    standing=self._standing.to_plain(),
                )
        return True

    def close(self) -> None:
        """Write the detectors' state, and end what runs in the background."""
        if self._site is not None:
            self._site.close()
        with self._writing, self._lock:
            if self._store is None or not self._state_changed or self._waiting:
                return
            try:
                standing = self._standing.to_plain()
                site = None if self._site is None else self._site.change(due=True)
                if site is not None:
                    self._store.record_site(
                        self._bundle.id, site, findings=(), detector_state=self._state(), standing=standing
                    )
                else:
                    self._store.keep_detector_state(self._bundle.id, self._state(), standing)
            except sqlite3.Error as error:
                log.error("the detectors' state can't be stored, hours of evidence are lost: %s", error)

    def take(self, closed: ClosedWindow) -> None:
        """Check a closed window; it is recorded with its findings and the detectors' new state by `write`."""
        with self._lock:
            if self._site is not None:
                told = self._site.step(closed)
            else:
                assert self._own is not None
                told = [
                    Told(alarm, "training") for alarm in self._own.step(closed.transitions, closed.window)
                ]
            findings = [self._told(each, closed, now=closed.mono_end, wall=closed.wall_end) for each in told]
            self.remembered.extend(findings)
            for finding in findings:
                log.warning("finding %s: %s", finding.state, finding.text, extra={"finding": finding.id})
            detector = self._training_detector()
            if detector is not None and any(finding.state == "raised" for finding in findings):
                # An alarm that comes of a shuffled reference says nothing of the world.
                for doubt in detector.doubts():
                    log.warning("%s", doubt)
            if self._store is None:
                return
            news = bool(findings) or (self._site is not None and self._site.news)
            state = self._state_if_due(closed.mono_end, news)
            site = None if self._site is None else self._site.change(due=state is not None)
            evidence = _float16(self.evidence())
            item = _Waiting(closed, evidence, findings, state, self._standing.to_plain(), site)
            if self._kept is not None:
                waiting = self._kept.closed(self._body(item))
                item.kept = [] if waiting is None else [waiting]
            self._waiting.append(item)
            self._urgent |= bool(findings)
            while len(self._waiting) > MAX_WAITING:
                self._merge_oldest()
        if not self._background:
            self.write()

    def write(self) -> None:
        """Store what was taken, unless windows are held and none of them has findings."""
        if self._store is not None and self._waiting and (self._urgent or not self.holding):
            self._store_waiting(self._store)

    def retry(self) -> None:
        """Try again to store what waits."""
        if self._store is not None and self._waiting:
            self._store_waiting(self._store)

    def _store_waiting(self, store: Store) -> None:
        with self._writing:
            while (item := self._take_in_hand()) is not None:
                try:
                    problem = self._stored(store, item)
                finally:
                    self._in_hand = False
                if problem is not None:
                    if not self.store_problem:
                        log.error("the store can't be written, windows wait in memory: %s", problem)
                    self.store_problem = str(problem)
                    return
                with self._lock:
                    self._waiting.popleft()
                if self.store_problem:
                    log.info("the store can be written again")
                    self.store_problem = ""

    def _take_in_hand(self) -> _Waiting | None:
        """The first that waits; it is not merged while it is in hand."""
        with self._lock:
            self._in_hand = bool(self._waiting)
            self._urgent = self._urgent and self._in_hand
            return self._waiting[0] if self._waiting else None

    def _stored(self, store: Store, item: _Waiting) -> sqlite3.Error | None:
        """Store a window, or give it up where it never will be; None when it need not wait any more."""
        window = item.closed.window
        try:
            store.record_window(
                self._body(item),
                windows=window.parts,
                rows=window.rows,
                findings=item.findings,
                detector_state=item.state,
                standing=item.standing,
                site=item.site,
                private=self._private,
                kept=item.kept,
            )
        except sqlite3.Error as error:
            return error
        except MessageTooLarge as error:
            # It will never fit, and must not hold up those behind it; what was found in it still counts.
            try:
                self._store_without_window(store, item)
            except sqlite3.Error as trouble:
                return trouble
            log.error("a window of %d rows is given up: %s", window.rows, error)
            self.given_up += 1
            for one in item.kept:
                one.close()
        return None

    def _store_without_window(self, store: Store, item: _Waiting) -> None:
        with self._lock, store.transaction():
            store.record_findings(item.findings)
            if item.site is not None:
                store.record_site(
                    self._bundle.id,
                    item.site,
                    findings=(),
                    detector_state=self._state() if item.state is None else item.state,
                    standing=item.standing,
                )
            elif item.state is not None:
                store.keep_detector_state(self._bundle.id, item.state, item.standing)

    def _body(self, item: _Waiting) -> WindowBody:
        closed = item.closed
        return WindowBody(
            bundle=self._bundle.id,
            schema_id=self._bundle.schema.id,
            mono_start=closed.mono_start,
            mono_end=closed.mono_end,
            wall_start=closed.wall_start,
            wall_end=closed.wall_end,
            window=closed.window.to_bytes(),
            evidence=item.evidence,
        )

    def _merge_oldest(self) -> None:
        """Make one window of the two oldest that wait and are not being written."""
        in_hand = self._waiting.popleft() if self._in_hand else None
        first, second = self._waiting.popleft(), self._waiting.popleft()
        closed = replace(
            second.closed,
            window=first.closed.window.merge(second.closed.window),
            mono_start=first.closed.mono_start,
            wall_start=first.closed.wall_start,
        )
        site = first.site if second.site is None else second.site
        if first.site is not None and second.site is not None:
            first.site.parts.add(second.site.parts)
            second.site.parts = first.site.parts
        state = first.state if second.state is None else second.state
        findings = [*first.findings, *second.findings]
        merged = replace(second, closed=closed, findings=findings, state=state, site=site)
        merged.kept = [*first.kept, *second.kept]
        self._waiting.appendleft(merged)
        if in_hand is not None:
            self._waiting.appendleft(in_hand)

    def _restore(self) -> None:
        kept = self._store.detector_state(self._bundle.id) if self._store else None
        if kept is None:
            # Nobody remembers what was told: another bundle served since, or this is the first start.
            if self._site is not None:
                self._site.watch.forget()
            return
        state, standing = kept
        detector = self._training_detector()
        try:
            if detector is not None and state:
                detector.restore(state)
        except SketchError as error:
            # Written by another version: the detectors begin anew, which costs delay and no promise.
            log.warning("the detectors begin anew, their stored state can't be read: %s", error)
            self._standing = _Standing.from_plain(standing)
            self.abandon("the detectors began anew, with another calibration, threshold or version")
            return
        self._standing = _Standing.from_plain(standing)

    def abandon(self, why: str) -> None:
        """Clear the findings that stand, because nobody watches on what they were about."""
        with self._lock:
            if self._store is not None:
                now, wall = self._clock.mono_ms(), self._clock.wall_ms()
                over = [
                    replace(finding, state="cleared", mono=now, wall=wall, text=why)
                    for finding in self._store.standing_findings(self._bundle.id)
                    if finding.id in self._standing.streams
                ]
                if over:
                    self._store.clear_standing(over, self._bundle.id)
            self._standing = _Standing()
            self._state_changed = False
            if self._site is not None:
                self._site.watch.forget()

    def _detector_of(self, calibration: Calibration) -> DriftDetector:
        detector = DriftDetector(calibration, self._log_threshold)
        record = self._bundle.performance
        if record is not None and calibration.schema == self._bundle.schema:
            mix = record.class_mix(
                calibration.schema, np.array([chain.correlation_rows for chain in calibration.chains])
            )
            if mix is not None:
                detector.name_changes(mix.interpret)
        return detector

    def _training_detector(self) -> DriftDetector | None:
        return self._own if self._site is None else self._site.watch.detector

    def _state_if_due(self, now: int, told: bool) -> bytes | None:
        """The state where it has to go with this window: what was told is remembered with its telling."""
        due = told or now >= self._state_due
        self._state_changed = not due
        if not due:
            return None
        self._state_due = now + STATE_EVERY_S * 1000
        return self._state()

    def _state(self) -> bytes:
        detector = self._training_detector()
        return b"" if detector is None else detector.state_to_bytes()

    def _told(self, told: Told, closed: ClosedWindow | None, *, now: int, wall: int | None) -> FindingBody:
        """A finding of what was told.

        Args:
            told: the alarm.
            closed: the window that it is from; None for a person's word.
            now: monotonic ms.
            wall: Unix ms, if it is known.
        """
        alarm, baseline = told.alarm, told.baseline
        names = [name for name, _ in alarm.streams]
        about = [_SKEW] if alarm.kind == "skew" else names
        identity = self._standing.clear(about) if alarm.state == "cleared" else None
        if identity is None:
            self._findings += 1
            incarnation = self._store.incarnation if self._store else 0
            identity = f"{incarnation:x}-{now}-{self._findings}"
            if alarm.state == "raised":
                self._standing.raise_(identity, about)
        ago = round(alarm.onset_windows_ago * self._window_ms)
        begun, begun_wall = (closed.mono_start, closed.wall_start) if closed else (now, wall)
        return self._finding(
            alarm, identity, baseline, onset=(begun - ago, begun_wall and begun_wall - ago), at=(now, wall)
        )

    def _finding(
        self,
        alarm: Alarm,
        identity: str,
        baseline: Baseline,
        *,
        onset: tuple[int, int | None],
        at: tuple[int, int | None],
    ) -> FindingBody:
        names = [name for name, _ in alarm.streams]
        own = baseline == "site" and alarm.state == "raised"
        return FindingBody(
            id=identity,
            bundle=self._bundle.id,
            state=cast("Literal['raised', 'cleared']", alarm.state),
            kind=alarm.kind,
            streams=tuple((name, float(share)) for name, share in alarm.streams[:MAX_NAMED_STREAMS]),
            log_e=_finite(alarm.log_e),
            effect=_finite(alarm.effect),
            effect_natural=_finite(alarm.effect_natural),
            unit=alarm.unit,
            direction=alarm.direction,
            onset_mono=max(0, onset[0]),
            onset_wall=None if onset[1] is None else max(0, onset[1]),
            mono=at[0],
            wall=at[1],
            text=(alarm.text + _OWN_NORMAL if own else alarm.text)[:MAX_TEXT_CHARS],
            source=_source(self._bundle.schema, names),
            baseline=baseline,
        )


def _source(schema: Schema, names: Sequence[str]) -> Source:
    if names and names[0] in schema:
        return _SOURCES.get(schema.streams[schema.index(names[0])].role, "drift")
    return "drift"


def _finite(value: float) -> float:
    return float(np.nan_to_num(value, posinf=_LARGE, neginf=-_LARGE))


def _float16(evidence: NDArray[np.float32]) -> bytes:
    return np.clip(np.nan_to_num(evidence), -_FLOAT16_MAX, _FLOAT16_MAX).astype("<f2").tobytes()
