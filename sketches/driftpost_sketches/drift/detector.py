"""The device's detector: one window's transition counts in, alarms out, constant state."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import CELLS
from driftpost_sketches.drift import state_bytes
from driftpost_sketches.drift.alarm import Alarm
from driftpost_sketches.drift.bets import build_bets
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.joint.watch import JointWatch, ordinary_threshold
from driftpost_sketches.drift.monitor import Interpret, Monitor
from driftpost_sketches.drift.order import unlike_the_reference
from driftpost_sketches.drift.reference import Reference, unseen_cell
from driftpost_sketches.errors import IncompatibleSketch
from driftpost_sketches.transitions import Transitions
from driftpost_sketches.window import Window


class DriftDetector:
    """Watches all tracked streams of one model on one device.

    Building it takes about a millisecond a stream; a step is one matrix product.

    Args:
        calibration: of the bundle.
        log_threshold: from `Budget.log_threshold`.
    """

    def __init__(self, calibration: Calibration, log_threshold: float) -> None:
        self._schema_id = calibration.schema.id
        self._names, self._chains = calibration.tracked_names, calibration.chains
        bets, tables = [], []
        for t, chain in enumerate(calibration.chains):
            margins = calibration.margins(t).toward(log_threshold, len(calibration.chains))
            stream = calibration.schema.streams[calibration.schema.tracked_streams[t]]
            # float32 at once: evidence of a step to seven digits, and while all are made half the memory.
            made = build_bets(chain, margins, unseen_cell(stream))
            tables.append(made.table.reshape(CELLS * CELLS, -1).astype(np.float32))
            bets.append(replace(made, table=made.table[:0]))
        tau = np.array([chain.correlation_rows for chain in calibration.chains])
        reference = Reference(
            calibration.schema, calibration.baseline, calibration.chains, tau, persistence=True
        )
        self._joint = None
        ordinary = log_threshold
        if calibration.joint is not None:
            self._joint = JointWatch(
                calibration.joint, self._names, log_threshold, calibration.smallest_effect.tolist()
            )
            ordinary = ordinary_threshold(log_threshold)
        self._monitor = Monitor(reference, bets, ordinary)
        width = self._monitor.log_r.shape[1]
        # 2 MB for 41 streams.
        self._tables = np.zeros((len(bets), CELLS * CELLS, width), dtype=np.float32)
        self._repeat = np.zeros((2, len(bets), width))
        for t, b in enumerate(bets):
            self._tables[t, :, : len(b.weights)] = tables[t]
            self._repeat[:, t, : len(b.weights)] = b.repeat
        digest = hashlib.sha256(self._tables.data)
        digest.update(self._repeat.data)
        digest.update(repr(log_threshold).encode())
        self._bets_id = digest.digest()[:16]

    @property
    def standing(self) -> tuple[Alarm, ...]:
        """Alarms that were raised and have not been cleared."""
        standing = tuple(s.alarm for s in self._monitor.standing)
        return standing if self._joint is None else (*standing, *self._joint.standing)

    def step(self, transitions: Transitions, window: Window) -> list[Alarm]:
        """Reads one window.

        Args:
            transitions: taken together with the window.
            window: of the calibration's schema.

        Returns:
            Alarms raised or cleared by it; mostly none.

        Raises:
            IncompatibleSketch: made with another schema.
        """
        for theirs in (transitions.schema_id, window.schema_id):
            if theirs != self._schema_id:
                raise IncompatibleSketch(self._schema_id, theirs)
        if not window.rows:
            return []
        moves = transitions.moves.reshape(len(self._tables), 1, CELLS * CELLS)
        log_e = self.weigh(moves, transitions.repeats[:, None], transitions.steps[:, None])[:, 0]
        reference = self._monitor.reference
        alarms = self._monitor.step(log_e, reference.sums(window, transitions), reference.ends(window))
        if self._joint is not None:
            alarms += self._joint.step(window.joint_rows, window.joint, self._monitor)
        return alarms

    def weigh(
        self, moves: npt.NDArray[np.int64], repeats: npt.NDArray[np.int64], steps: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Log evidence of every bet in each of some windows: float64[T, windows, N].

        Args:
            moves: int64[T, windows, CELLS * CELLS], transition counts.
            repeats: int64[T, windows], exact repeats.
            steps: int64[T, windows], moves counted.
        """
        log_e = np.matmul(moves.astype(np.float32), self._tables).astype(np.float64)
        same = repeats[:, :, None]
        others = steps[:, :, None] - same
        return np.asarray(log_e + same * self._repeat[0][:, None] + others * self._repeat[1][:, None])

    @property
    def log_weights(self) -> npt.NDArray[np.float64]:
        """float64[T, N]: log weight of each bet in the sum that is held against the threshold."""
        return self._monitor.log_weights + self._monitor.log_share

    def name_changes(self, interpret: Interpret) -> None:
        """Let `interpret` rename a change by what all streams show since its onset."""
        self._monitor.interpret = interpret

    def evidence(self) -> npt.NDArray[np.float32]:
        """float32[T]: log evidence of each tracked stream; -inf before the first window."""
        return self._monitor.evidence().astype(np.float32)

    def doubts(self) -> tuple[str, ...]:
        """What live rows say against the reference itself, in sentences: that it was not in time order.

        Not an alarm: nothing need have changed. It is read from the latest windows (at least 900 rows).
        """
        return unlike_the_reference(self._names, self._chains, self._monitor.recent)

    def state_to_bytes(self) -> bytes:
        """The whole state; a few kB a stream at most."""
        joint = b"" if self._joint is None else self._joint.to_bytes()
        return state_bytes.encode(self._monitor, self._bets_id, joint)

    def restore(self, data: bytes) -> None:
        """Takes up a state where it was left.

        Raises:
            MalformedSketch: the bytes are no such state.
            UnsupportedVersion: written by a newer format.
            IncompatibleSketch: made with another calibration or threshold; start afresh then.
        """
        state_bytes.restore(self._monitor, self._bets_id, data, self._joint)
