"""Many windows in one pass: whether a detector's evidence comes near its threshold at all.

Counting false alarms is waiting for what hardly ever happens. While no alarm was raised, a detector's state
is its evidence alone, and that can be computed for a day of windows at once. Where it stays below the
threshold, the device would have been silent; where it does not, the device's own path has to say what it
would have done. A test holds the two against each other.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from driftpost_sketches.binning import Binner
from driftpost_sketches.cells import CELLS
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.drift.monitor import IDLE
from driftpost_sketches.schema import Schema

FloatArray = npt.NDArray[np.float64]

CHUNK_WINDOWS = 250  # at a time: transition counts of 30 streams take 20 MB
# Sums of a window's float32 evidence depend on their order by far less than this; a near miss is no silence.
TOLERANCE = 0.01
# Where evidence stops growing here: beyond any threshold (1e9 is one alarm in thousands of years), and below
# what a float's square can hold.
MOST, MOST_GAIN = 1e100, 230.0


def stays_silent(
    schema: Schema, detector: DriftDetector, values: FloatArray, window_rows: int, log_threshold: float
) -> bool:
    """Whether a fresh detector's evidence stays safely below the threshold throughout.

    Args:
        schema: of numeric streams, all of them tracked.
        detector: fresh; it is not changed.
        values: float64[rows, streams] without missing values.
        window_rows: rows of a window; a last window that is not full is left out.
        log_threshold: of the detector.
    """
    return surely_silent(highest_evidence(schema, detector, values, window_rows), log_threshold)


def surely_silent(highest: float, log_threshold: float) -> bool:
    """Whether evidence that peaks here stays below a threshold, rounding allowed for."""
    return highest < log_threshold - TOLERANCE


def highest_evidence(schema: Schema, detector: DriftDetector, values: FloatArray, window_rows: int) -> float:
    """Largest log evidence in all that a fresh detector reaches if none of it becomes an alarm."""
    weights = np.exp(detector.log_weights)
    evidence = np.zeros(weights.shape)
    most = 0.0
    cells = _cells(schema, values)
    same = np.zeros(values.T.shape, dtype=bool)
    same[:, 1:] = values.T[:, 1:] == values.T[:, :-1]
    windows = len(values) // window_rows
    for first in range(0, windows, CHUNK_WINDOWS):
        last = min(first + CHUNK_WINDOWS, windows)
        moves, repeats, steps = _transitions(cells, same, first, last, window_rows)
        # Not in logarithms, as on the device: what lasts for days would overflow, but it is an alarm before.
        gains = np.exp(np.minimum(detector.weigh(moves, repeats, steps) - IDLE, MOST_GAIN))
        for gain in gains.transpose(1, 0, 2):
            evidence += 1.0
            evidence *= gain
            np.minimum(evidence, MOST, out=evidence)
            most = max(most, float(np.vdot(weights, evidence)))
    return math.log(most)


def _cells(schema: Schema, values: FloatArray) -> npt.NDArray[np.int64]:
    binner = Binner(schema)
    return binner.fold(binner.bins(np.ascontiguousarray(values.T)), None)


def _transitions(
    cells: npt.NDArray[np.int64], same: npt.NDArray[np.bool_], first: int, last: int, window_rows: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Transition counts, exact repeats and steps of windows first to last (excluded), as in `Transitions`."""
    streams, windows = len(cells), last - first
    begin, end = max(first * window_rows, 1), last * window_rows
    pairs = cells[:, begin - 1 : end - 1] * CELLS + cells[:, begin:end]
    of_window = np.arange(begin, end) // window_rows - first
    place = (np.arange(streams)[:, None] * windows + of_window) * CELLS**2 + pairs
    counts = np.bincount(place.ravel(), minlength=streams * windows * CELLS**2)
    moves = counts.reshape(streams, windows, CELLS**2)
    repeats = same[:, first * window_rows : end].reshape(streams, windows, window_rows).sum(axis=2)
    return moves, repeats.astype(np.int64), moves.sum(axis=2)
