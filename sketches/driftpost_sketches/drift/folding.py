"""What it costs that the categories which share a drift cell were chosen by the reference itself.

The rarest categories of a reference share a cell. Where many are about equally frequent, those that came out
rare by chance are picked, so their cell looks rarer than it is: a bias, not an error that averages out.
Thirty equal categories in a thousand rows show the rest at 43 % of rows instead of 50 %.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import VALUE_CELLS
from driftpost_sketches.schema import Stream, StreamKind

OWN_CELLS = VALUE_CELLS - 2  # categories with a cell of their own; the rest and the unseen have one each


def selection_bias(stream: Stream, counts: npt.NDArray[np.int64], independent: float) -> float:
    """By how much the reference may understate the folded categories, in standard deviations of that share.

    A category of share p counts as rare when its estimate falls below the border b, which takes
    sigma * phi((p - b) / sigma) off the folded share on average (the mean of a normal error cut off at b).
    Estimates stand in for the p; they scatter once more than those, which the root of two makes up for.

    Args:
        stream: of the schema.
        counts: int64[n_bins], the reference's histogram.
        independent: rows that it amounts to.

    Returns:
        0 for streams whose categories all have cells of their own.
    """
    known = len(stream.categories)
    if stream.kind is not StreamKind.CATEGORICAL or known <= OWN_CELLS + 1:
        return 0.0
    total = int(counts.sum())
    if not total:
        return 0.0
    share = counts[:known] / total
    # Half a row more: a category that the reference does not show has an error, too.
    sigma = np.sqrt((share + 0.5 / total) / max(independent, 1.0))
    border = (share[OWN_CELLS - 1] + share[OWN_CELLS]) / 2
    density = np.exp(-0.5 * ((share - border) / sigma) ** 2) / math.sqrt(2.0 * math.pi)
    folded = float(share[OWN_CELLS:].sum())
    spread = math.sqrt(max(folded * (1.0 - folded), 1.0 / total))
    return float(math.sqrt(2.0) * (sigma * density).sum() / spread)
