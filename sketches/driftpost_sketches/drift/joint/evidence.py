"""Evidence that the features' means have changed since given moments."""

from __future__ import annotations

import math

import numpy as np

from driftpost_sketches.drift.bets import Margins, errors_needed
from driftpost_sketches.drift.joint.carriers import Floats
from driftpost_sketches.drift.joint.plan import SIZES, SMALLEST, JointPlan

DENSE = (0.2, 0.4, 0.8, 1.6)  # overall changes, in standard deviations, of the prior over all directions
DENSE_SHARE = 0.5  # of the evidence: changes spread over many features; the rest: in one of them
FEW = 6.0  # squared correlation times added to it: sums of few independent rows have heavier tails still
CAUTION = 1.25  # factor on the variance of a dense change's null: tails that a normal law does not have


class JointEvidence:
    """Log e-values of windows' sums since some starts.

    Two halves: tilts of every single feature, whose charges were measured on the reference; and a Bayes
    factor over all directions at once (a normal prior on the whitened means), whose null variance has the
    reference's own error and a trifle in it.

    Args:
        plan: of the bundle.
        log_threshold: what an alarm takes; a short reference is charged more for a stricter budget.
        smallest: change of a feature's mean that is a trifle, its standard deviations.
    """

    def __init__(self, plan: JointPlan, log_threshold: float, smallest: float = SMALLEST) -> None:
        self.plan = plan
        smallest = max(smallest, SMALLEST)
        margins = [Margins(smallest, float(n)) for n in plan.independent]
        # Two directions a feature, where a stream has eight.
        errors = np.array([errors_needed(m, log_threshold, max(plan.count // 4, 1)) for m in margins])
        gate = smallest + errors / np.sqrt(plan.independent)
        size = np.array(SIZES)[None, None, :] / plan.tau[:, None, None] * np.array([1.0, -1.0])[None, :, None]
        # float64[K, K * 2 * SIZES]: one product gives every feature's every tilt.
        slope = plan.caution * size
        self._slope = np.zeros((plan.count, slope.size))
        for k in range(plan.count):
            self._slope[k, k * slope[0].size : (k + 1) * slope[0].size] = slope[k].ravel()
        self._cost = (plan.caution * (plan.charge + np.abs(size) * gate[:, None, None])).ravel()
        whole = plan.whitening**2
        independent = whole @ plan.independent / whole.sum(axis=1)
        self._error = 1.0 / independent + smallest**2 / len(whole)

    def standardise(self, sums: Floats, rows: Floats) -> Floats:
        """float64[starts, K]: sums of standardised features."""
        return (sums - rows[:, None] * self.plan.mean) / self.plan.spread

    def logs(self, t: Floats, rows: Floats) -> Floats:
        """float64[starts]: log e-value of each start.

        Args:
            t: float64[starts, K], sums of standardised features.
            rows: float64[starts].
        """
        return np.asarray(np.logaddexp.reduce(self.parts(t, rows), axis=0))

    def parts(self, t: Floats, rows: Floats) -> Floats:
        """float64[2, starts]: the same for a change in one feature and for one spread over many, weighted."""
        lone, wide = self.plan.temper
        tilts = lone * ((t @ self._slope) - rows[:, None] * self._cost)
        top = tilts.max(axis=1)
        one = top + np.log(np.exp(tilts - top[:, None]).mean(axis=1))
        many = wide * self._many(t, rows)
        return np.stack([math.log(1.0 - DENSE_SHARE) + one, math.log(DENSE_SHARE) + many])

    def _many(self, t: Floats, rows: Floats) -> Floats:
        u = t @ self.plan.whitening.T
        slow = self.plan.slow
        null = CAUTION * rows[:, None] * slow + FEW * slow**2 + rows[:, None] ** 2 * self._error
        logs = []
        for size in DENSE:
            wide = null + rows[:, None] ** 2 * size * size / len(self._error)
            logs.append(0.5 * (np.log(null / wide) + u * u * (1.0 / null - 1.0 / wide)).sum(axis=1))
        return np.asarray(np.logaddexp.reduce(np.array(logs), axis=0) - math.log(len(DENSE)))
