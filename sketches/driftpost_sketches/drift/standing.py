"""An alarm that was raised and holds, and the question whether its change is over."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import CELLS
from driftpost_sketches.drift.alarm import Alarm
from driftpost_sketches.drift.log_sums import log_sums
from driftpost_sketches.drift.reference import REPEATS, Reference

FloatArray = npt.NDArray[np.float64]

PRIOR_ROWS = (
    8.0  # reference rows mixed into the changed state: what few rows say of it is not taken for exact
)
NOT_QUIET = np.log(20.0)  # evidence in one window that the change is still there
MIN_QUIET, QUIET_FACTOR, MAX_QUIET = 20, 10, 5000  # windows; the factor is times what the alarm itself took


@dataclass
class Standing:
    """One standing alarm.

    Attributes:
        number: names it among the standing ones, from 1.
        raised_at: index of the window that raised it.
        patience: windows without renewed evidence after which it counts as over in any case.
        principals: tracked streams that said so.
        alarm: what was said.
        changed: float64[P, FIELDS], sums of the changed state of each principal.
        pending: float64[P, FIELDS], sums of the windows in which `back` has been growing.
        back: float64[P], log evidence for the reference against the changed state.
        again: float64[P, N], Shiryaev-Roberts statistics restarted at the alarm.
        quiet: int64[P], windows since `again` last reached the threshold.
    """

    number: int
    raised_at: int
    patience: int
    principals: npt.NDArray[np.int64]
    alarm: Alarm
    changed: FloatArray
    pending: FloatArray
    back: FloatArray
    again: FloatArray
    quiet: npt.NDArray[np.int64] = field(repr=False)

    def read(
        self,
        reference: Reference,
        sums: FloatArray,
        log_e: FloatArray,
        log_weights: FloatArray,
        log_threshold: float,
    ) -> bool:
        """Takes a window; whether the change is over by now.

        Over means: as much evidence for the reference against the changed state as the alarm itself had to
        have, in windows none of which speaks for a change by itself; or a long time without any renewed
        evidence, for changes that leave the cells' shares alone.

        Args:
            reference: what is normal.
            sums: float64[T, FIELDS] of the window.
            log_e: float64[T, N], the window's evidence for a change.
            log_weights: float64[T, N], of the bets within each stream.
            log_threshold: what an alarm takes.
        """
        p = self.principals
        logs = log_weights[p]
        loud = log_sums(logs + log_e[p]) >= NOT_QUIET
        self.again = np.logaddexp(self.again, 0.0) + log_e[p]
        renewed = log_sums(logs + self.again) >= log_threshold
        self.again[renewed] = -np.inf
        self.quiet = np.where(renewed, 0, self.quiet + 1)
        gain = self._for_reference(reference, sums[p])
        self.back = np.where(loud | renewed, 0.0, np.maximum(self.back + gain, 0.0))
        # What turns out to be no return belongs to the changed state and sharpens its picture. Every such
        # window is added, in its favour or against: a picture of the former only would be a caricature.
        self.pending += sums[p]
        none = self.back <= 0.0
        self.changed[none] += self.pending[none]
        self.pending[none] = 0.0
        return bool(((self.back >= log_threshold) | (self.quiet >= self.patience)).all())

    def add(self, t: int, changed: FloatArray) -> None:
        """Takes in another stream that turns out to belong to the change.

        Args:
            t: position among tracked streams.
            changed: float64[FIELDS], its sums since the change began.
        """
        self.principals = np.append(self.principals, t)
        self.changed = np.vstack([self.changed, changed])
        self.pending = np.vstack([self.pending, np.zeros_like(changed)])
        self.back = np.append(self.back, 0.0)
        self.again = np.vstack([self.again, np.full((1, self.again.shape[1]), -np.inf)])
        self.quiet = np.append(self.quiet, 0)

    def differs(self, reference: Reference, t: int, now: FloatArray, log_threshold: float) -> bool:
        """Whether principal `t` has left the changed state for yet another one.

        Two-sample likelihood ratio of its cells (and exact repeats) then and now, in effective rows, less the
        freedom that fitting two states instead of one takes (half a log row per cell).

        Args:
            reference: what is normal.
            t: position among tracked streams.
            now: float64[FIELDS], the stream's recent sums.
            log_threshold: what an alarm takes.
        """
        then = self.changed[int(np.flatnonzero(self.principals == t)[0])]
        gain, free = _two_sample(then[:CELLS], now[:CELLS])
        if reference.persistence:
            pairs = [np.array([s[REPEATS], max(s[:CELLS].sum() - s[REPEATS], 0.0)]) for s in (then, now)]
            more, also = _two_sample(*pairs)
            gain, free = gain + more, free + also
        rows = min(float(then[:CELLS].sum()), float(now[:CELLS].sum()))
        tau = max(float(reference.tau[t]), 1.0)
        return gain / tau - 0.5 * free * math.log(max(rows / tau, 2.0)) >= log_threshold

    def _for_reference(self, reference: Reference, sums: FloatArray) -> FloatArray:
        p = self.principals
        normal = reference.shares[p]
        cells = self.changed[:, :CELLS]
        rows = cells.sum(axis=1, keepdims=True)
        changed = (cells + PRIOR_ROWS * normal) / (rows + PRIOR_ROWS)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(normal > 0, np.log(normal / changed), 0.0)
        gain = np.asarray((sums[:, :CELLS] * ratio).sum(axis=1))
        if reference.persistence:
            usual = np.clip(reference.repeats[p], 0.01, 0.99)
            share = (self.changed[:, REPEATS] + PRIOR_ROWS * usual) / (rows[:, 0] + PRIOR_ROWS)
            share = np.clip(share, 0.01, 0.99)
            total = sums[:, :CELLS].sum(axis=1)
            repeats = np.minimum(sums[:, REPEATS], total)
            gain += repeats * np.log(usual / share) + (total - repeats) * np.log((1 - usual) / (1 - share))
        return np.asarray(gain / np.maximum(reference.tau[p], 1.0))


def _two_sample(then: FloatArray, now: FloatArray) -> tuple[float, int]:
    """Log likelihood ratio of two sets of counts being of two states, and the degrees of freedom."""
    both = then + now
    used = both > 0
    gain = 0.0
    for counts in (then, now):
        filled = counts > 0
        share = counts[filled] / max(float(counts.sum()), 1.0)
        pooled = both[filled] / max(float(both.sum()), 1.0)
        gain += float((counts[filled] * np.log(share / pooled)).sum())
    return gain, max(int(used.sum()) - 1, 0)


def patience_for(windows: int) -> int:
    """Quiet windows after which a change that took this many windows to show counts as over."""
    return min(max(MIN_QUIET, QUIET_FACTOR * windows), MAX_QUIET)
