"""Whether live rows are alike where the reference's are not: the mark of a reference that was shuffled.

A shuffled reference of a stream that remembers can not be told from independent rows by itself. On the device
it can: exact lags come with the transition counts. Detectors calibrated on such a reference take every slow
swing for drift, so what they promise does not hold, and somebody has to be told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import CELLS
from driftpost_sketches.drift.chain import Chain
from driftpost_sketches.drift.recent import Recent
from driftpost_sketches.drift.reference import LAG

FloatArray = npt.NDArray[np.float64]

NO_LAG = 0.05  # lag-1 correlation of the reference up to which its rows pass for independent
MORE_LAG = 0.1  # by how much live rows must be more alike
ERRORS = 4.0  # standard errors of a lag-1 correlation beyond that
MIN_ROWS = 300  # of a block in which a correlation is taken
MIN_BLOCKS = 3  # a step of the mean correlates the rows of one block; all of at least so many must agree


def unlike_the_reference(names: Sequence[str], chains: Sequence[Chain], recent: Recent) -> tuple[str, ...]:
    """A sentence for each numeric stream whose live rows remember although the reference's do not.

    Args:
        names: of the tracked streams.
        chains: their reference behaviour.
        recent: sums of the latest windows, taken with transition counts.
    """
    location = np.array([c.scores[0] if c.ordered and len(c.scores) else np.zeros(CELLS) for c in chains])
    suspects = [t for t, chain in enumerate(chains) if location[t].any() and abs(_lag(chain)) <= NO_LAG]
    if not suspects:
        return ()
    lags, counts = [], []
    for _, block in recent.blocks:
        cells = block[suspects, :CELLS].astype(np.float64)
        rows = np.maximum(cells.sum(axis=1), 1.0)
        own = location[suspects]
        mean = (cells * own).sum(axis=1) / rows
        variance = (cells * own * own).sum(axis=1) / rows - mean**2
        lag = (block[suspects, LAG] / rows - mean**2) / np.maximum(variance, 1e-6)
        large = rows >= MIN_ROWS
        counts.append(large)
        lags.append(np.where(large, lag - ERRORS / np.sqrt(rows), math.inf))
    if not lags:
        return ()
    least, enough = np.min(lags, axis=0), np.sum(counts, axis=0) >= MIN_BLOCKS
    return tuple(
        f"{names[t]}: neighbouring rows are alike (correlation above {least[i]:.2f}) although those of the "
        f"reference are not ({_lag(chains[t]):.2f}). Unless the stream itself has changed, the reference was "
        "shuffled or sampled: alarms come more often than promised until it is rebuilt in time order"
        for i, t in enumerate(suspects)
        if enough[i] and least[i] > MORE_LAG
    )


def _lag(chain: Chain) -> float:
    flow = chain.shares[:, None] * chain.matrix
    return float(chain.scores[0] @ flow @ chain.scores[0])
