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

And what all devices' means have in common over time (`placing.py`) counts once, however many devices there
are: a night that falls on a thousand cameras is one night.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.drift.placing import FloatArray, median, place, project

CLIP = 2.0  # own standard deviations at which a device pulls hardest
LIARS = 0.1  # share of devices that may send anything; one in any case
HEAVIEST = 2.0  # median weights that one device has at most
NATURE = 2.0  # standard errors of the devices' own differences that are no news


@dataclass(frozen=True)
class RobustMerge:
    """What `MarginalDetector.step_sums` takes.

    Attributes:
        sums: float64[T, FIELDS], worth as many rows as the devices together tell.
        rows: float64[T].
        noise: float64[T], variance of the noise on a count of `sums`.
        slack: float64[T], shift of a score's mean, in its standard deviations, that is no news.
    """

    sums: FloatArray
    rows: FloatArray
    noise: FloatArray
    slack: FloatArray


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
    placed = place(project(sums, scores), rows, noise, scores=scores, shares=shares, bins=bins, tau=tau)
    here, used = placed.here, placed.used
    n = np.where(here, rows, 1.0)
    rates = sums / n[..., None]
    far = placed.z.max(axis=2, initial=0.0)
    # In the units of a standardised score, by the score that noise and nature disturb most.
    scale = np.maximum(placed.own, 1e-6)
    differ = np.where(used, placed.nature / scale, 0.0)[:, :2].max(axis=1, initial=0.0)
    shared = np.where(used, placed.common / scale, 0.0)[:, :2].max(axis=1, initial=0.0)
    hidden = np.where(used, placed.noise / scale, 0.0)[..., :2].max(axis=2, initial=0.0)
    alone = tau / n + differ
    worth = np.where(here, 1.0 / (alone + hidden), 0.0)
    worth = np.minimum(worth, HEAVIEST * median(worth[..., None], here)[:, 0])
    weight = worth * np.minimum(1.0, CLIP / np.maximum(far, CLIP))
    total = np.maximum(weight.sum(axis=0), 1e-12)
    part = weight / total
    size = tau / np.maximum((part**2 * alone).sum(axis=0) + shared, 1e-12)
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
    )
