"""Which joint features a reference gets: those in which a change of its dependences shows first.

- Few carriers: the product of each pair.
- More: how well the others foretell each carrier (its product with its prediction by them: it falls when the
  carrier comes loose, turns round or lags), for those that can be foretold; and sums of all other pairs'
  products with random signs in a few random groups (count sketch; Charikar, Chen, Farach-Colton 2002), where
  a new dependence shows wherever it arises.
- Of random Fourier features, the directions that carriers and their squares explain least: dependence that no
  product shows.
- Of principal axes, also their means.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from driftpost_sketches.drift.joint.carriers import Carriers, Floats, Ints
from driftpost_sketches.drift.joint.features import FOURIER, TURN, Features, raw_limits
from driftpost_sketches.window import JOINT_LIMIT

ALL_PAIRS = 45  # pairs up to which each is a feature of its own: ten carriers
FORETOLD = 30  # carriers watched by how well the others foretell them
GROUPS = 22  # random groups of pairs
WAVES = 10  # directions of random Fourier features
MIN_FORETOLD = 0.15  # correlation with the prediction from which it is worth watching
COUPLED = 0.25  # correlation above which a pair is left to the foretold features
_RIDGE = 1e-2  # of the variance, so that twins share a prediction
_SEED = 0x6A6F696E74


def choose_features(carriers: Carriers, y: npt.NDArray[np.float32]) -> Features:
    """The features of a reference.

    Args:
        carriers: fitted.
        y: float32[M, rows], the part of the reference to choose on.
    """
    rng = np.random.default_rng(_SEED)
    directions = _directions(y, rng)
    first, second = np.triu_indices(carriers.count)
    start = carriers.count
    place = np.full((carriers.count, carriers.count), -1)
    place[first, second] = place[second, first] = start + np.arange(len(first))
    limits = raw_limits(carriers.count)
    pairs = [(int(i), int(j)) for i, j in zip(first, second, strict=True) if i < j]
    rows: list[Floats] = []
    correlation = _correlation(y)
    if carriers.axes is not None:
        rows += list(np.eye(len(limits))[: carriers.count])
    if len(pairs) <= ALL_PAIRS:
        rows += [np.eye(len(limits))[place[i, j]] for i, j in pairs]
    else:
        predictions, watched = _predictions(correlation, carriers)
        for i, weights in predictions:
            row = np.zeros(len(limits))
            for j in np.flatnonzero(weights):
                row[place[i, j]] = weights[j]
            rows.append(row)
        rest = [
            (i, j) for i, j in pairs
            if not (abs(correlation[i, j]) >= COUPLED and (i in watched or j in watched))
        ]  # fmt: skip
        rows += _groups(rest, place, len(limits), rng)
    drawn = Features(carriers, directions, np.zeros((0, len(limits)), np.int16))
    rows += _unexplained(drawn, y, len(limits))
    return Features(carriers, directions, _whole(np.array(rows), limits))


def _directions(y: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """Random directions; half of them twice as fine, at the median distance of two rows."""
    z = y / 16.0
    some = rng.integers(0, z.shape[1], (2, 1000))
    distance = float(np.median(np.sqrt(((z[:, some[0]] - z[:, some[1]]) ** 2).sum(axis=0)))) or 1.0
    draws = rng.normal(size=(FOURIER, len(z))) / distance
    draws[FOURIER // 2 :] *= 2.0
    # Whole angles: 45 * 48 * 2047 stays exact in float32.
    return np.clip(np.rint(draws * TURN), -2047, 2047).astype(np.int16)


def _correlation(y: npt.NDArray[np.float32]) -> Floats:
    centred = y - y.mean(axis=1, keepdims=True)
    spread = np.maximum(centred.std(axis=1), 1e-3)
    scaled = (centred / spread[:, None]).astype(np.float64)
    return np.asarray(scaled @ scaled.T / y.shape[1])


def _predictions(correlation: Floats, carriers: Carriers) -> tuple[list[tuple[int, Floats]], set[int]]:
    """Ridge predictions of the carriers that the others foretell best, unit variance each."""
    if carriers.axes is not None:
        return [], set()
    count = len(correlation)
    inverse = np.linalg.inv(correlation + _RIDGE * np.eye(count))
    weights = -inverse / np.diag(inverse)[:, None]
    np.fill_diagonal(weights, 0.0)
    spread = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", weights, correlation, weights), 1e-12))
    strength = np.einsum("ij,ij->i", weights, correlation) / spread
    order = [int(i) for i in np.argsort(-strength)[:FORETOLD] if strength[i] >= MIN_FORETOLD]
    return [(i, weights[i] / spread[i]) for i in order], set(order)


def _groups(pairs: list[tuple[int, int]], place: Ints, width: int, rng: np.random.Generator) -> list[Floats]:
    rows = np.zeros((min(GROUPS, len(pairs)), width))
    for at, k in enumerate(rng.permutation(len(pairs))):
        i, j = pairs[k]
        rows[at % len(rows), place[i, j]] = 1.0 if rng.random() < 0.5 else -1.0
    return list(rows)


def _unexplained(features: Features, y: npt.NDArray[np.float32], width: int) -> list[Floats]:
    """Directions in the waves' space with the largest share of variance that carriers and squares miss."""
    some = y[:, :: max(y.shape[1] // 8192, 1)]
    waves = features.raw(some)[-2 * FOURIER :]
    plain = np.concatenate([some, some * some]).astype(np.float64)
    waves -= waves.mean(axis=1, keepdims=True)
    plain -= plain.mean(axis=1, keepdims=True)
    n = some.shape[1]
    whole = waves @ waves.T / n + np.eye(2 * FOURIER)
    shared = plain @ waves.T / n
    own = plain @ plain.T / n
    own += 1e-3 * np.diag(np.diag(own)) + 1e-6 * np.eye(len(own))
    rest = whole - shared.T @ np.linalg.solve(own, shared)
    # Leading directions first, so that a tiny variance does not pass for an unexplained one.
    values, vectors = np.linalg.eigh(whole)
    kept = vectors[:, np.argsort(values)[::-1][: 3 * WAVES]]
    factor = np.linalg.cholesky(kept.T @ whole @ kept)
    inner = np.linalg.solve(factor, np.linalg.solve(factor, kept.T @ rest @ kept).T)
    shares, turned = np.linalg.eigh((inner + inner.T) / 2)
    best = turned[:, np.argsort(shares)[::-1][:WAVES]]
    rows = np.zeros((WAVES, width))
    rows[:, -2 * FOURIER :] = (kept @ np.linalg.solve(factor.T, best)).T
    return list(rows)


def _whole(rows: Floats, limits: Ints) -> npt.NDArray[np.int16]:
    """Weights as whole numbers, as fine as the bound on a row's feature allows."""
    out = np.zeros(rows.shape, dtype=np.int16)
    for k, row in enumerate(rows):
        scale = min(0.98 * JOINT_LIMIT / float(np.abs(row) @ limits), 64.0 / float(np.abs(row).max()))
        whole = np.rint(row * scale)
        while float(np.abs(whole) @ limits) > JOINT_LIMIT:
            scale *= 0.97
            whole = np.rint(row * scale)
        out[k] = whole
    return out
