"""What is usual at each phase of a season, and how sure the reference is of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.fitting import robust

FloatArray = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

MAX_SEGMENTS = 20  # parts of the reference that are left out in turn
OUTLIER = 4.0  # robust spreads beyond which a value counts as if it were there
UNEVEN = 1.25  # spread of the widest phase over the narrowest from which differences are divided by it
LEAST_EXPLAINED = 0.005  # share of the variance; a course below it moves the mean by a tenth of a deviation
LEAST_SPREAD = 0.1  # of the whole; a phase that never moves must not make a trifle infinite
RIDGE = 1e-9  # of all rows
_HARMONICS = (1, 2, 3, 4, 6, 7, 8, 10, 12, 14, 16, 21, 24, 28, 42, 56, 84)


@dataclass(frozen=True)
class Rows:
    """Where the reference's rows stand in a season.

    Attributes:
        place: float64[n], place on the clock (a phase's middle at half numbers), or the whole number of a
            context's phase; NaN where unknown.
        count: phases.
        circular: whether the last phase lies beside the first one (a clock).
        segment: int64[n], which part of the reference each row is in: whole turns of the clock.
    """

    place: FloatArray
    count: int
    circular: bool
    segment: Indices

    @property
    def phase(self) -> Indices:
        """int64[n], -1 where unknown."""
        return np.where(np.isnan(self.place), -1.0, np.floor(self.place)).astype(np.int64)


@dataclass(frozen=True)
class Profile:
    """One stream's usual course.

    Attributes:
        usual: float64[count], in the middle of each phase; NaN where the reference says nothing.
        factor: float64[count], what a difference from it is multiplied by: 1, or where the spread changes
            with the phase, its inverse, such that a lasting shift keeps its size on average over a turn.
        level: the average of `usual`, added to what is left so that it stays in the stream's own range.
        freedom: numbers that the course was fitted with.
        explained: share of the variance that the course explains in parts of the reference it was not
            fitted on; 0 when none is better than a constant.
        independent: independent rows that the course's own error amounts to: error variance of the course,
            measured between the reference's parts, over the variance of what is left.
        left: float64[n], the reference less its usual course, of each part by the course of the others.
    """

    usual: FloatArray
    factor: FloatArray
    level: float
    freedom: int
    explained: float
    independent: float
    left: FloatArray


def fit_profile(values: FloatArray, rows: Rows) -> Profile | None:
    """Fits the usual course of one stream, if it has one.

    By the clock it is a Fourier series whose length is chosen by leaving out parts of the reference in turn;
    by a context a value for each phase. The reference is never judged by a course that has seen the same
    rows: what is left of each part is taken from the course of all others.

    Args:
        values: float64[n], in time order.
        rows: where they stand.

    Returns:
        None if no course predicts parts of the reference better than a constant does.
    """
    phase = rows.phase
    known = np.isfinite(values) & (phase >= 0)
    x, p, g = values[known], phase[known], rows.segment[known]
    if not len(x) or x.min() == x.max():
        return None
    tamed = _tamed(x, p, rows.count)
    table = _Table.of(tamed, p, g, rows.count)
    if table.parts < 2 or table.covered.sum() < 2:
        return None
    harmonics, explained = table.choose(rows.circular)
    if harmonics is None:
        return None
    share = explained * table.between() / float(tamed.var())
    if share < LEAST_EXPLAINED:
        return None
    basis = _basis(rows.count, harmonics) if rows.circular else np.eye(rows.count)
    fits = np.array([table.fit(basis, without=part) for part in range(table.parts)])
    usual = table.fit(basis)
    level = float(np.average(usual[table.covered], weights=table.weight.sum(axis=0)[table.covered]))
    factor = _factors(x - fits[g, p], p, g, rows, table)
    out = np.full(len(values), np.nan)
    course, scale = at(fits, rows)[rows.segment, np.arange(len(values))], at(factor[None], rows)[0]
    out[known] = (level + (values - course) * scale)[known]
    freedom = int(np.linalg.matrix_rank(basis[table.covered]))
    return Profile(
        usual=usual,
        factor=factor,
        level=level,
        freedom=freedom,
        explained=share,
        independent=_worth(table, basis, freedom, factor, float(np.nanvar(out))),
        left=out,
    )


def at(courses: FloatArray, rows: Rows) -> FloatArray:
    """Courses at places: float64[C, n]; NaN where a course says nothing.

    By the clock it is read between the middles of two phases, and where only one of them is known there.

    Args:
        courses: float64[C, count].
        rows: the places.
    """
    return read(courses, rows.place, circular=rows.circular)


def read(courses: FloatArray, place: FloatArray, *, circular: bool) -> FloatArray:
    """See `at`; `place` may be a single number: float64[C, n]."""
    place = np.atleast_1d(np.asarray(place, dtype=np.float64))
    unknown = np.isnan(place)
    safe = np.where(unknown, 0.0, place)
    if circular:
        count = courses.shape[1]
        before = np.floor(safe - 0.5)
        share = safe - 0.5 - before
        low = courses[:, before.astype(np.int64) % count]
        high = courses[:, (before.astype(np.int64) + 1) % count]
        out = low + share * (high - low)
        if np.isnan(courses).any():
            out = np.where(np.isnan(low), high, np.where(np.isnan(high), low, out))
    else:
        out = courses[:, safe.astype(np.int64)]
    out[:, unknown] = np.nan
    return out


@dataclass(frozen=True)
class _Table:
    """Means of each part of the reference at each phase."""

    mean: FloatArray
    weight: FloatArray

    @classmethod
    def of(cls, x: FloatArray, p: Indices, g: Indices, count: int) -> _Table:
        parts = int(g.max()) + 1
        cell = g * count + p
        weight = np.bincount(cell, minlength=parts * count).astype(np.float64)
        sums = np.bincount(cell, weights=x, minlength=parts * count)
        shape = (parts, count)
        mean = np.where(weight > 0, sums / np.maximum(weight, 1.0), 0.0)
        weight = weight.reshape(shape)
        # A phase that only one part knows can not be checked by the others.
        weight = np.where((weight > 0).sum(axis=0) >= 2, weight, 0.0)
        return cls(mean.reshape(shape), weight)

    @property
    def parts(self) -> int:
        return len(self.mean)

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        return np.asarray((self.weight > 0).any(axis=0))

    def fit(self, basis: FloatArray, without: int | None = None) -> FloatArray:
        """The course by weighted least squares, NaN at phases that the parts used do not know.

        Normal equations with a hair of a ridge: phases that nothing is known of leave series without a
        unique solution, and any will do there.
        """
        weight = self.weight if without is None else np.delete(self.weight, without, axis=0)
        mean = self.mean if without is None else np.delete(self.mean, without, axis=0)
        total = weight.sum(axis=0)
        seen = total > 0
        weighted = basis * total[:, None]
        gram = weighted.T @ basis
        gram[np.diag_indices_from(gram)] += RIDGE * max(float(total.sum()), 1.0)
        solved = np.linalg.solve(gram, basis.T @ (weight * mean).sum(axis=0))
        return np.where(seen, basis @ solved, np.nan)

    def choose(self, circular: bool) -> tuple[int | None, float]:
        """Length of the series that predicts left-out parts best, and the share of variance it explains."""
        count, known = self.mean.shape[1], int(self.covered.sum())
        constant = self._error(np.ones((count, 1)))
        if circular:
            lengths = [k for k in _HARMONICS if 2 * k <= count and 2 * k < known + 1]
            errors = [self._error(_basis(count, k)) for k in lengths]
        else:
            lengths, errors = [0], [self._error(np.eye(count))]
        best = int(np.argmin(errors)) if errors else 0
        if not errors or errors[best] >= constant:
            return None, 0.0
        return lengths[best], 1.0 - errors[best] / constant

    def between(self) -> float:
        """Variance of the cells' means around the whole mean."""
        total = self.weight.sum()
        middle = (self.weight * self.mean).sum() / total
        return float((self.weight * (self.mean - middle) ** 2).sum() / total)

    def _error(self, basis: FloatArray) -> float:
        error = 0.0
        for part in range(self.parts):
            gap = self.mean[part] - self.fit(basis, without=part)
            error += float(np.nansum(self.weight[part] * gap**2))
        return error / float(self.weight.sum())


def _basis(count: int, harmonics: int) -> FloatArray:
    """Constant, cosines and sines in the middle of each phase: float64[count, 1 + 2 harmonics]."""
    angle = 2 * math.pi * np.outer((np.arange(count) + 0.5) / count, np.arange(1, harmonics + 1))
    return np.hstack([np.ones((count, 1)), np.cos(angle), np.sin(angle)])


def _tamed(x: FloatArray, p: Indices, count: int) -> FloatArray:
    """Values with outliers pulled in, so that one glitch is not taken for the habit of its hour."""
    order = np.argsort(p, kind="stable")
    bounds = np.searchsorted(p[order], np.arange(count + 1))
    median = np.zeros(count)
    for phase in range(count):
        own = x[order[bounds[phase] : bounds[phase + 1]]]
        if len(own):
            median[phase] = np.median(own)
    left = x - median[p]
    _, spread = robust(np.sort(left))
    return np.asarray(median[p] + np.clip(left, -OUTLIER * spread, OUTLIER * spread))


def _factors(left: FloatArray, p: Indices, g: Indices, rows: Rows, table: _Table) -> FloatArray:
    """One over the spread of each phase where that changes with the phase, else ones."""
    finite = np.isfinite(left)
    left, p, g = left[finite], p[finite], g[finite]
    whole = float(np.sqrt(np.mean(left**2))) if len(left) else 0.0
    ones = np.ones(rows.count)
    if whole <= 0.0:
        return ones
    tamed = np.clip(left, -OUTLIER * whole, OUTLIER * whole)
    squares = _Table.of(tamed**2, p, g, rows.count)
    logs = _Table(0.5 * np.log(squares.mean + (LEAST_SPREAD * whole) ** 2), squares.weight)
    if logs.parts < 2 or logs.covered.sum() < 2:
        return ones
    harmonics, _ = logs.choose(rows.circular)
    if harmonics is None:
        return ones
    spread = np.exp(logs.fit(_basis(rows.count, harmonics) if rows.circular else np.eye(rows.count)))
    if np.nanmax(spread) < UNEVEN * np.nanmin(spread):
        return ones
    usual = np.nanmedian(spread)
    inverse = 1.0 / np.maximum(np.where(np.isnan(spread), usual, spread), LEAST_SPREAD * whole)
    return np.asarray(inverse / np.average(inverse, weights=table.weight.sum(axis=0)))


def _worth(table: _Table, basis: FloatArray, freedom: int, factor: FloatArray, variance: float) -> float:
    """Independent rows that the course amounts to, from how parts differ (the clusters' sandwich estimate).

    Liang and Zeger 1986; parts stand for clusters, so that whatever rows of one turn share is inside.
    """
    gap = np.where(table.weight > 0, table.mean - np.nan_to_num(table.fit(basis)), 0.0)
    scores = (table.weight * gap) @ basis
    total = table.weight.sum(axis=0)
    bread = np.linalg.pinv((basis * total[:, None]).T @ basis)
    spare = table.parts - 1
    middle = scores.T @ scores * table.parts / spare
    error = np.einsum("pi,ij,pj->p", basis, bread @ middle @ bread, basis) * factor**2
    mean = float(np.average(error, weights=total))
    # Its own sampling error, so that few parts do not look sure by chance.
    mean *= 1.0 + math.sqrt(2.0 / (spare * freedom))
    return max(variance / mean, 1.0) if mean > 0 else math.inf
