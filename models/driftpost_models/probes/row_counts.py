"""How many values of each row are true: eight at a time, where numpy counts along an axis one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LONG_ROW = 64
"""Values of a row from which adding words pays."""

_LANES = 8
"""Bytes of a word."""

_MOST_WORDS = 255
"""Words that may be added before one of their bytes could overflow."""


def row_counts(hits: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Count the true values of each row.

    Args:
        hits: bool[rows, values] in one piece.

    Returns:
        int64[rows].
    """
    rows, values = hits.shape
    if values < LONG_ROW:
        few: npt.NDArray[np.int64] = np.count_nonzero(hits, axis=1).astype(np.int64)
        return few
    even = values - values % _LANES
    counts: npt.NDArray[np.int64] = np.count_nonzero(hits[:, even:], axis=1).astype(np.int64)
    words = hits[:, :even].view(np.uint64)
    for at in range(0, words.shape[1], _MOST_WORDS):
        # Each byte of such a sum is a count of its own, of at most 255.
        lanes = np.add.reduce(words[:, at : at + _MOST_WORDS], axis=1)
        counts += lanes.view(np.uint8).reshape(rows, _LANES).sum(axis=1, dtype=np.int64)
    return counts
