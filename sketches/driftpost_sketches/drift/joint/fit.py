"""Fitting a joint plan to a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from driftpost_sketches.drift.joint import plan_bytes
from driftpost_sketches.drift.joint.carriers import Floats, Ints, fit_carriers
from driftpost_sketches.drift.joint.choice import choose_features
from driftpost_sketches.drift.joint.evidence import JointEvidence
from driftpost_sketches.drift.joint.features import BLOCK, Features
from driftpost_sketches.drift.joint.plan import SIZES, JointPlan
from driftpost_sketches.drift.joint.starts import Starts
from driftpost_sketches.drift.memory import memory
from driftpost_sketches.drift.tilts import admissible

MIN_ROWS = 1_000  # reference rows below which there is no joint test: nothing is known of the features
MIN_INDEPENDENT = 200.0  # the same, rows that count as independent
LONGEST_BLOCK = 500  # rows of the blocks that the two halves of the reference are dealt out in
FOLDS = 16  # blocks at least
LEAST_VARIANCE = 0.1  # of a direction of the standardised features, below which it repeats others
REHEARSAL_ROWS = 50  # rows of a window when the test is rehearsed on the reference
STRETCHES = 32  # parts of the reference whose highest evidence is looked at
PEAKS = 1.5  # nats by which peaks may exceed their median on average: honest evidence does so by one
WHITENING = 6  # place among what a plan has measured
LEAST_TEMPER = 0.5  # below it spells are too wild for any factor to answer for what comes next

Number = TypeVar("Number", bound=np.generic)


def fit_plan(
    cells: Ints, streams: Ints, shares: Sequence[Floats], distinct: int
) -> tuple[JointPlan | None, str]:
    """Learns the joint behaviour of a reference.

    What is chosen (axes, predictions, directions) is chosen on one half of the reference, blocks of it taken
    in turn; what is said of the chosen features is measured on the other half, so that nothing is judged by
    the rows it was fitted to. Correlation times need rows in order and use both.

    Args:
        cells: int64[T, rows], drift cells of all tracked streams, rows in time order.
        streams: int64[C], positions of the streams to use.
        shares: float64[CELLS] of each of these, its cell probabilities.
        distinct: distinct rows of the reference.

    Returns:
        The plan, or None and the reason in words.
    """
    rows = cells.shape[1]
    if len(streams) < 2:  # a joint change takes two
        return None, ""
    if rows < MIN_ROWS:
        return None, (
            f"no joint test of several streams: the reference has {rows:,} rows, {MIN_ROWS:,} are needed"
        )
    half = _first_half(rows)
    carriers = fit_carriers(shares, streams, cells[:, half])
    if carriers is None:
        return None, ""
    features = choose_features(carriers, _blocks(carriers.values, cells[:, half]))
    values = _blocks(features.rows, cells).astype(np.float64)
    other = values[:, ~half]
    mean, spread = other.mean(axis=1), other.std(axis=1)
    kept = spread > 1e-9 * np.maximum(np.abs(mean), 1.0)
    features = Features(features.carriers, features.directions, features.weights[kept])
    values, mean, spread = values[kept], mean[kept], spread[kept]
    if not len(mean):
        return None, ""
    standard = (values - mean[:, None]) / spread[:, None]
    tau = _memory(standard)
    independent = min(rows - int(half.sum()), distinct) / tau
    if float(independent.max()) < MIN_INDEPENDENT:
        return None, (
            "no joint test of several streams: for their correlation the reference counts as "
            f"{independent.max():,.0f} independent rows; {MIN_INDEPENDENT:,.0f} are needed"
        )
    charge, caution = _tilts(standard, tau)
    # As it comes back from bytes, so that what is measured next is measured of the very same.
    whitening = plan_bytes.rounded(WHITENING, _whitening(standard[:, ~half]))
    coupling = np.corrcoef(_blocks(carriers.values, cells).astype(np.float64))
    plan = JointPlan(
        features, mean, spread, tau, independent, charge, caution, whitening, _memory(whitening @ standard),
        np.nan_to_num(np.atleast_2d(coupling)), np.ones(2),
    )  # fmt: skip
    plan = replace(plan, temper=_rehearse(plan, values))
    if not plan.temper.any():
        return None, (
            "no joint test of several streams: how they hang together comes and goes in the reference "
            "itself, in spells that nothing predicts"
        )
    rounded = [plan_bytes.rounded(k, array) for k, array in enumerate(plan.measured)]
    return JointPlan(features, *rounded), ""


def _first_half(rows: int) -> npt.NDArray[np.bool_]:
    length = max(min(LONGEST_BLOCK, rows // FOLDS), 1)
    return np.asarray(np.arange(rows) // length % 2 == 0)


def _blocks(function: Callable[[Ints], npt.NDArray[Number]], cells: Ints) -> npt.NDArray[Number]:
    parts = [function(cells[:, at : at + BLOCK]) for at in range(0, cells.shape[1], BLOCK)]
    return np.concatenate(parts, axis=1)


def _memory(series: Floats) -> Floats:
    """Correlation time of each row, its sampling error added; at least 1."""
    return np.array([max(memory(row), 1.0) for row in series])


def _tilts(standard: Floats, tau: Floats) -> tuple[Floats, Floats]:
    """Charges and cautions of all tilts: cumulants of rows, stretched by memory, held against blocks."""
    charge = np.zeros((len(tau), 2, len(SIZES)))
    caution = np.ones_like(charge)
    for k, row in enumerate(standard):
        centred = row - row.mean()
        for s, sign in enumerate((1.0, -1.0)):
            for g, size in enumerate(SIZES):
                step = sign * size / tau[k]
                logs = step * centred
                top = float(logs.max())
                cumulant = top + math.log(float(np.exp(logs - top).mean()))
                charge[k, s, g] = max(cumulant, step * step / 2.0) * tau[k]
                caution[k, s, g] = admissible(centred, step, float(charge[k, s, g]), 1.0, float(tau[k]))
    return charge, caution


def _whitening(standard: Floats) -> Floats:
    """Leading uncorrelated directions of the features, those that are not mere copies of each other."""
    values, vectors = np.linalg.eigh(np.cov(standard).reshape(len(standard), -1))
    kept = values > 0.1
    return np.asarray((vectors[:, kept] / np.sqrt(values[kept])).T)


def _rehearse(plan: JointPlan, values: Floats) -> Floats:
    """What the evidence has to be tempered by: the test is run over the reference itself.

    Peaks of honest evidence fall off by a factor of e a nat. Where spells that no correlation time knows of
    lift them higher, their mean excess says how much slower they fall off, and how much to discount.
    """
    windows = values.shape[1] // REHEARSAL_ROWS
    sums = values[:, : windows * REHEARSAL_ROWS].reshape(len(values), windows, REHEARSAL_ROWS).sum(axis=2).T
    # The reference's mean is what the gate is for; here only the spread around it is judged.
    shift = values.mean(axis=1) - plan.mean
    whole = np.rint(sums - REHEARSAL_ROWS * shift).astype(np.int64)
    evidence, starts = JointEvidence(plan, 0.0), Starts(plan.count)
    logs = np.zeros((windows, 2))
    for w in range(windows):
        starts.push(REHEARSAL_ROWS, whole[w])
        _, rows, since = starts.since()
        parts = evidence.parts(evidence.standardise(since, rows), rows)
        logs[w] = np.logaddexp.reduce(parts, axis=1)
    length = max(windows // STRETCHES, 1)
    peaks = logs[: windows // length * length].reshape(-1, length, 2).max(axis=1)
    middle = np.median(peaks, axis=0)
    above = np.where(peaks >= middle, peaks - middle, 0.0).sum(axis=0) / (peaks >= middle).sum(axis=0)
    temper = np.minimum(1.0, PEAKS / np.maximum(above, 1e-9))
    return np.where(temper < LEAST_TEMPER, 0.0, temper)
