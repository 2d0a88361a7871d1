"""The fleet's detector: marginal counts of merged windows, tested at their effective size.

Transitions stay on the devices; what the wire carries are counts. Their rows are not independent, so counts
are divided by each stream's correlation time before they are taken for evidence, and the reference by its
own. Counts that were released with noise count for less by what the noise adds to their variance
(`noisy_counts.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import ABSENT, CELLS, cells_of, fold, value_cells
from driftpost_sketches.drift import state_bytes
from driftpost_sketches.drift.alarm import Alarm
from driftpost_sketches.drift.bets import Margins, errors_needed, marginal_bets
from driftpost_sketches.drift.chain import Chain, independent_chain
from driftpost_sketches.drift.folding import selection_bias
from driftpost_sketches.drift.joint.plan import JointPlan
from driftpost_sketches.drift.joint.watch import JointWatch, ordinary_threshold
from driftpost_sketches.drift.log_sums import log_sums
from driftpost_sketches.drift.monitor import Interpret, Monitor
from driftpost_sketches.drift.noisy_counts import NoisyCounts
from driftpost_sketches.drift.placing import Placed, place, project
from driftpost_sketches.drift.reference import Reference, unseen_cell
from driftpost_sketches.drift.robust_merge import RobustMerge, robust_merge
from driftpost_sketches.errors import CalibrationError, IncompatibleSketch
from driftpost_sketches.schema import Schema, Stream, StreamKind
from driftpost_sketches.window import NOISE_STEPS, Window

FloatArray = npt.NDArray[np.float64]

DEFAULT_EFFECT = 0.02  # reference standard deviations


class MarginalDetector:
    """Watches merged windows of a cohort or fleet.

    Args:
        schema: of the windows.
        baseline: sketch of the reference.
        tau: rows per independent row, by tracked stream; 1 where a stream is left out.
        n_ref: effective size of the reference, by tracked stream; its rows over tau where left out.
        smallest_effect: smallest change worth knowing in reference standard deviations, one number or by
            stream ("*" for those not named).
        log_threshold: from `Budget.log_threshold`.
        joint: how the streams hang together, where that is watched.

    Raises:
        CalibrationError: a tau, size or effect that is not a positive number.
        IncompatibleSketch: the baseline is of another schema.
    """

    def __init__(  # noqa: PLR0917  # the order every caller of the device's detector knows
        self,
        schema: Schema,
        baseline: Window,
        tau: Mapping[str, float],
        n_ref: Mapping[str, float],
        smallest_effect: float | Mapping[str, float] = DEFAULT_EFFECT,
        log_threshold: float = 16.0,
        joint: JointPlan | None = None,
    ) -> None:
        baseline.check(schema)
        self._schema_id = schema.id
        self._partial = np.array([schema.streams[i].partial for i in schema.tracked_streams], dtype=bool)
        streams = [schema.streams[i] for i in schema.tracked_streams]
        taus = np.array([max(_positive(tau.get(s.name, 1.0), "tau", s.name), 1.0) for s in streams])
        chains, bets = [], []
        for t, (i, stream) in enumerate(zip(schema.tracked_streams, streams, strict=True)):
            absent = int(baseline.missing[i] + baseline.nonfinite[i])
            bins = baseline.counts[schema.offsets[i] : schema.offsets[i + 1]]
            counts = fold(schema, int(i), bins, absent)
            chain = independent_chain(counts, stream.kind is StreamKind.NUMERIC, value_cells(stream))
            own = max(int(counts.sum()), 1)
            size = _positive(n_ref.get(stream.name, own / taus[t]), "n_ref", stream.name)
            effect = _effect(smallest_effect, stream.name) + selection_bias(stream, bins, size)
            margins = Margins(effect, size)
            margins = margins.charging(errors_needed(margins, log_threshold, len(streams)))
            chains.append(chain)
            bets.append(marginal_bets(chain, margins, unseen_cell(stream)))
        reference = Reference(schema, baseline, chains, taus, persistence=False)
        self._joint = None
        ordinary = log_threshold
        if joint is not None:
            self._joint = JointWatch(
                joint,
                [s.name for s in streams],
                log_threshold,
                [_effect(smallest_effect, s.name) for s in streams],
            )
            ordinary = ordinary_threshold(log_threshold)
        self._monitor = Monitor(reference, bets, ordinary)
        self._tables = np.zeros((len(bets), CELLS, self._monitor.log_r.shape[1]))
        for t, b in enumerate(bets):
            self._tables[t, :, : len(b.weights)] = b.table[0]
        self._bins = _bins(schema)
        self._noisy = NoisyCounts(self._tables, reference.shares, self._bins)
        self._yardsticks = _yardsticks(chains, streams)
        digest = hashlib.sha256(self._tables.tobytes() + taus.tobytes() + repr(log_threshold).encode())
        self._bets_id = digest.digest()[:16]

    @property
    def reference(self) -> Reference:
        """What is normal, and a window in its terms."""
        return self._monitor.reference

    @property
    def standing(self) -> tuple[Alarm, ...]:
        """Alarms that were raised and have not been cleared."""
        standing = tuple(s.alarm for s in self._monitor.standing)
        return standing if self._joint is None else (*standing, *self._joint.standing)

    def step(self, window: Window) -> list[Alarm]:
        """Reads one merged window.

        Returns:
            Alarms raised or cleared by it; mostly none.

        Raises:
            IncompatibleSketch: of another schema.
        """
        if window.schema_id != self._schema_id:
            raise IncompatibleSketch(self._schema_id, window.schema_id)
        if not window.rows:
            return []
        sums, rows, noise = self.read(window)
        alarms = self.step_sums(sums, rows, noise=np.full(len(rows), noise))
        return alarms + self.step_joint(window.joint_rows, window.joint)

    def step_joint(self, rows: int, sums: npt.NDArray[np.int64]) -> list[Alarm]:
        """Reads the joint sums of a window, after `step_sums` has read its counts.

        Args:
            rows: rows in the sums.
            sums: int64[K].

        Returns:
            Alarms raised or cleared; mostly none.
        """
        return [] if self._joint is None else self._joint.step(rows, sums, self._monitor)

    def step_sums(
        self,
        sums: FloatArray,
        rows: FloatArray | None = None,
        *,
        noise: FloatArray | None = None,
        slack: FloatArray | None = None,
    ) -> list[Alarm]:
        """Reads counts that someone else has merged, in `Reference`'s terms.

        Args:
            sums: float64[T, FIELDS].
            rows: float64[T], rows in them; the sum over cells where left out.
            noise: float64[T], variance of the noise on each count.
            slack: float64[T], change of a score's mean, in its standard deviations, that is no news: what
                devices that lie, or differ by nature, can have done.

        Returns:
            Alarms raised or cleared; mostly none.
        """
        log_e, left = self._log_e(sums, rows, noise, slack)
        if noise is not None and noise.any():
            # What describes a change and ends it reads shares: without negatives, and worth what is left.
            sums = np.concatenate([np.maximum(sums[:, :CELLS], 0.0), sums[:, CELLS:]], axis=1) * left[:, None]
        return self._monitor.step(log_e, sums)

    def _log_e(
        self, sums: FloatArray, rows: FloatArray | None, noise: FloatArray | None, slack: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """Log evidence of every bet, and the share of the rows that noise leaves."""
        tau = self._monitor.reference.tau
        cells = sums[:, :CELLS]
        none = np.zeros(len(sums))
        rows = cells.sum(axis=1) if rows is None else rows
        return self._noisy.evidence(
            cells / tau[:, None],
            np.maximum(rows, 0.0) / tau,
            (none if noise is None else noise) / tau**2,
            none if slack is None else slack,
        )

    def once(self, merged: RobustMerge) -> FloatArray:
        """float64[T]: log evidence of merged windows by themselves; the state stays as it is."""
        log_e, _ = self._log_e(merged.sums, merged.rows, merged.noise, merged.slack)
        return log_sums(self._monitor.log_weights + log_e)

    def project(self, sums: FloatArray) -> FloatArray:
        """Sums of what devices are compared by, float64[N, T, K], of float64[N, T, FIELDS]."""
        return project(sums, self._yardsticks)

    def place(self, totals: FloatArray, rows: FloatArray, noise: FloatArray) -> Placed:
        """Where devices stand among each other: of what `project` gives, float64[N, T] and float64[N]."""
        reference = self._monitor.reference
        return place(
            totals,
            rows,
            noise,
            scores=self._yardsticks,
            shares=reference.shares,
            bins=self._bins,
            tau=reference.tau,
        )

    def name_changes(self, interpret: Interpret) -> None:
        """Let `interpret` rename a change by what all streams show since its onset."""
        self._monitor.interpret = interpret

    def read(self, window: Window) -> tuple[FloatArray, FloatArray, float]:
        """A window in the terms of `merge`: float64[T, FIELDS], float64[T] rows, variance of its noise.

        Raises:
            IncompatibleSketch: of another schema.
        """
        if window.schema_id != self._schema_id:
            raise IncompatibleSketch(self._schema_id, window.schema_id)
        sums = self._monitor.reference.sums(window, None)
        noise = window.noise / NOISE_STEPS
        # Noise makes the values of an ordinary stream add up to anything; its rows are no secret.
        rows = np.where(self._partial | (noise == 0.0), sums[:, :CELLS].sum(axis=1), window.rows)
        if noise:
            rows = np.where(self._partial, rows - 2.0 * np.sqrt(noise * self._noisy.bins), rows)
        return sums, np.maximum(rows, 0.0), noise

    def merge(self, sums: FloatArray, rows: FloatArray, noise: FloatArray) -> RobustMerge:
        """Windows of several devices as one that no few of them can bend; see `robust_merge`.

        Args:
            sums: float64[N, T, FIELDS], as `read` gives them.
            rows: float64[N, T].
            noise: float64[N].
        """
        reference = self._monitor.reference
        return robust_merge(
            sums,
            rows,
            noise,
            scores=self._yardsticks,
            shares=reference.shares,
            bins=self._bins,
            tau=reference.tau,
        )

    def step_merged(self, merged: RobustMerge) -> list[Alarm]:
        """Reads what `merge` made of a cohort's windows."""
        return self.step_sums(merged.sums, merged.rows, noise=merged.noise, slack=merged.slack)

    def evidence(self) -> npt.NDArray[np.float32]:
        """float32[T]: log evidence of each tracked stream; -inf before the first window."""
        return self._monitor.evidence().astype(np.float32)

    def state_to_bytes(self) -> bytes:
        """The whole state."""
        joint = b"" if self._joint is None else self._joint.to_bytes()
        return state_bytes.encode(self._monitor, self._bets_id, joint)

    def restore(self, data: bytes) -> None:
        """Takes up a state where it was left.

        Raises:
            MalformedSketch: the bytes are no such state.
            UnsupportedVersion: written by a newer format.
            IncompatibleSketch: made with another baseline, tau or threshold; start afresh then.
        """
        state_bytes.restore(self._monitor, self._bets_id, data, self._joint)


