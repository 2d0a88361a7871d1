"""Accuracy without labels, estimated from a window's sketch of the confidences, with an interval.

Two estimates that fail differently. *Calibrated confidence*: the mean, over the live confidences, of how
often answers of that confidence were right on the reference (confidence-based performance estimation).
*Average thresholded confidence* (Garg et al. 2022): the share of live confidences above the threshold that as
many reference rows exceed as are right. Both take for granted that a confidence means what it meant on the
reference: true while only the mix of inputs changes, untrue when the concept changes or inputs become what
the reference never held. The interval holds what can be counted: the reference's and the window's own size,
and how far the estimate missed stretches of the reference that it had not learnt from. What can not be
counted is said.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.labels.class_mix import ClassMixReading
from driftpost_sketches.labels.record import PerformanceRecord, calibrated
from driftpost_sketches.schema import Role, Schema, StreamKind
from driftpost_sketches.window import Window

Floats = npt.NDArray[np.float64]

Z95 = 1.96
OUTSIDE = 0.02  # share of rows beyond the reference's tails from which they are named


@dataclass(frozen=True)
class Estimate:
    """Accuracy of some answers, estimated without labels.

    Attributes:
        rows: answers it rests on.
        accuracy: by calibrated confidence.
        low, high: 95 % interval of it, if the assumption holds.
        threshold_accuracy: by average thresholded confidence.
        threshold_low, threshold_high: likewise.
        reference: accuracy on the labelled reference.
        outside: largest share of rows that an input stream has beyond the reference's tails or categories.
        doubts: why the assumption may fail, in clauses; empty where nothing speaks against it.
    """

    rows: int
    accuracy: float
    low: float
    high: float
    threshold_accuracy: float
    threshold_low: float
    threshold_high: float
    reference: float
    outside: float
    doubts: tuple[str, ...]

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against the assumption."""
        return not self.doubts

    @property
    def loss(self) -> float:
        """Accuracy lost against the reference, by the lower of both estimates; negative where it grew."""
        return self.reference - min(self.accuracy, self.threshold_accuracy)

    @property
    def text(self) -> str:
        """One sentence for people."""
        said = (
            f"accuracy is estimated at {self.accuracy:.1%} ({self.low:.1%} to {self.high:.1%}; by threshold "
            f"{self.threshold_accuracy:.1%}), {self.reference:.1%} on the reference"
        )
        return said + (f"; not to be relied on: {'; '.join(self.doubts)}" if self.doubts else "")


def estimate_accuracy(
    record: PerformanceRecord,
    schema: Schema,
    baseline: Window,
    window: Window,
    *,
    independent: float = 1.0,
    drifting: Collection[str] = (),
    mix: ClassMixReading | None = None,
    concept: str = "",
) -> Estimate | None:
    """Estimate the accuracy of a window's answers.

    Args:
        record: of the bundle.
        schema: of the windows.
        baseline: sketch of the reference.
        window: live, of any length; merged ones as well.
        independent: rows of the stream of confidences that count as one independent row.
        drifting: names of input streams with an alarm that stands.
        mix: what the class mix says of the window; where it explains the change, inputs have not left the
            reference.
        concept: what labels say against it, in a clause; "" where they do not.

    Returns:
        None where the record has no confidences, or the window no answers.
    """
    if not record.confidence:
        return None
    index = schema.index(record.confidence)
    counts = np.maximum(window.counts[window.layout[index] : window.layout[index + 1]], 0)
    n = float(counts.sum())
    if n < 1:
        return None
    shares = counts / n
    right = calibrated(record.bins)
    accuracy = float(shares @ right)
    effective = max(n / max(independent, 1.0), 1.0)
    rows = record.bins[0] / max(record.independent, 1.0)
    # Of the accuracy of these very answers, and of the ones to come: which come, and which of them are right.
    live = accuracy * (1.0 - accuracy) / effective
    own = float(shares**2 @ (right * (1.0 - right) / (rows + 1.0)))
    spread = Z95 * math.sqrt(live + own + record.calibrated_error**2)
    above = np.zeros(len(shares))
    above[record.threshold_bin + 1 :] = 1.0
    above[record.threshold_bin] = record.threshold_above
    reached = float(shares @ above)
    labelled = max(record.labels.rows / max(record.independent, 1.0), 1.0)
    usual = record.accuracy
    # The threshold moves with the reference's own error rate, and with the share of its rows below it.
    scatter = (
        reached * (1.0 - reached) / effective + 2.0 * max(usual * (1.0 - usual), 0.25 / labelled) / labelled
    )
    width = Z95 * math.sqrt(scatter + record.threshold_error**2)
    outside, doubts = _doubts(schema, baseline, window, drifting, mix)
    return Estimate(
        rows=round(n),
        accuracy=accuracy,
        # Rows that the reference never held may all be wrong, or all be right.
        low=max(accuracy - spread, 0.0) * (1.0 - outside),
        high=min(accuracy + spread, 1.0) * (1.0 - outside) + outside,
        threshold_accuracy=reached,
        threshold_low=max(reached - width, 0.0) * (1.0 - outside),
        threshold_high=min(reached + width, 1.0) * (1.0 - outside) + outside,
        reference=usual,
        outside=outside,
        doubts=(*doubts, concept) if concept else doubts,
    )


def _doubts(
    schema: Schema,
    baseline: Window,
    window: Window,
    drifting: Collection[str],
    mix: ClassMixReading | None,
) -> tuple[float, tuple[str, ...]]:
    """Largest share of rows outside the reference, and what speaks against the assumption."""
    explained = mix is not None and mix.verdict == "label_shift"
    far = {}
    for i in schema.scalar_streams:
        stream = schema.streams[i]
        if stream.role is not Role.INPUT or stream.partial:
            continue
        then, now = baseline.summary(schema, int(i)), window.summary(schema, int(i))
        if not then.n or now.n < 1:
            continue
        ends = [-1] if stream.kind is StreamKind.CATEGORICAL else [0, -1]
        if stream.n_bins < 4 and stream.kind is StreamKind.NUMERIC:
            continue
        # A tail's own scatter is not outside: two standard errors are let pass.
        extra = float(sum(now.share[end] - then.share[end] for end in ends))
        chance = 2.0 * math.sqrt(max(float(sum(then.share[end] for end in ends)), 1e-4) / now.n)
        far[stream.name] = max(extra - chance, 0.0)
    outside = 0.0 if explained else max(far.values(), default=0.0)
    doubts = []
    beyond = sorted((name for name, share in far.items() if share > OUTSIDE), key=lambda name: -far[name])
    if beyond and not explained:
        shown = ", ".join(f"{name} ({far[name]:.0%} of rows)" for name in beyond[:3])
        doubts.append(f"inputs lie outside what the reference held: {shown}")
    others = [name for name in drifting if name not in beyond]
    if others and not explained:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        doubts.append(f"inputs have drifted ({shown}), and a confidence may no longer mean what it did")
    return outside, tuple(doubts)
