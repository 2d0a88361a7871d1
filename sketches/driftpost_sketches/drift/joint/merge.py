"""Many devices' joint sums as one, such that no few of them can raise an alarm for all."""

from __future__ import annotations

import math

import numpy as np

from driftpost_sketches.drift.joint.carriers import Floats, Ints
from driftpost_sketches.drift.joint.plan import JointPlan
from driftpost_sketches.drift.robust_merge import CLIP, LIARS


def merge_devices(plan: JointPlan, rows: Ints, sums: Ints) -> tuple[int, Ints]:
    """One bucket's joint sums of several devices.

    Beyond `CLIP` of its own standard deviations from the median of all, a device pulls no harder; and what a
    tenth of the devices, or one, can pull together that way is taken off the total's distance from the
    reference. So a change has to be shared, and honest sums lose a little of theirs.

    Args:
        plan: of the bundle.
        rows: int64[N], rows of each device, positive.
        sums: int64[N, K].

    Returns:
        Rows, and int64[K] sums.
    """
    lengths = rows.astype(np.float64)[:, None]
    away: Floats = sums - lengths * plan.mean
    usual = np.median(away / lengths, axis=0)
    reach = plan.spread * np.sqrt(lengths * plan.tau)
    total = (lengths * usual + np.clip(away - lengths * usual, -CLIP * reach, CLIP * reach)).sum(axis=0)
    liars = max(1, math.ceil(LIARS * len(rows)))
    slack = CLIP * np.sort(reach, axis=0)[-liars:].sum(axis=0)
    shift = np.sign(total) * np.maximum(np.abs(total) - slack, 0.0)
    whole = int(rows.sum())
    return whole, np.rint(whole * plan.mean + shift).astype(np.int64)
