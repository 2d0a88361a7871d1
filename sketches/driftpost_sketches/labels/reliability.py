"""Reliability counts: how often answers of each confidence are right, as a sketch that merges exactly.

Everything is an integer, confidences in steps of 1/4096, so that merging is associative to the last bit. The
bins are the same everywhere: they are finer towards 1, where an edge model's confidences pile up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.errors import MalformedSketch

EDGES = (
    0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9,
    0.93, 0.96, 0.98, 0.99, 0.995,
)  # fmt: skip
BINS = len(EDGES) + 1
STEPS = 4096  # of one: finer than an 8-bit softmax, and squares of it leave room for 2**38 rows
MAX_ROWS = 1 << 38

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ece:
    """Expected calibration error.

    Attributes:
        value: less what a perfectly calibrated model would show by chance, at least 0.
        raw: the mean absolute gap between confidence and share of right answers, weighted by rows.
        chance: what such a model would show by chance with these counts.
        low: lower end of the 95 % interval.
        high: upper end; reached from the raw value, which errs upwards.
    """

    value: float
    raw: float
    chance: float
    low: float
    high: float


@dataclass(frozen=True)
class Brier:
    """Brier score of "this answer is right" and what it is made of (Murphy 1973; Stephenson et al. 2008).

    `score = reliability - resolution + uncertainty + within`, exactly.

    Attributes:
        score: mean square of confidence less right or wrong.
        reliability: part that calibration would mend.
        resolution: how far confidences tell right from wrong.
        uncertainty: what no confidence can mend: accuracy times one less accuracy.
        within: spread of confidences within bins, less twice its covariance with being right.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


