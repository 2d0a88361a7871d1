"""Effect sizes: how large a change is, in units that a person can judge."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.schema import Schema, Stream, StreamKind
from driftpost_sketches.window import Window

CONSTANT_SPREAD = 1e-3  # of a constant's magnitude
PSI_FLOOR = 1e-4  # share given to an empty bin in the PSI: finite, and small beside any share worth naming


@dataclass(frozen=True)
class Effect:
    """One stream then and now.

    Attributes:
        stream: its name.
        sd_shift: difference of means in the reference's standard deviations (0 for other kinds).
        natural_shift: the same in the stream's unit.
        std_ratio: standard deviation now over then (1 for other kinds).
        psi: population stability index of the bins (Siddiqi 2006); descriptive, never an alarm by itself.
        missing_change: share of missing or non-finite rows, now minus then.
        new_category_share: share of rows in the overflow bin now, minus then (0 unless categorical).
        largest_bin: bin whose share changed most.
        share_change: that change.
        direction: "up", "down" or "none".
    """

    stream: str
    sd_shift: float
    natural_shift: float
    std_ratio: float
    psi: float
    missing_change: float
    new_category_share: float
    largest_bin: int
    share_change: float
    direction: str

    @property
    def size(self) -> float:
        """One number to rank streams by: the largest of shift, log spread and change of a share."""
        spread = abs(math.log(self.std_ratio)) if self.std_ratio > 0 else 16.0
        return max(abs(self.sd_shift), spread, abs(self.share_change), abs(self.missing_change))


def effect_sizes(schema: Schema, baseline: Window, window: Window) -> list[Effect]:
    """Effects of all streams, in schema order; streams without rows on either side show none.

    Raises:
        IncompatibleSketch: a window of another schema.
    """
    return [effect_of(schema, baseline, window, index) for index in range(len(schema))]


def effect_of(schema: Schema, baseline: Window, window: Window, index: int) -> Effect:
    """The effect in stream `index`.

    Raises:
        IncompatibleSketch: a window of another schema.
    """
    then, now = baseline.summary(schema, index), window.summary(schema, index)
    stream = schema.streams[index]
    missing = _absent_share(now.missing + now.nonfinite, now.n) - _absent_share(
        then.missing + then.nonfinite, then.n
    )
    if not then.n or not now.n:
        return Effect(stream.name, 0.0, 0.0, 1.0, 0.0, missing, 0.0, 0, 0.0, "none")
    change: npt.NDArray[np.float64] = now.share - then.share
    largest = int(np.abs(change).argmax())
    sd_shift = natural = 0.0
    ratio = 1.0
    direction = "up" if change[largest] > 0 else "down" if change[largest] < 0 else "none"
    if stream.kind is StreamKind.NUMERIC:
        spread = reference_spread(then.std, stream)
        natural = now.mean - then.mean
        sd_shift = natural / spread
        ratio = now.std / then.std if then.std > 0 and not math.isnan(now.std) else 1.0
        direction = "up" if natural > 0 else "down" if natural < 0 else "none"
    unseen = float(change[-1]) if stream.kind is StreamKind.CATEGORICAL else 0.0
    return Effect(
        stream.name,
        sd_shift,
        natural,
        ratio,
        _psi(then.share, now.share),
        missing,
        unseen,
        largest,
        float(change[largest]),
        direction,
    )


def reference_spread(std: float, stream: Stream) -> float:
    """Natural units in which a shift of `stream` is told, given the reference's standard deviation.

    A constant has none: a thousandth of its magnitude stands in, so that any move reads as large.
    """
    return std if std > 0 else CONSTANT_SPREAD * stream.scale


def _absent_share(absent: int, present: int) -> float:
    return absent / (absent + present) if absent + present else 0.0


def _psi(then: npt.NDArray[np.float64], now: npt.NDArray[np.float64]) -> float:
    p, q = np.maximum(then, PSI_FLOOR), np.maximum(now, PSI_FLOOR)
    return float(((q - p) * np.log(q / p)).sum())
