"""Where each device of a population stands, and how much devices differ anyway.

A device is placed by the means of its scores against the reference's. What sets two healthy devices apart is
sampling error, released noise, and their own nature: a lens, a mounting, a site. The last is read off the
population itself (a random effect with a robust spread), so that it is no news of any one device.

Rows of a stream with a long memory vary together over time, and part of that is common to all devices: day
and night. What single devices' errors say must be there, but their differences from each other do not show,
is such a common movement. It does not average out over devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import CELLS

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

MAD = 1.4826  # median absolute deviation of a normal distribution, inverted
# Standard error of the squared median absolute deviation of n normal values, in itself, times sqrt(n).
MAD2_ERROR = 2.33


@dataclass(frozen=True)
class Placed:
    """N devices, T streams, K scores.

    Attributes:
        here: bool[N, T], whether the device says anything about the stream.
        used: bool[T, K], scores that there are.
        off: float64[N, T, K], mean of the score less the median device's.
        shift: float64[N, T, K], mean of the score less the reference's.
        own: float64[T, K], variance of the score in one row of the reference.
        sampling: float64[N, T, K], variance of the mean by its rows.
        noise: float64[N, T, K], variance that released noise adds.
        nature: float64[T, K], variance between devices beyond these.
        common: float64[T, K], variance of the mean that all devices have in common.
        reach: float64[N, T, K], how far one independent row can move the mean.
    """

    here: BoolArray
    used: BoolArray
    off: FloatArray
    shift: FloatArray
    own: FloatArray
    sampling: FloatArray
    noise: FloatArray
    nature: FloatArray
    common: FloatArray
    reach: FloatArray

    @property
    def z(self) -> FloatArray:
        """float64[N, T, K]: distance from the median device in standard deviations; 0 without rows."""
        spread = np.sqrt(self.sampling + self.noise + self.nature)
        return np.where(self.used & self.here[..., None], np.abs(self.off) / spread, 0.0)


def project(sums: FloatArray, scores: FloatArray) -> FloatArray:
    """Sums of scores over rows, float64[N, T, K], of float64[N, T, FIELDS] and float64[T, K, CELLS]."""
    return np.asarray(np.einsum("ntc,tkc->ntk", sums[..., :CELLS], scores, optimize=True))


def place(
    totals: FloatArray,
    rows: FloatArray,
    noise: FloatArray,
    *,
    scores: FloatArray,
    shares: FloatArray,
    bins: FloatArray,
    tau: FloatArray,
) -> Placed:
    """Place N devices.

    Args:
        totals: float64[N, T, K], from `project`.
        rows: float64[N, T], rows in them; 0 where a device says nothing.
        noise: float64[N], variance of released noise on each count.
        scores: float64[T, K, CELLS], what devices are compared by; rows of zeros are skipped.
        shares: float64[T, CELLS], the reference's.
        bins: float64[T, CELLS], noisy counts in each cell.
        tau: float64[T], rows that count as one.
    """
    here = rows > 0
    n = np.where(here, rows, 1.0)
    mean = np.einsum("tc,tkc->tk", shares, scores)
    own = np.einsum("tc,tkc->tk", shares, scores**2) - mean**2
    shift = totals / n[..., None] - mean
    # Values that the reference hardly shows still vary as one row in n does.
    alone = np.maximum(own, 1.0 / n[..., None]) / n[..., None]
    sampling = alone * tau[:, None]
    added = noise[:, None, None] * np.einsum("tc,tkc->tk", bins, scores**2) / n[..., None] ** 2
    off = shift - median(shift, here)
    seen = (MAD * median(np.abs(off), here)) ** 2
    usual = median(sampling + added, here)
    error = MAD2_ERROR / np.sqrt(np.maximum(here.sum(axis=0), 1))[:, None]
    # Two errors of the spread, so that chance does not pass for a common movement; and never more than the
    # memory of the stream accounts for, so that independent rows have none.
    missing = np.maximum(usual - seen * (1.0 + 2.0 * error), 0.0)
    reach = np.abs(scores).max(axis=2) * tau[:, None] / n[..., None]
    return Placed(
        here=here,
        used=np.abs(scores).max(axis=2) > 0,
        off=off,
        shift=shift,
        own=own,
        sampling=sampling,
        noise=added,
        nature=np.maximum(seen - usual, 0.0),
        common=np.minimum(missing, median(sampling - alone, here)),
        reach=reach,
    )


def median(values: FloatArray, here: BoolArray) -> FloatArray:
    """Median over devices that say something: of float64[N, T, K], float64[T, K]; 0 without any."""
    ordered = np.sort(np.where(here[..., None], values, np.inf), axis=0)
    count = here.sum(axis=0)
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, len(values) - 1)
    pick = [np.take_along_axis(ordered, at[None, :, None], axis=0)[0] for at in (low, high)]
    middle = (pick[0] + pick[1]) / 2
    return np.where(count[:, None] > 0, middle, 0.0)