def _positive(value: float, what: str, name: str) -> float:
    number = float(value)
    if not 0.0 < number < float("inf"):
        raise CalibrationError(f"{what} of stream {name!r} is {value!r}; a positive number is needed")
    return number


def _effect(smallest: float | Mapping[str, float], name: str) -> float:
    value = (
        smallest
        if not isinstance(smallest, Mapping)
        else smallest.get(name, smallest.get("*", DEFAULT_EFFECT))
    )
    number = float(value)
    if not 0.0 <= number < float("inf"):
        raise CalibrationError(f"the smallest effect of stream {name!r} is {value!r}; zero or more is needed")
    return number


def _bins(schema: Schema) -> FloatArray:
    """How many counts of a window are added up in each cell of each tracked stream: float64[T, CELLS]."""
    bins = np.zeros((len(schema.tracked_streams), CELLS))
    for t, i in enumerate(schema.tracked_streams):
        np.add.at(bins[t], cells_of(schema.streams[i]), 1.0)
        bins[t, ABSENT] = 2.0  # missing and infinite
    return bins


def _yardsticks(chains: Sequence[Chain], streams: Sequence[Stream]) -> FloatArray:
    """What devices are compared by: every score, absent values, unseen categories; float64[T, K, CELLS]."""
    width = max((len(chain.scores) for chain in chains), default=0)
    out = np.zeros((len(chains), width + 2, CELLS))
    for t, (chain, stream) in enumerate(zip(chains, streams, strict=True)):
        out[t, : len(chain.scores)] = chain.scores
        out[t, width, ABSENT] = 1.0
        unseen = unseen_cell(stream)
        if unseen is not None:
            out[t, width + 1, unseen] = 1.0
    return out
