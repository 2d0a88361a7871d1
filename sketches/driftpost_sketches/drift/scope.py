"""One sensor, one cohort, or the world: the simplest honest explanation of which devices drifted.

Every explanation is a cause with members. Devices drift inside a cause with a high rate, outside only by
themselves, rarely; a cause is the better explanation when it makes what was seen more probable by more than
it costs to single it out among all that could have been named (a Bayes factor with a prior that is shared
by all candidates). Independently of that, a cohort is named only if so many of its members would hardly
ever drift each by itself: a binomial tail, times the number of candidates, of at most `alpha`.

Causes are taken one by one; each explains its members, and the rest is looked at again. Attributes and
pairs of attributes are candidates. The work is a few counts over code arrays, so a hundred thousand devices
take a fraction of a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Attributes = tuple[tuple[str, str], ...]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# Drift rates as beta distributions (a, b). A cause reaches nearly all of its members, if not all at once.
_INSIDE = (20.0, 1.0)
# A device by itself: one in fifty, known only roughly, so that a large fleet's own rate soon speaks.
_OUTSIDE = (0.5, 24.5)
FLEET_PRIOR = 0.05  # that a cause meets the whole fleet; the other priors are for a cohort of any value of
SINGLE_PRIOR = 0.1  # one attribute, or of a
PAIR_PRIOR = 0.02  # pair of attributes
MIN_SCORE = math.log(30.0)  # odds a cohort must have against devices drifting each by itself
MAX_COHORTS = 8  # causes named in one go; more at the same time means that none of them explains much
MAX_PAIRS = 64  # pairs of attributes looked at, so that fifty attributes do not cost a thousand passes
CONFIDENCE = 0.95  # one-sided, of the risk ratio's lower bound
_EQUAL = 1e-9


@dataclass(frozen=True)
class Explanation:
    """One cause.

    Attributes:
        scope: "device", "cohort" or "fleet".
        attributes: what a cohort's members share; empty otherwise.
        members: devices in scope, in the order given.
        affected: those of them that drifted.
        support: affected over members.
        risk_ratio: drift rate inside over outside, shrunk (half a device is added to each count); inf never.
        risk_ratio_low: its lower confidence bound (95 %, one-sided; Katz et al. 1978).
        score: log evidence for this cause against devices drifting each by itself; 0 for single devices.
        alternatives: other attributes that explain the same devices equally well: which of them is the cause
            can not be told from this fleet.
    """

    scope: str
    attributes: Attributes
    members: tuple[str, ...]
    affected: tuple[str, ...]
    support: float
    risk_ratio: float
    risk_ratio_low: float
    score: float
    alternatives: tuple[Attributes, ...] = ()


@dataclass(frozen=True)
class _Column:
    """One attribute, or a pair of them.

    Attributes:
        keys: names of the attributes.
        codes: int64[devices], position in `values`, -1 where none of these.
        values: attribute values that may be named.
        candidates: values that might have been named, whatever had drifted.
    """

    keys: tuple[str, ...]
    codes: IntArray
    values: tuple[tuple[str, ...], ...]
    candidates: int


@dataclass(frozen=True)
class _Cohort:
    column: _Column
    code: int
    score: float
    members: npt.NDArray[np.bool_]

    @property
    def attributes(self) -> Attributes:
        return tuple(zip(self.column.keys, self.column.values[self.code], strict=True))


def explain(
    devices: Sequence[str],
    attributes: Mapping[str, Mapping[str, str]],
    drifted: Mapping[str, float],
    *,
    alpha: float = 1e-3,
    min_support: int = 2,
) -> list[Explanation]:
    """Explains which devices drifted.

    Args:
        devices: all devices that were looked at.
        attributes: of each device, by key; devices and keys may be missing.
        drifted: evidence score by device; positive means drifted, devices left out or at 0 did not. Devices
            that are not among `devices` are ignored.
        alpha: probability with which a cohort may be named although devices drift each by itself.
        min_support: affected members that a cohort must have.

    Returns:
        Fleet or cohorts first, by evidence, then single devices by score. Every drifted device is affected in
            at least one explanation.
    """
    names = list(dict.fromkeys(devices))
    flagged = np.array([drifted.get(name, 0.0) > 0 for name in names], dtype=bool)
    if not flagged.any():
        return []
    columns = _columns(names, attributes, flagged, max(min_support, 1))
    found: list[Explanation] = []
    open_: npt.NDArray[np.bool_] = np.ones(len(names), dtype=bool)
    while len(found) < MAX_COHORTS and (flagged & open_).any():
        cause = _best(columns, flagged, open_, alpha, max(min_support, 1))
        fleet = None if found else _fleet_score(flagged, alpha, min_support)
        if fleet is not None and (cause is None or fleet >= cause.score):
            everyone = np.ones(len(names), dtype=bool)
            return [_explanation("fleet", (), names, everyone, flagged, score=fleet)]
        if cause is None:
            break
        ties = _equals(cause, columns, flagged, open_, alpha=alpha, least=max(min_support, 1))
        found.append(
            _explanation(
                "cohort",
                cause.attributes,
                names,
                cause.members,
                flagged,
                score=cause.score,
                alternatives=ties,
            )
        )
        open_ &= ~cause.members
    left = sorted(np.flatnonzero(flagged & open_).tolist(), key=lambda i: -drifted[names[i]])
    for i in left:
        alone = np.zeros(len(names), dtype=bool)
        alone[i] = True
        found.append(_explanation("device", (), names, alone, flagged))
    return found


def _columns(
    names: list[str],
    attributes: Mapping[str, Mapping[str, str]],
    flagged: npt.NDArray[np.bool_],
    min_support: int,
) -> list[_Column]:
    keys = sorted({key for name in names for key in attributes.get(name, ())})
    singles = []
    for key in keys:
        table: dict[str, int] = {}
        codes = np.empty(len(names), dtype=np.int64)
        for i, name in enumerate(names):
            value = attributes.get(name, {}).get(key)
            codes[i] = -1 if value is None else table.setdefault(str(value), len(table))
        singles.append(_kept((key,), codes, tuple((v,) for v in table), flagged, min_support))
    pairs = []
    for a, b in list(combinations(singles, 2))[:MAX_PAIRS]:
        joint = np.where((a.codes >= 0) & (b.codes >= 0), a.codes * len(b.values) + b.codes, -1)
        present, inverse = np.unique(joint, return_inverse=True)
        codes = inverse.astype(np.int64).reshape(-1) - int(present[0] < 0)
        present = present[present >= 0]
        values = tuple(a.values[c // len(b.values)] + b.values[c % len(b.values)] for c in present.tolist())
        pairs.append(_kept(a.keys + b.keys, codes, values, flagged, min_support))
    return singles + pairs


def _kept(
    keys: tuple[str, ...],
    codes: IntArray,
    values: tuple[tuple[str, ...], ...],
    flagged: npt.NDArray[np.bool_],
    min_support: int,
) -> _Column:
    """Only values that enough drifted devices share: an attribute with a value per device costs nothing."""
    known = codes >= 0
    size = np.bincount(codes[known], minlength=len(values))
    affected = np.bincount(codes[known & flagged], minlength=len(values))
    keep = np.flatnonzero(affected >= min_support)
    table = np.full(len(values) + 1, -1, dtype=np.int64)
    table[keep] = np.arange(len(keep))
    return _Column(keys, table[codes], tuple(values[k] for k in keep), int((size >= min_support).sum()))


def _best(
    columns: list[_Column],
    flagged: npt.NDArray[np.bool_],
    open_: npt.NDArray[np.bool_],
    alpha: float,
    least: int,
) -> _Cohort | None:
    """The cohort that explains best, if any is both likely enough and no coincidence."""
    best: _Cohort | None = None
    for column, scores in zip(columns, _scores(columns, flagged, open_, alpha, least), strict=True):
        if not len(scores):
            continue
        code = int(np.argmax(scores))
        # Single attributes come first, so a pair must explain strictly more.
        if scores[code] > (best.score + _EQUAL if best is not None else 0.0):
            best = _Cohort(column, code, float(scores[code]), (column.codes == code) & open_)
    return best


def _scores(
    columns: list[_Column],
    flagged: npt.NDArray[np.bool_],
    open_: npt.NDArray[np.bool_],
    alpha: float,
    least: int,
) -> list[FloatArray]:
    """For each column, log evidence of each of its values as the cause; -inf where it may not be named."""
    total, drifted = int(open_.sum()), int((flagged & open_).sum())
    logs = _LogBeta(total)
    alone = float(logs.outside(np.array([drifted]), np.array([total]))[0])
    tallies = []
    for column in columns:
        known = (column.codes >= 0) & open_
        size = np.bincount(column.codes[known], minlength=len(column.values))
        hit = np.bincount(column.codes[known & flagged], minlength=len(column.values))
        tallies.append((size, hit))
    candidates = {n: max(sum(c.candidates for c in columns if len(c.keys) == n), 1) for n in (1, 2)}
    scores = []
    for column, (size, hit) in zip(columns, tallies, strict=True):
        order = len(column.keys)
        prior = math.log((SINGLE_PRIOR if order == 1 else PAIR_PRIOR) / candidates[order])
        score = logs.inside(hit, size) + logs.outside(drifted - hit, total - size) - alone + prior
        allowed = hit >= least
        # A cohort that is everyone is the fleet, and not to be told from it.
        allowed &= size < total
        for value in np.flatnonzero(allowed & (score >= MIN_SCORE)):
            a, n = int(hit[value]), int(size[value])
            rate = (drifted - a + _OUTSIDE[0]) / (total - n + sum(_OUTSIDE))
            if _log_tail(a, n, rate) + math.log(sum(candidates.values())) > math.log(alpha):
                allowed[value] = False
        scores.append(np.where(allowed & (score >= MIN_SCORE), score, -np.inf))
    return scores


def _equals(
    cause: _Cohort,
    columns: list[_Column],
    flagged: npt.NDArray[np.bool_],
    open_: npt.NDArray[np.bool_],
    *,
    alpha: float,
    least: int,
) -> tuple[Attributes, ...]:
    """Attributes as short as the cause's that explain the same devices as well."""
    explained = cause.members & flagged
    others = []
    for column, scores in zip(columns, _scores(columns, flagged, open_, alpha, least), strict=True):
        if len(column.keys) != len(cause.column.keys):
            continue
        for code in np.flatnonzero(scores >= cause.score - _EQUAL):
            same = np.array_equal((column.codes == code) & open_ & flagged, explained)
            if same and (column is not cause.column or code != cause.code):
                others.append(tuple(zip(column.keys, column.values[code], strict=True)))
    return tuple(others)


