"""How streams hang together in merged windows: is a change clear, and which streams is it about."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from driftpost_aggregator.causes import StreamEvidence
from driftpost_aggregator.registry import KnownBundle
from driftpost_sketches.drift.joint.evidence import JointEvidence
from driftpost_sketches.drift.joint.explain import explain
from driftpost_sketches.drift.joint.watch import CORRELATION, FEATURES

KIND = "joint"
# Log evidence in merged windows from which a joint change counts as still there without some devices: one in
# ten thousand.
CLEAR = math.log(1e4)


def clear_change(known: KnownBundle, joint_rows: int, sums: npt.NDArray[np.int64]) -> float:
    """The largest change of a joint feature's mean, in its standard deviations; 0 if none is clear."""
    shift = _shift(known, joint_rows, sums)
    if shift is None or known.joint is None:
        return 0.0
    rows = np.array([float(joint_rows)])
    evidence = JointEvidence(known.joint, CLEAR).logs(shift[None, :] * rows[:, None], rows)
    return float(np.abs(shift).max()) if evidence[0] >= CLEAR else 0.0


def streams_of(
    known: KnownBundle, joint_rows: int, sums: npt.NDArray[np.int64]
) -> tuple[StreamEvidence, ...]:
    """The streams that a joint change is about, with the change of their correlation."""
    shift = _shift(known, joint_rows, sums)
    if shift is None or known.joint is None:
        return ()
    found = explain(known.joint, shift)
    names = [known.schema.streams[i].name for i in known.schema.tracked_streams]
    paired = not math.isnan(found.before)
    direction = ("up" if found.effect > 0 else "down") if paired else "none"
    return tuple(
        StreamEvidence(
            names[t], share, found.effect, found.effect, CORRELATION if paired else FEATURES, 1.0, direction
        )
        for t, share in found.streams
    )


def _shift(
    known: KnownBundle, joint_rows: int, sums: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64] | None:
    plan = known.joint
    if plan is None or len(sums) != plan.count or not joint_rows:
        return None
    return np.asarray((sums / joint_rows - plan.mean) / plan.spread)
