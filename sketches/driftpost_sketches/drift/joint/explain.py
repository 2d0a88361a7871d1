"""Which streams a joint change is about, and how their correlation changed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from driftpost_sketches.drift.joint.carriers import UNIT, Floats, Ints
from driftpost_sketches.drift.joint.plan import JointPlan

NAMED = 3  # streams named beside the leading one
_RIDGE = 1e-2  # of a feature's variance
ENOUGH = 0.3  # share of the change that one pair or one stream must explain to be called its cause
LOOSE_PAIR = 0.2  # correlation from which another stream counts as coupled


Shares = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Explanation:
    """What a joint change looks like.

    Attributes:
        streams: (position among tracked streams, share), leading stream first; shares sum to 1.
        effect: change of the correlation, or root mean square shift of the features in their deviations.
        before: the correlation in the reference; NaN unless a pair or a stream explains the change.
        loose: whether one stream changed its relation to all streams it hung together with.
    """

    streams: tuple[tuple[int, float], ...]
    effect: float
    before: float
    loose: bool


def explain(plan: JointPlan, shift: Floats) -> Explanation:
    """Finds the pair, or the single stream, whose change explains most of the features' shift.

    Generalised least squares on the pattern that each candidate would leave in the features; the largest
    explained part wins.

    Args:
        plan: of the bundle.
        shift: float64[K], change of each feature's mean in its standard deviations.
    """
    carriers = plan.features.carriers
    count = carriers.count
    first, second = np.triu_indices(count)
    pairs = first < second
    first, second = first[pairs], second[pairs]
    products = plan.features.weights[:, count : count + len(pairs)][:, pairs].astype(np.float64)
    patterns = (products * UNIT * UNIT / plan.spread[:, None]).T
    # Waves see every change, but only products tell whose it is.
    telling = np.flatnonzero(products.any(axis=1))
    if not len(telling):
        several = _several(plan, shift, np.zeros(len(first)), (first, second))
        return Explanation(several, _size(shift), math.nan, loose=False)
    root = _root(plan, telling)
    white, target = patterns[:, telling] @ root.T, root @ shift[telling]
    total = float(target @ target)
    size, gain = _project(white, target)
    if carriers.axes is None:
        # Coming loose takes a share off each of a stream's correlations.
        square = np.zeros((count, len(white)))
        places = np.arange(len(white))
        square[first, places] = square[second, places] = plan.coupling[first, second]
        loose_size, loose_gain = _project(square @ white, target)
        i = int(np.argmax(loose_gain))
        if loose_gain[i] >= ENOUGH * total and loose_gain[i] >= float(gain.max()):
            return _loose(plan, i, float(loose_size[i]))
    p = int(np.argmax(gain))
    if gain[p] >= ENOUGH * total and carriers.axes is None:
        i, j = int(first[p]), int(second[p])
        before = float(plan.coupling[i, j])
        effect = float(np.clip(before + size[p], -1.0, 1.0)) - before
        both = ((int(carriers.streams[i]), 0.5), (int(carriers.streams[j]), 0.5))
        return Explanation(both, effect, before, loose=False)
    streams = _several(plan, shift, gain, (first, second))
    if carriers.axes is not None:
        # The same for a stream's part in all axes: their variances say what it had to do with the others.
        part = carriers.axes.astype(np.float64) * carriers.stretch[:, None]
        lengths = np.einsum("mc,mc->m", part, part)
        shares = 1.0 / np.maximum(lengths, 1e-12)
        square = (part[first] * part[second] * (shares[first] + shares[second])[:, None]).T
        _, loose_gain = _project(square @ white, target)
        if loose_gain.max() >= ENOUGH * total:
            order = np.argsort(-loose_gain)[: NAMED + 1]
            streams = tuple(
                (int(carriers.streams[i]), float(loose_gain[i] / loose_gain[order].sum())) for i in order
            )
    return Explanation(streams, _size(shift), math.nan, loose=False)


def _size(shift: Floats) -> float:
    return float(np.sqrt((shift**2).mean()))


def _root(plan: JointPlan, telling: Ints) -> Floats:
    """Whitens some of the features by themselves: float64[P, P]."""
    back = np.linalg.pinv(plan.whitening)[telling]
    spread = back @ back.T + _RIDGE * np.eye(len(telling))
    return np.asarray(np.linalg.inv(np.linalg.cholesky(spread)))


def _project(white: Floats, target: Floats) -> tuple[Floats, Floats]:
    """Size of each pattern in the target and the squared length that it explains."""
    lengths = np.einsum("pq,pq->p", white, white)
    inner = white @ target
    known = lengths > 1e-9  # a pattern that leaves no trace
    size = np.where(known, inner / np.where(known, lengths, 1.0), 0.0)
    return size, size * inner * known


def _loose(plan: JointPlan, i: int, size: float) -> Explanation:
    coupling = np.abs(plan.coupling[i])
    coupling = np.where(np.arange(len(coupling)) == i, 0.0, coupling)
    others = [int(j) for j in np.argsort(-coupling)[:NAMED] if coupling[j] >= LOOSE_PAIR]
    others = others or [int(np.argmax(coupling))]
    before = float(coupling[others].max())
    names = plan.features.carriers.streams
    rest = 0.5 / len(others)
    streams = ((int(names[i]), 0.5), *((int(names[j]), rest) for j in others))
    # From all of it to its opposite: nothing a correlation can do goes further.
    most = 1.0 / max(before, 0.05) - 1.0
    return Explanation(streams, before * float(np.clip(size, -2.0, most)), before, loose=True)


def _several(plan: JointPlan, shift: Floats, gain: Floats, pairs: tuple[Ints, Ints]) -> Shares:
    """Streams by what the pairs they are in explain, or by their part in the axes that moved."""
    carriers = plan.features.carriers
    strength = np.zeros(carriers.count)
    np.add.at(strength, pairs[0], gain)
    np.add.at(strength, pairs[1], gain)
    weights = plan.features.weights[:, : carriers.count].astype(np.float64)
    strength += np.abs(shift) @ np.abs(weights) / max(float(np.abs(weights).max(initial=0.0)), 1.0)
    if carriers.axes is not None:
        loadings = carriers.axes.astype(np.float64) ** 2
        strength = strength @ (loadings / loadings.sum(axis=1, keepdims=True))
    order = np.argsort(-strength)[: NAMED + 1]
    total = float(strength[order].sum())
    if total <= 0.0:
        return tuple((int(carriers.streams[i]), 1.0 / len(order)) for i in order)
    return tuple((int(carriers.streams[i]), float(strength[i]) / total) for i in order)