def _fleet_score(flagged: npt.NDArray[np.bool_], alpha: float, min_support: int) -> float | None:
    """Log evidence that the whole fleet drifted; None where that may not be said."""
    total, drifted = len(flagged), int(flagged.sum())
    if total < 2 or drifted < max(min_support, 2):
        return None
    logs = _LogBeta(total)
    hit, size = np.array([drifted]), np.array([total])
    score = float((logs.inside(hit, size) - logs.outside(hit, size))[0]) + math.log(FLEET_PRIOR)
    rate = _OUTSIDE[0] / sum(_OUTSIDE)
    if score <= 0 or _log_tail(drifted, total, rate) > math.log(alpha):
        return None
    return score


class _LogBeta:
    """Log probabilities of k drifted among n devices in a given order, with a beta-distributed rate."""

    def __init__(self, most: int) -> None:
        steps = np.arange(most + 1, dtype=np.float64)
        self._tables = {
            shift: np.concatenate([[0.0], np.cumsum(np.log(steps[:-1] + shift))])
            for shift in {*_INSIDE, *_OUTSIDE, sum(_INSIDE), sum(_OUTSIDE)}
        }

    def inside(self, hit: IntArray, size: IntArray) -> FloatArray:
        return self._log(hit, size, _INSIDE)

    def outside(self, hit: IntArray, size: IntArray) -> FloatArray:
        return self._log(hit, size, _OUTSIDE)

    def _log(self, hit: IntArray, size: IntArray, beta: tuple[float, float]) -> FloatArray:
        # Rising factorials: prod (a + i) over hits times prod (b + i) over misses over prod (a + b + i).
        rising = self._tables
        return np.asarray(rising[beta[0]][hit] + rising[beta[1]][size - hit] - rising[sum(beta)][size])


