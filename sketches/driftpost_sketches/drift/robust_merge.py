"""Many devices' windows as one, such that no device speaks for the others and a few may lie.

Every device is placed by its scores: location, scale, skew and tails of a numeric stream, shares of a
categorical one, absent and unseen values. Around the median of the devices, a device counts with the weight
of its information (its rows, its noise, and how much devices differ anyway), at most twice the median
weight, and less the further it stands apart (Huber 1964): beyond `CLIP` of its own standard deviations it
pulls no harder.

Two things remain that time does not average out. A tenth of the devices, or one, may lie in concert: all
that they can pull together is told as slack, for the detector to charge. And devices differ by nature:
their spread beyond sampling error, over the root of their number, is the same for ever, and twice that is
slack too. So a minority that joins, leaves or drifts is not the fleet's drift; its own cohort shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import CELLS

FloatArray = npt.NDArray[np.float64]

CLIP = 2.0  # own standard deviations at which a device pulls hardest
LIARS = 0.1  # share of devices that may send anything; one in any case
HEAVIEST = 2.0  # median weights that one device has at most
NATURE = 2.0  # standard errors of the devices' own differences that are no news
_MAD = 1.4826  # median absolute deviation of a normal distribution, inverted


@dataclass(frozen=True)
class RobustMerge:
    """What `MarginalDetector.step_sums` takes.

    Attributes:
        sums: float64[T, FIELDS], worth as many rows as the devices together tell.
        rows: float64[T].
        noise: float64[T], variance of the noise on a count of `sums`.
        slack: float64[T], shift of a score's mean, in its standard deviations, that is no news.
        apart: float64[N], how far each device stands from the others at most, in its standard deviations.
    """

    sums: FloatArray
    rows: FloatArray
    noise: FloatArray
    slack: FloatArray
    apart: FloatArray


def robust_merge(
    sums: FloatArray,
    rows: FloatArray,
    noise: FloatArray,
    *,
    scores: FloatArray,
    shares: FloatArray,
    bins: FloatArray,
    tau: FloatArray,
) -> RobustMerge:
    """Merge the windows of N devices.

    Args:
        sums: float64[N, T, FIELDS], of each device and stream.
        rows: float64[N, T], rows in them; 0 where a device says nothing.
        noise: float64[N], variance of released noise on each count.
        scores: float64[T, K, CELLS], what devices are compared by; rows of zeros are skipped.
        shares: float64[T, CELLS], the reference's.
        bins: float64[T, CELLS], noisy counts in each cell.
        tau: float64[T], rows that count as one.
    """
    here = rows > 0
    n = np.where(here, rows, 1.0)
    rates = sums / n[..., None]
    mean = np.einsum("tc,tkc->tk", shares, scores)
    own = np.einsum("tc,tkc->tk", shares, scores**2) - mean**2
    used = np.abs(scores).max(axis=2) > 0
    x = np.einsum("ntc,tkc->ntk", rates[..., :CELLS], scores) - mean
    # Values that the reference hardly shows still vary as one row in n does.
    sampling = np.maximum(own, 1.0 / n[..., None]) * (tau / n)[..., None]
    added = noise[:, None, None] * np.einsum("tc,tkc->tk", bins, scores**2) / n[..., None] ** 2
    off = np.abs(x - _median(x, here))
    nature = np.maximum((_MAD * _median(off, here)) ** 2 - _median(sampling + added, here), 0.0)
    z = np.where(used & here[..., None], off / np.sqrt(sampling + added + nature), 0.0)
    far = z.max(axis=2, initial=0.0)
    # In the units of a standardised score, by the score that noise and nature disturb most.
    scale = np.maximum(own, 1e-6)
    differ = np.where(used, nature / scale, 0.0)[:, :2].max(axis=1, initial=0.0)
    hidden = np.where(used, added / scale, 0.0)[..., :2].max(axis=2, initial=0.0)
    alone = tau / n + differ
    worth = np.where(here, 1.0 / (alone + hidden), 0.0)
    worth = np.minimum(worth, HEAVIEST * _median(worth[..., None], here)[:, 0])
    weight = worth * np.minimum(1.0, CLIP / np.maximum(far, CLIP))
    total = np.maximum(weight.sum(axis=0), 1e-12)
    part = weight / total
    size = tau / np.maximum((part**2 * alone).sum(axis=0), 1e-12)
    merged = np.einsum("nt,ntf->tf", part, rates) * size[:, None]
    pull = np.sort(worth * np.sqrt(alone + hidden), axis=0)[::-1] * CLIP / total
    liars = np.maximum((LIARS * here.sum(axis=0)).astype(int), 1)
    told = np.take_along_axis(np.cumsum(pull, axis=0), liars[None] - 1, axis=0)[0]
    slack = told + NATURE * np.sqrt(differ * (part**2).sum(axis=0))
    carried = (part**2 * (noise[:, None] / n**2)).sum(axis=0) * size**2
    heard: npt.NDArray[np.bool_] = np.asarray(here.any(axis=0))
    return RobustMerge(
        np.where(heard[:, None], merged, 0.0),
        np.where(heard, size, 0.0),
        np.where(heard, carried, 0.0),
        slack,
        far.max(axis=1, initial=0.0),
    )


def _median(values: FloatArray, here: npt.NDArray[np.bool_]) -> FloatArray:
    """Median over devices that say something: of float64[N, T, K], float64[T, K]; 0 without any."""
    ordered = np.sort(np.where(here[..., None], values, np.inf), axis=0)
    count = here.sum(axis=0)
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, len(values) - 1)
    pick = [np.take_along_axis(ordered, at[None, :, None], axis=0)[0] for at in (low, high)]
    middle = (pick[0] + pick[1]) / 2
    return np.where(count[:, None] > 0, middle, 0.0)
