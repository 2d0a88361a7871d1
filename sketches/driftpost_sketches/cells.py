"""Drift cells: a stream's bins folded to a few states, plus one for absent values.

Detectors watch transitions between cells, so their number is bounded whatever the histogram holds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from driftpost_sketches.schema import Schema, Stream, StreamKind

CELLS = 18  # 16 bins of a numeric stream, or 15 categories + known rest + unseen; then absent
ABSENT = CELLS - 1  # missing or non-finite
VALUE_CELLS = CELLS - 1
MAX_NUMERIC_BINS = 16


def cells_of(stream: Stream) -> npt.NDArray[np.int8]:
    """The drift cell of every bin: int8[n_bins].

    Where categories outnumber cells they are ordered by how often the reference shows them, so folding keeps
    the frequent ones apart; the overflow bin (all other categories) always keeps a cell of its own, because
    an unseen category must not hide among rare ones.
    """
    bins = stream.n_bins
    if stream.kind is StreamKind.CATEGORICAL:
        cells = np.minimum(np.arange(bins), VALUE_CELLS - 2)
        cells[-1] = min(bins - 1, VALUE_CELLS - 1)
    elif bins <= VALUE_CELLS:
        cells = np.arange(bins)
    else:
        cells = np.arange(bins) * VALUE_CELLS // bins
    return np.asarray(cells, dtype=np.int8)


def value_cells(stream: Stream) -> int:
    """How many cells the stream's values can be in; they are 0, 1, ... below this."""
    return int(cells_of(stream).max()) + 1


def cell_table(schema: Schema) -> npt.NDArray[np.int8]:
    """Cells of all bins of a schema, aligned with a window's counts: int8[offsets[-1]]."""
    return np.concatenate([cells_of(stream) for stream in schema.streams])


def fold(schema: Schema, index: int, counts: npt.NDArray[np.int64], absent: int) -> npt.NDArray[np.int64]:
    """A stream's histogram as cell counts: int64[CELLS], absent values in the last."""
    folded = np.zeros(CELLS, dtype=np.int64)
    np.add.at(folded, cells_of(schema.streams[index]), counts)
    folded[ABSENT] = absent
    return folded
