"""A bundle's joint plan: its features, and what the reference says of them."""

from __future__ import annotations

from dataclasses import dataclass

from driftpost_sketches.drift.joint import plan_bytes
from driftpost_sketches.drift.joint.carriers import Floats
from driftpost_sketches.drift.joint.features import Features

SIZES = (0.12, 0.25, 0.5, 1.0)  # changes of a feature's mean bet on, its standard deviations
SMALLEST = 0.05  # change of a feature's mean that is a trifle, its standard deviations


@dataclass(frozen=True, eq=False)
class JointPlan:
    """Joint features of a bundle and their reference behaviour.

    Attributes:
        features: what a window sums up.
        mean: float64[K], of the features in the reference.
        spread: float64[K], standard deviations.
        tau: float64[K], rows that count as one independent row.
        independent: float64[K], independent rows that the mean rests on.
        charge: float64[K, 2, SIZES], log charge a row of each tilt, upward and downward.
        caution: float64[K, 2, SIZES] in [0, 1], what a tilt's log evidence is multiplied by.
        whitening: float64[Q, K], from standardised features to uncorrelated ones of unit variance.
        slow: float64[Q], correlation times of these, rows.
        coupling: float64[M, M], correlations of the carriers.
        temper: float64[2] in [0, 1], what the log evidence of tilts, and of the Bayes factor, counts for.
    """

    features: Features
    mean: Floats
    spread: Floats
    tau: Floats
    independent: Floats
    charge: Floats
    caution: Floats
    whitening: Floats
    slow: Floats
    coupling: Floats
    temper: Floats

    @property
    def measured(self) -> tuple[Floats, ...]:
        """Everything but the features, in the order of the attributes."""
        return (self.mean, self.spread, self.tau, self.independent, self.charge, self.caution,
                self.whitening, self.slow, self.coupling, self.temper)  # fmt: skip

    @property
    def count(self) -> int:
        """K, features."""
        return len(self.mean)

    def to_bytes(self) -> bytes:
        """The plan in its versioned form (docs/formats.md)."""
        return plan_bytes.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes, tracked: int) -> JointPlan:
        """Reads `to_bytes`'s form.

        Args:
            data: the bytes.
            tracked: tracked streams of the schema that the plan is for.

        Raises:
            MalformedSketch: damaged, inconsistent, for other streams, or not a plan.
            UnsupportedVersion: written by a newer format.
        """
        return plan_bytes.decode(data, tracked)