@dataclass(frozen=True, eq=False)
class Reliability:
    """Counts by bin of confidence.

    Attributes:
        rows: int64[BINS], answers.
        correct: int64[BINS], right ones.
        confidence: int64[BINS], sum of confidences in steps.
        squares: int64[BINS], sum of squared confidences in squared steps.
        right_confidence: int64[BINS], sum of the confidences of right answers in steps.
    """

    rows: Ints
    correct: Ints
    confidence: Ints
    squares: Ints
    right_confidence: Ints

    @classmethod
    def empty(cls) -> Reliability:
        """Of no rows: neutral under merge."""
        return cls(*(np.zeros(BINS, dtype=np.int64) for _ in ARRAYS))

    @classmethod
    def of(cls, confidence: Floats, correct: npt.NDArray[np.bool_]) -> Reliability:
        """Count answers; those without a finite confidence are left out.

        Args:
            confidence: float64[n], taken into 0 to 1.
            correct: bool[n].
        """
        known = np.isfinite(confidence)
        clipped = np.clip(confidence[known], 0.0, 1.0)
        right = correct[known].astype(np.int64)
        # By steps, not by the number itself: what is merged and what is counted must agree.
        steps = np.rint(clipped * STEPS).astype(np.int64)
        place = np.searchsorted(np.array(EDGES) * STEPS, steps, side="right")

        def total(weights: Ints) -> Ints:
            out: Ints = np.zeros(BINS, dtype=np.int64)
            np.add.at(out, place, weights)
            return out

        return cls(
            total(np.ones_like(steps)), total(right), total(steps), total(steps * steps), total(steps * right)
        )

    def merge(self, other: Reliability) -> Reliability:
        """The counts of both; neither is changed.

        Raises:
            MalformedSketch: more rows than can be counted exactly.
        """
        if int(self.rows.sum()) + int(other.rows.sum()) > MAX_ROWS:
            raise MalformedSketch(f"reliability counts hold at most {MAX_ROWS} rows")
        return Reliability(*(getattr(self, name) + getattr(other, name) for name in ARRAYS))

    def check(self) -> None:
        """Refuse counts that no answers can have made.

        Raises:
            MalformedSketch: they contradict each other.
        """
        parts = [getattr(self, name) for name in ARRAYS]
        if any(len(part) != BINS or (part < 0).any() for part in parts):
            raise MalformedSketch("reliability counts are negative, or not of every bin")
        # One by one first: sums and products of larger ones would wrap around and pass every check below.
        if int(self.rows.max()) > MAX_ROWS or int(self.rows.sum()) > MAX_ROWS:
            raise MalformedSketch("reliability counts are too large")
        low = np.ceil(np.array([0.0, *EDGES]) * STEPS).astype(np.int64)
        high = np.ceil(np.array([*EDGES, 1.0]) * STEPS).astype(np.int64)
        fits = (
            (self.correct <= self.rows)
            & (self.confidence >= self.rows * low)
            & (self.confidence <= self.rows * high)
            & (self.right_confidence >= self.correct * low)
            & (self.right_confidence <= np.minimum(self.confidence, self.correct * high))
            & (self.squares <= self.rows * high**2)
            & (self.squares >= self.rows * low**2)
        )
        if not fits.all():
            raise MalformedSketch("reliability counts contradict each other")

    def ece(self, independent: float = 1.0) -> Ece | None:
        """Debiased expected calibration error; None without rows.

        A perfectly calibrated model shows gaps, too: with n answers in a bin the mean absolute one is
        sqrt(2 p (1 - p) / (pi n)). That expectation is taken off, bin by bin, as far as the gap may be made
        of it (Kumar, Liang and Ma 2019 do so for the squared error). The interval adds the bins' errors.

        Args:
            independent: rows that count as one independent row.
        """
        n = self.rows.sum()
        used = self.rows > 0
        if not n:
            return None
        rows, share = self.rows[used], self.rows[used] / n
        mean = self.confidence[used] / rows / STEPS
        accuracy = self.correct[used] / rows
        gap = np.abs(accuracy - mean)
        effective = np.maximum(rows / max(independent, 1.0), 1.0)
        # What calibration claims, not what was seen: three right answers of three have no spread.
        error = np.sqrt(np.maximum(mean * (1.0 - mean), 0.25 / effective) / effective)
        raw, chance = float(share @ gap), float(share @ error) * math.sqrt(2.0 / math.pi)
        debiased = max(float(share @ _debiased(gap, error)), 0.0)
        spread = 1.96 * math.sqrt(float(share**2 @ error**2))
        # The raw value errs upwards, the debiased one may err downwards: between them they hold the true one.
        return Ece(debiased, raw, chance, max(debiased - spread, 0.0), min(raw + spread, 1.0))

    def brier(self) -> Brier | None:
        """Brier score with its parts; None without rows."""
        n = int(self.rows.sum())
        if not n:
            return None
        used = self.rows > 0
        rows = self.rows[used].astype(np.float64)
        mean = self.confidence[used] / rows / STEPS
        right = self.correct[used] / rows
        overall = float(self.correct.sum()) / n
        reliability = float(rows @ (mean - right) ** 2) / n
        resolution = float(rows @ (right - overall) ** 2) / n
        uncertainty = overall * (1.0 - overall)
        variance = self.squares[used] / rows / STEPS**2 - mean**2
        covariance = self.right_confidence[used] / rows / STEPS - mean * right
        within = float(rows @ (variance - 2.0 * covariance)) / n
        score = float(self.squares.sum()) / STEPS**2 - 2.0 * float(self.right_confidence.sum()) / STEPS
        score = (score + float(self.correct.sum())) / n
        return Brier(score, reliability, resolution, uncertainty, within)

    def table(self) -> list[tuple[float, float, int, float, float]]:
        """Bins that hold rows: (low, high, rows, mean confidence, share of right answers)."""
        borders = (0.0, *EDGES, 1.0)
        return [
            (
                borders[b],
                borders[b + 1],
                int(self.rows[b]),
                float(self.confidence[b]) / int(self.rows[b]) / STEPS,
                float(self.correct[b]) / int(self.rows[b]),
            )
            for b in np.flatnonzero(self.rows)
        ]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reliability):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ARRAYS)

    __hash__ = None  # type: ignore[assignment]  # it holds arrays


ARRAYS = ("rows", "correct", "confidence", "squares", "right_confidence")


def _debiased(gap: Floats, error: Floats) -> Floats:
    """Absolute gaps less what their standard errors add to them on average; below 0 where they are smaller.

    For a gap that is all chance, |z| of a normal z, the mean of exp(-z^2) is 1 / sqrt(3), so that what is
    taken off equals E|z| = sqrt(2 / pi) on average; a gap of many errors is left as it is.
    """
    z = gap / error
    return np.asarray(gap - math.sqrt(6.0 / math.pi) * error * np.exp(-z * z))
