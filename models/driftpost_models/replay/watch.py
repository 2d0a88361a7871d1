"""Rows through the device's own accumulator and detectors, window by window."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_models.replay.labelled import LabelWatch
from driftpost_models.replay.tables import Numbers
from driftpost_models.replay.trace import Trace
from driftpost_models.runtime import Array
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.commissioning.watch import Mode, SiteWatch, Told
from driftpost_sketches.drift.alarm import Alarm
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.transitions import Transitions
from driftpost_sketches.window import Window

MAX_LOG_E = 700.0
"""Logarithm at which an e-value is capped: exp(700) is about 1e304, the largest power that a float holds."""


@dataclass
class Finding:
    """A change that the detectors reported.

    Attributes:
        streams: (name, share of the evidence), strongest first.
        kind: what changed, one of `driftpost_sketches.drift.alarm.KINDS`.
        row: the last row of the window that raised it, counted from 0: the row at which a device knows.
        onset_row: first row of the window in which the change is estimated to have begun.
        log_e: natural logarithm of the evidence.
        effect: reference standard deviations (a difference of shares for categories and missing values).
        effect_natural: the same in `unit`.
        unit: the stream's unit, or `share`.
        direction: `up`, `down` or `none`.
        text: one sentence for people.
        cleared_row: the last row of the window after which it was over; None while it stands.
        baseline: what it was compared with: `training` (the reference) or `site` (the device's own normal).
    """

    streams: tuple[tuple[str, float], ...]
    kind: str
    row: int
    onset_row: int
    log_e: float
    effect: float
    effect_natural: float
    unit: str
    direction: str
    text: str
    cleared_row: int | None = None
    baseline: str = "training"

    @property
    def stream(self) -> str:
        """The strongest stream."""
        return self.streams[0][0]

    @property
    def e_value(self) -> float:
        """The evidence itself, capped at exp(700)."""
        return math.exp(min(self.log_e, MAX_LOG_E))


class Watch:
    """The detectors of one device over recorded rows.

    Args:
        calibration: of the reference.
        log_threshold: from `Budget.log_threshold`.
        window_rows: rows of a window.
        trace: what the course is kept in, for a plot; None keeps none.
        labelled: compares answers with labels; None where nothing is known of them.
        site: learns a normal of the device's own and watches by it; None where only the reference counts.

    Attributes:
        rows: rows read so far.
        windows: windows read so far.
        findings: in the order in which they were raised.
    """

    def __init__(
        self,
        calibration: Calibration,
        log_threshold: float,
        window_rows: int,
        trace: Trace | None = None,
        labelled: LabelWatch | None = None,
        *,
        site: SiteWatch | None = None,
    ) -> None:
        self._accumulator = WindowAccumulator(
            calibration.schema, None if calibration.joint is None else calibration.joint.features
        )
        self._site = site
        self._detector = DriftDetector(calibration, log_threshold) if site is None else None
        self._size = window_rows
        self._trace = trace
        self._labelled = labelled
        if self._detector is not None and labelled is not None and labelled.mix is not None:
            self._detector.name_changes(labelled.mix.interpret)
        self.rows = 0
        self.windows = 0
        self.findings: list[Finding] = []

    @property
    def room(self) -> int:
        """Rows until the open window closes."""
        return self._size - self._accumulator.rows

    def feed(
        self,
        values: Numbers,
        codes: Mapping[str, Array] | None = None,
        labels: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Take rows in time order.

        Args:
            values: float64[rows, S_scalar].
            codes: tensors of the codes streams; then at most `room` rows.
            labels: int64[rows], true classes, -1 where unknown; None without any.
        """
        start = 0
        while start < len(values):
            stop = min(start + self.room, len(values))
            self._accumulator.update(values[start:stop], codes)
            if self._site is not None:
                self._site.update(values[start:stop])
            if self._labelled is not None:
                self._labelled.feed(values[start:stop], None if labels is None else labels[start:stop])
            self.rows += stop - start
            start = stop
            if not self.room:
                self._close()

    @property
    def drifting(self) -> tuple[str, ...]:
        """Streams with an alarm that stands; not those of a class mix that explains them."""
        return tuple(
            name for alarm in self._standing if alarm.kind != "label_shift" for name, _ in alarm.streams
        )

    @property
    def doubts(self) -> tuple[str, ...]:
        """What the rows say against the reference itself, in sentences."""
        return () if self._detector is None else self._detector.doubts()

    def finish(self) -> None:
        """Close the last window, as a device does when it stops."""
        if self._accumulator.rows:
            self._close()

    @property
    def _standing(self) -> tuple[Alarm, ...]:
        if self._site is not None:
            return self._site.standing
        assert self._detector is not None
        return self._detector.standing

    def _step(self, transitions: Transitions, window: Window) -> list[Told]:
        if self._site is None:
            assert self._detector is not None
            return [Told(alarm, "training") for alarm in self._detector.step(transitions, window)]
        # A recording has no clock of its own: a row is a second, and the plan is in rows.
        told = self._site.step(transitions, window, float(window.rows))
        if self._site.mode is Mode.FITTING and self._site.ready is None:
            self._site.ready = self._site.fit()
        return told

    def _evidence(self) -> npt.NDArray[np.float64]:
        if self._site is not None:
            return self._site.evidence().astype(np.float64)
        assert self._detector is not None
        return self._detector.evidence().astype(np.float64)

    def _close(self) -> None:
        window, transitions = self._accumulator.take()
        begin = self.rows - window.rows
        told = self._step(transitions, window)
        said = [] if self._labelled is None else self._labelled.close(begin, window, self.drifting)
        for alarm, baseline in (*((t.alarm, t.baseline) for t in told), *((a, "training") for a in said)):
            if alarm.state == "raised":
                self.findings.append(dataclasses.replace(self._finding(alarm, begin), baseline=baseline))
            else:
                self._clear(alarm)
        self.windows += 1
        if self._trace is not None:
            peak = max((t.alarm.log_e for t in told if t.alarm.state == "raised"), default=-math.inf)
            self._trace.add(begin, window, self._evidence(), peak)

    def _finding(self, alarm: Alarm, begin: int) -> Finding:
        return Finding(
            streams=tuple((name, float(share)) for name, share in alarm.streams),
            kind=alarm.kind,
            row=self.rows - 1,
            onset_row=max(begin - alarm.onset_windows_ago * self._size, 0),
            log_e=float(alarm.log_e),
            effect=_finite(alarm.effect),
            effect_natural=_finite(alarm.effect_natural),
            unit=alarm.unit,
            direction=alarm.direction,
            text=alarm.text,
        )

    def _clear(self, alarm: Alarm) -> None:
        for finding in self.findings:
            same = (finding.kind, finding.streams) == (alarm.kind, alarm.streams)
            if same and finding.cleared_row is None:
                finding.cleared_row = self.rows - 1
                return


def _finite(value: float) -> float:
    return float(np.nan_to_num(value, posinf=1e300, neginf=-1e300))
