"""A window with noise on every count: what may leave a device under differential privacy.

What is hidden is the content of up to `rows_per_subject` rows: two histories are neighbours when one of them
has these rows erased, that is, counted in no bin. The number of rows itself is no secret (the ledger tells
it), and a row stands in exactly one bin of every released stream, or among its missing or infinite values.
So erasing k rows moves the released counts by at most k * sqrt(streams) in Euclidean length, and Gaussian
noise of variance v on each count costs k**2 * streams / (2 * v) of concentrated budget, all streams together.

Everything else stays at home or follows from the noised counts, which costs nothing more: extremes,
transition counts, the joint sketch, streams that no detector watches and the codes of whole tensors (where a
single row fills hundreds of bins) are withheld; moments are made up from the noised histogram with the
reference's typical value of each bin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from driftpost_sketches.errors import SketchError
from driftpost_sketches.privacy.discrete_gaussian import RandomNumbers, discrete_gaussian
from driftpost_sketches.schema import Schema, StreamKind
from driftpost_sketches.window import CLIP, FIXED_POINT, NOISE_STEPS, SUM2_LIMIT, Window

MAX_VARIANCE = 1 << 32  # of one count: noise of 65,000 rows, beyond which nothing is left to release
_FAR = int(CLIP * FIXED_POINT)  # where moments are clipped

Ints = npt.NDArray[np.int64]


class PrivacyError(SketchError):
    """A release that can not keep its promise; the message says which setting to change."""


@dataclass(frozen=True)
class Plan:
    """How windows of one schema are released.

    Attributes:
        rho: concentrated cost of one release.
        streams: int64, indices of the streams that are released.
        rows_per_subject: rows that one subject may account for in a release.
        variance: of the noise on each count, in steps of 1 / `window.NOISE_STEPS`.
    """

    rho: float
    streams: Ints
    rows_per_subject: int
    variance: int


def plan_release(schema: Schema, rho: float, rows_per_subject: int = 1) -> Plan:
    """The noise that keeps a release within a cost.

    Args:
        schema: of the windows.
        rho: concentrated budget of one release.
        rows_per_subject: rows that one subject may account for in a release.

    Raises:
        PrivacyError: no such noise, or so much that nothing would be left.
    """
    if not rho > 0.0 or rows_per_subject < 1:
        raise PrivacyError("a release needs a positive budget and at least one row per subject")
    streams = schema.tracked_streams
    wanted = rows_per_subject**2 * max(len(streams), 1) / (2.0 * rho)
    if not wanted <= MAX_VARIANCE:
        raise PrivacyError(
            f"noise of a standard deviation of {math.sqrt(wanted):.3g} rows would leave nothing: allow a "
            "larger epsilon, release less often, or watch fewer streams"
        )
    return Plan(rho, streams.copy(), rows_per_subject, math.ceil(wanted * NOISE_STEPS))


def release(window: Window, schema: Schema, baseline: Window, plan: Plan, random: RandomNumbers) -> Window:
    """The window as it may leave the device; a new draw each time, so release a window once.

    Args:
        window: exact, of `schema`.
        schema: its streams.
        baseline: sketch of the reference, for the typical value of each bin.
        plan: from `plan_release`.
        random: `secrets.SystemRandom()`; anything predictable gives the counts away.

    Raises:
        IncompatibleSketch: a window or baseline of another schema.
        PrivacyError: the window has been noised before: its first release is the one to repeat.
    """
    window.check(schema)
    if window.noise:
        raise PrivacyError("this window has been released before; send the same bytes again instead")
    typical = bin_values(schema, baseline)
    blank = Window.empty(schema)
    counts, missing, nonfinite = blank.counts.copy(), blank.missing.copy(), blank.nonfinite.copy()
    sum1, sum2 = blank.sum1.copy(), blank.sum2.copy()
    for i in plan.streams.tolist():
        begin, end = int(schema.offsets[i]), int(schema.offsets[i + 1])
        for at in range(begin, end):
            counts[at] = int(window.counts[at]) + discrete_gaussian(plan.variance, random)
        missing[i] = int(window.missing[i]) + discrete_gaussian(plan.variance, random)
        nonfinite[i] = int(window.nonfinite[i]) + discrete_gaussian(plan.variance, random)
        if schema.streams[i].kind is StreamKind.NUMERIC:
            # Python's integers: sums of squares of a large backlog would overflow before they saturate.
            pairs = list(zip(counts[begin:end].tolist(), typical[begin:end].tolist(), strict=True))
            sum1[i] = sum(count * value for count, value in pairs)
            squares = sum(count * value * value for count, value in pairs)
            sum2[i] = max(-SUM2_LIMIT, min(squares, SUM2_LIMIT))
    return replace(
        blank,
        rows=window.rows,
        parts=window.parts,
        counts=counts,
        missing=missing,
        nonfinite=nonfinite,
        sum1=sum1,
        sum2=sum2,
        noise=plan.variance,
    )


def bin_values(schema: Schema, baseline: Window) -> Ints:
    """What a value in each bin typically is, in steps of 1/4096 reference spreads: int64[all bins].

    The centroid of inner bins; for the two outermost the values with which mean and variance of the reference
    come out right. 0 but for numeric streams.

    Raises:
        IncompatibleSketch: a baseline of another schema.
    """
    baseline.check(schema)
    values = np.zeros(int(schema.offsets[-1]), dtype=np.int64)
    for i, stream in enumerate(schema.streams):
        if stream.kind is not StreamKind.NUMERIC or not stream.edges:
            continue
        edges = (np.array(stream.edges) - stream.center) / stream.scale * FIXED_POINT
        counts = baseline.counts[schema.offsets[i] : schema.offsets[i + 1]].astype(np.float64)
        middle = _centroids(counts, edges)
        low, high = _tails(counts, middle, edges, float(baseline.sum1[i]), float(baseline.sum2[i]))
        whole = np.concatenate([[low], middle, [high]])
        values[schema.offsets[i] : schema.offsets[i + 1]] = np.rint(np.clip(whole, -_FAR, _FAR))
    return values


def _centroids(counts: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean values of the inner bins, if the density is linear across each."""
    middle, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    if len(middle) < 2:  # no slope
        return middle
    density = counts[1:-1] / width
    slope = np.gradient(density, middle)
    off = width**2 / 12 * slope / np.maximum(density, density.max(initial=0.0) * 1e-3 + 1e-12)
    return np.asarray(middle + np.clip(off, -width / 4, width / 4))


def _tails(
    counts: npt.NDArray[np.float64],
    middle: npt.NDArray[np.float64],
    edges: npt.NDArray[np.float64],
    sum1: float,
    sum2: float,
) -> tuple[float, float]:
    """Values of the outermost bins: n0 * x + n1 * y and n0 * x**2 + n1 * y**2 as the reference has them."""
    n0, n1 = counts[0], counts[-1]
    first = sum1 - float(counts[1:-1] @ middle)
    second = sum2 - float(counts[1:-1] @ middle**2)
    # Without tails to fit, or where the middles are off by too much for any: just beyond the edges.
    width = float(edges[-1] - edges[0]) / max(len(edges) - 1, 1) if len(edges) > 1 else float(FIXED_POINT)
    low, high = float(edges[0]) - width / 2, float(edges[-1]) + width / 2
    if n0 > 0 and n1 > 0:
        mean = first / (n0 + n1)
        spread = second / (n0 + n1) - mean * mean
        if spread > 0:
            x = mean - math.sqrt(spread * n1 / n0)
            y = mean + math.sqrt(spread * n0 / n1)
            if x < edges[0] and y >= edges[-1]:
                low, high = x, y
    return low, high