def _log_tail(hit: int, size: int, rate: float) -> float:
    """Log of an upper bound of P(Binomial(size, rate) >= hit): exact first term, geometric rest."""
    if hit <= size * rate:
        return 0.0
    log_term = (
        math.lgamma(size + 1) - math.lgamma(hit + 1) - math.lgamma(size - hit + 1)
        + hit * math.log(rate) + (size - hit) * math.log1p(-rate)
    )  # fmt: skip
    ratio = (size - hit) / (hit + 1) * rate / (1.0 - rate)
    return min(log_term - math.log1p(-ratio), 0.0)


def _explanation(
    scope: str,
    attributes: Attributes,
    names: list[str],
    members: npt.NDArray[np.bool_],
    flagged: npt.NDArray[np.bool_],
    *,
    score: float = 0.0,
    alternatives: tuple[Attributes, ...] = (),
) -> Explanation:
    inside, hit = int(members.sum()), int((members & flagged).sum())
    ratio, low = _risk_ratio(hit, inside, int(flagged.sum()) - hit, len(names) - inside)
    return Explanation(
        scope=scope,
        attributes=attributes,
        members=tuple(names[i] for i in np.flatnonzero(members)),
        affected=tuple(names[i] for i in np.flatnonzero(members & flagged)),
        support=hit / inside,
        risk_ratio=ratio,
        risk_ratio_low=low,
        score=score,
        alternatives=alternatives,
    )


def _risk_ratio(hit: int, inside: int, other: int, outside: int) -> tuple[float, float]:
    """Risk ratio and its lower confidence bound; 1 where there is no outside to compare with."""
    if not outside:
        return 1.0, 1.0
    a, n, b, m = hit + 0.5, inside + 1.0, other + 0.5, outside + 1.0
    ratio = (a / n) / (b / m)
    error = math.sqrt(1 / a - 1 / n + 1 / b - 1 / m)
    return ratio, ratio * math.exp(-NormalDist().inv_cdf(CONFIDENCE) * error)
