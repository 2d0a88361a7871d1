"""How many labelled rows carry as much as one independent row, learnt while they come.

Errors cluster: a blinded camera is wrong for an hour. A labelled reference seldom shows that, because test
sets are shuffled, so it is measured on the live labels as well, in two ways: by the moves between right and
wrong from row to row, and by how much batches of growing length differ from their neighbours beyond what
independent rows would. Differences of neighbours hardly notice a lasting change, which must not be mistaken
for correlation. Each estimate is shrunk towards what the reference showed; the largest counts. A reference
that shows no clustering may have been shuffled: until live labels have shown it themselves, errors are
presumed to cluster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVELS = 12  # doublings of the batch: 4,096 windows of five minutes are two weeks
PRIOR_MOVES = 50.0  # moves as which the reference counts
PRIOR_PAIRS = 4.0  # pairs of neighbouring batches likewise
UNORDERED = 1.2  # rows per independent row up to which a reference may as well have been shuffled
PRESUMED = 20.0  # the same until live labels have shown it, where the reference's order proves nothing
LONGER = 2.0  # times what neighbouring rows tell, that batches are presumed to tell: memory has a tail
PRESUMED_PAIRS = 2.0  # pairs of batches as which that counts
MIN_PAIRS = 2.0  # from which a length of batches has a say
FORGET_MOVES = 200_000.0  # moves beyond which half of them are forgotten: what counts is this month
FORGET_PAIRS = 512.0
OUTLIER = 12.0  # times the present estimate at which one pair is cut: a lasting change is a single one
LONGEST = 10_000.0  # rows; beyond this nothing is promised anyway
LEAST_ERRORS = 5.0  # errors, and right rows, of two batches below which their difference is not normal
_PER_LEVEL = 4  # pending rows, pending loss, pairs, sum of ratios


@dataclass
class Dependence:
    """Running estimate; `independent` is the result.

    Attributes:
        usual: rows per independent row in the reference, at least 1.
        moves: float64[2, 2], between right and wrong, halved from time to time.
        levels: float64[LEVELS, 4], batches of 1, 2, 4 ... windows: rows and loss of the one that waits for
            its neighbour, pairs seen and the sum of their ratios.
    """

    usual: float = 1.0
    moves: Floats = field(default_factory=lambda: np.zeros((2, 2)))
    levels: Floats = field(default_factory=lambda: np.zeros((LEVELS, _PER_LEVEL)))

    def update(self, rows: float, loss: float, moves: npt.NDArray[np.int64]) -> None:
        """Take one batch.

        Args:
            rows: labelled rows in it.
            loss: sum of their losses.
            moves: int64[2, 2], see `LabelSketch`.
        """
        if rows <= 0:
            return
        self.moves += moves
        if self.moves.sum() > FORGET_MOVES:
            self.moves /= 2.0
        for level in range(LEVELS):
            waiting = self.levels[level]
            if not waiting[0]:
                waiting[:2] = rows, loss
                return
            first, wrong = float(waiting[0]), float(waiting[1])
            together, errors = first + rows, wrong + loss
            if min(errors, together - errors) < LEAST_ERRORS:
                # Too few to tell; they wait for more at this level, so that a rare error is not noise.
                waiting[:2] = together, errors
                return
            mean = errors / together
            ratio = (wrong / first - loss / rows) ** 2 / (mean * (1 - mean) * (1 / first + 1 / rows))
            waiting[2] += 1.0
            waiting[3] += min(ratio, OUTLIER * max(self._level(level), self.usual))
            if waiting[2] > FORGET_PAIRS:
                waiting[2:] /= 2.0
            waiting[:2] = 0.0
            rows, loss = together, errors

    @property
    def independent(self) -> float:
        """Rows that count as one independent row, at least 1."""
        presumed = self.usual if self.usual > UNORDERED else PRESUMED
        usual_lag = (presumed - 1.0) / (presumed + 1.0)
        total = float(self.moves.sum())
        lag = (total * _lag(self.moves) + PRIOR_MOVES * usual_lag) / (total + PRIOR_MOVES)
        lag = min(max(lag, 0.0), 1.0 - 2.0 / (LONGEST + 1.0))
        seen = [self._level(level) for level in range(LEVELS) if self.levels[level, 2] >= MIN_PAIRS]
        if self.usual <= UNORDERED:
            pairs, total = self.levels[0, 2:]
            tail = LONGER * (1.0 + lag) / (1.0 - lag)
            seen.append(float((total + PRESUMED_PAIRS * tail) / (pairs + PRESUMED_PAIRS)))
        return float(min(max(self.usual, (1.0 + lag) / (1.0 - lag), *seen, 1.0), LONGEST))

    def _level(self, level: int) -> float:
        pairs, total = self.levels[level, 2:]
        return float((total + PRIOR_PAIRS * self.usual) / (pairs + PRIOR_PAIRS))


def _lag(moves: Floats) -> float:
    """Correlation of neighbouring rows' errors, 0 where it can not be told."""
    ends = moves.sum(axis=1) * moves.sum(axis=0)
    below = math.sqrt(float(ends[0]) * float(ends[1]))
    return float(moves[0, 0] * moves[1, 1] - moves[0, 1] * moves[1, 0]) / below if below > 0 else 0.0


def independent_rows(losses: Floats) -> float:
    """Rows per independent row of a recorded sequence, at least 1.

    The variance of block means over that of independent rows, at the block length where it has stopped to
    grow (batch means; Flyvbjerg and Petersen 1989), charged one standard error of itself.

    Args:
        losses: float64[n], in time order.
    """
    spread = float(losses.var())
    best = 1.0
    if len(losses) < 2 or spread <= 0.0:
        return best
    blocks = losses.astype(np.float64)
    length = 1
    while len(blocks) >= 16:
        # Neighbours' differences, not the variance: a slow trend in the reference is not correlation.
        differences = np.diff(blocks)
        ratio = float((differences**2).mean()) / 2.0 * length / spread
        best = max(best, ratio - math.sqrt(3.0 / len(differences)) * ratio)
        blocks = blocks[: len(blocks) // 2 * 2].reshape(-1, 2).mean(axis=1)
        length *= 2
    return min(best, LONGEST)
