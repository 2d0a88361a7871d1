"""Closed windows through the detectors into the store: one transaction for each.

The detectors' state is advanced in memory first and then stored with the window it came from. When the store
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
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from driftpost_agent.recorder import ClosedWindow
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_sketches.drift.alarm import Alarm
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.errors import SketchError
from driftpost_sketches.schema import Role, Schema
from driftpost_sync.clock import Clock
from driftpost_sync.errors import MessageTooLarge
from driftpost_sync.messages import FindingBody, Source, WindowBody

log = logging.getLogger(__name__)

# Streams named in a finding; those after it carry next to none of the evidence.
MAX_NAMED_STREAMS = 16
# Windows that wait in memory for a store that can't be written, before neighbours are merged.
MAX_WAITING = 64
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
    state: bytes
    standing: dict[str, str]


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

    Args:
        bundle: whose windows.
        store: where they go; None checks and remembers findings only.
        window_seconds: length of a window, for the threshold.
        budget: false alarms allowed, in words.
        clock: for findings that belong to no window.
    """

    def __init__(
        self, bundle: Bundle, store: Store | None, *, window_seconds: float, budget: str, clock: Clock
    ) -> None:
        self._bundle = bundle
        self._store = store
        self._window_ms = window_seconds * 1000
        self._detector = DriftDetector(bundle.calibration, Budget.parse(budget).log_threshold(window_seconds))
        self._standing = _Standing()
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._clock = clock
        self._findings = 0
        self.remembered: deque[FindingBody] = deque(maxlen=MAX_REMEMBERED)
        self.store_problem = ""
        self.given_up = 0
        self._restore()

    @property
    def waiting(self) -> int:
        """Closed windows that could not be stored yet."""
        return len(self._waiting)

    def evidence(self) -> NDArray[np.float32]:
        """Log evidence of each tracked stream now, float32[T]; -inf before the first window."""
        return self._detector.evidence()

    def take(self, closed: ClosedWindow) -> None:
        """Check a closed window and record it with its findings and the detectors' new state."""
        with self._lock:
            alarms = self._detector.step(closed.transitions, closed.window)
            findings = [self._finding(alarm, closed) for alarm in alarms]
            self.remembered.extend(findings)
            for finding in findings:
                log.warning("finding %s: %s", finding.state, finding.text, extra={"finding": finding.id})
            if self._store is None:
                return
            self._waiting.append(
                _Waiting(
                    closed,
                    _float16(self._detector.evidence()),
                    findings,
                    self._detector.state_to_bytes(),
                    self._standing.to_plain(),
                )
            )
            self._store_waiting(self._store)
            while len(self._waiting) > MAX_WAITING:
                self._merge_oldest()

    def retry(self) -> None:
        """Try again to store what waits."""
        if self._store is not None and self._waiting:
            with self._lock:
                self._store_waiting(self._store)

    def _store_waiting(self, store: Store) -> None:
        while self._waiting:
            item = self._waiting[0]
            closed = item.closed
            body = WindowBody(
                bundle=self._bundle.id,
                schema_id=self._bundle.schema.id,
                mono_start=closed.mono_start,
                mono_end=closed.mono_end,
                wall_start=closed.wall_start,
                wall_end=closed.wall_end,
                window=closed.window.to_bytes(),
                evidence=item.evidence,
            )
            try:
                store.record_window(
                    body,
                    windows=closed.window.parts,
                    rows=closed.window.rows,
                    findings=item.findings,
                    detector_state=item.state,
                    standing=item.standing,
                )
            except sqlite3.Error as error:
                if not self.store_problem:
                    log.error("the store can't be written, windows wait in memory: %s", error)
                self.store_problem = str(error)
                return
            except MessageTooLarge as error:
                # It will never fit, and must not hold up those behind it; what was found in it still counts.
                try:
                    store.record_findings(item.findings)
                except sqlite3.Error as trouble:
                    self.store_problem = str(trouble)
                    return
                log.error("a window of %d rows is given up: %s", closed.window.rows, error)
                self.given_up += 1
            self._waiting.popleft()
            if self.store_problem:
                log.info("the store can be written again")
                self.store_problem = ""

    def _merge_oldest(self) -> None:
        """Make one window of the two oldest that wait."""
        first, second = self._waiting.popleft(), self._waiting.popleft()
        closed = replace(
            second.closed,
            window=first.closed.window.merge(second.closed.window),
            mono_start=first.closed.mono_start,
            wall_start=first.closed.wall_start,
        )
        self._waiting.appendleft(replace(second, closed=closed, findings=[*first.findings, *second.findings]))

    def _restore(self) -> None:
        kept = self._store.detector_state(self._bundle.id) if self._store else None
        if kept is None:
            return
        state, standing = kept
        try:
            self._detector.restore(state)
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

    def _finding(self, alarm: Alarm, closed: ClosedWindow) -> FindingBody:
        names = [name for name, _ in alarm.streams]
        identity = self._standing.clear(names) if alarm.state == "cleared" else None
        if identity is None:
            self._findings += 1
            incarnation = self._store.incarnation if self._store else 0
            identity = f"{incarnation:x}-{closed.mono_end}-{self._findings}"
            if alarm.state == "raised":
                self._standing.raise_(identity, names)
        ago = round(alarm.onset_windows_ago * self._window_ms)
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
            onset_mono=max(0, closed.mono_start - ago),
            onset_wall=None if closed.wall_start is None else max(0, closed.wall_start - ago),
            mono=closed.mono_end,
            wall=closed.wall_end,
            text=alarm.text,
            source=_source(self._bundle.schema, names),
        )


def _source(schema: Schema, names: Sequence[str]) -> Source:
    if names and names[0] in schema:
        return _SOURCES.get(schema.streams[schema.index(names[0])].role, "drift")
    return "drift"


def _finite(value: float) -> float:
    return float(np.nan_to_num(value, posinf=_LARGE, neginf=-_LARGE))


def _float16(evidence: NDArray[np.float32]) -> bytes:
    return np.clip(np.nan_to_num(evidence), -_FLOAT16_MAX, _FLOAT16_MAX).astype("<f2").tobytes()
