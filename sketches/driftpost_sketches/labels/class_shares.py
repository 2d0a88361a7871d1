"""True class shares from predicted-class counts and a confusion matrix, with honest intervals.

The shares w of true classes solve `M' w = q`, where row y of M is how answers to class y were distributed on
the reference and q how they are distributed now (black-box shift estimation; Lipton, Wang and Smola 2018). It
holds where answers to a class have not changed: under label shift. Errors follow by the delta method from the
live counts and from the reference's own, so a short reference or classes that it can not tell apart widen the
intervals; where they become useless that is said instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WIDEST = 0.15  # standard error of a share from which it says nothing: an interval of 0.6
MIN_ROWS = 10  # labelled reference rows of a class below which its answers are not known
IMPOSSIBLE = 3.5  # standard errors below 0 (or above 1) at which no class mix explains the answers
PRIOR = 0.5  # rows added to each count for its error, not for its mean
Z95 = 1.96


@dataclass(frozen=True)
class ClassShares:
    """Estimated shares of the true classes.

    Attributes:
        shares: float64[K], summing to 1; NaN where nothing can be said.
        low, high: float64[K], 95 % intervals within 0 to 1.
        usual: float64[K], the reference's shares.
        covariance: float64[K, K], of the shares before they were taken into 0 to 1.
        rows: answers they rest on.
        reference_rows: independent rows that the usual shares rest on.
        possible: whether any class mix explains the answers, within errors.
        problem: why nothing can be said, in a clause; "" where something can.
    """

    shares: Floats
    low: Floats
    high: Floats
    usual: Floats
    covariance: Floats
    rows: int
    reference_rows: float
    possible: bool
    problem: str

    @property
    def change(self) -> Floats:
        """float64[K]: shares less the usual ones."""
        return self.shares - self.usual

    @property
    def significance(self) -> float:
        """Largest change of a share in standard errors, of which the reference's shares have some, too."""
        own = self.usual * (1.0 - self.usual) / max(self.reference_rows, 1.0)
        spread = np.sqrt(np.maximum(np.diag(self.covariance) + own, 1e-12))
        return float(np.nanmax(np.abs(self.change) / spread, initial=0.0))


def class_shares(
    confusion: Ints | Floats,
    answers: Ints | Floats,
    independent: float = 1.0,
    reference_independent: float = 1.0,
    names: tuple[str, ...] = (),
) -> ClassShares:
    """Estimate the class mix behind some answers.

    Args:
        confusion: [K, A] labelled reference rows: true classes by answers. A may exceed K ("other" answers).
        answers: [A] live answers.
        independent: live rows that count as one independent row.
        reference_independent: the same of the reference.
        names: of the classes, for the problem's sake.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    live = np.asarray(answers, dtype=np.float64)
    size = len(counts)
    per_class = counts.sum(axis=1)
    usual = per_class / max(float(per_class.sum()), 1.0)
    rows = float(live.sum())
    reference_rows = float(per_class.sum()) / max(reference_independent, 1.0)
    known = per_class >= MIN_ROWS

    def nothing(problem: str) -> ClassShares:
        unknown = np.full(size, np.nan)
        blank = np.full((size, size), np.nan)
        return ClassShares(
            unknown, np.zeros(size), np.ones(size), usual, blank, round(rows), reference_rows, False, problem
        )

    if rows < 1:
        return nothing("there are no answers")
    if int(known.sum()) < 2:
        return nothing(f"the reference has fewer than {MIN_ROWS} labelled rows of all classes but one")
    few = [_name(int(y), names) for y in np.flatnonzero(~known & (live[:size] > 0.01 * rows))]
    if few:
        return nothing(f"the reference has fewer than {MIN_ROWS} labelled rows of {', '.join(few[:4])}")
    matrix = counts[known] / per_class[known, None]
    weights = np.sqrt(1.0 / np.maximum(live / rows, 0.5 / rows))
    # Least squares, so that answers may be more than classes; weighted as counts are.
    left = (matrix * weights).T
    if np.linalg.matrix_rank(left, tol=1e-6 * float(np.abs(left).max())) < int(known.sum()):
        return nothing(_confused(matrix, known, names))
    inverse = np.linalg.pinv(left) * weights
    mix = live / rows
    found = inverse @ mix
    effective = max(rows / max(independent, 1.0), 1.0)
    # Half a row more of each answer: one that was not seen yet is not impossible.
    likely = (live + PRIOR) / (rows + PRIOR * len(live))
    noise = (np.diag(likely) - np.outer(likely, likely)) / effective
    for y, share in enumerate(found):
        n = max(float(per_class[known][y]) / max(reference_independent, 1.0), 1.0)
        row = (counts[known][y] + PRIOR) / (per_class[known][y] + PRIOR * counts.shape[1])
        noise += share * share * (np.diag(row) - np.outer(row, row)) / n
    covariance = inverse @ noise @ inverse.T
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    if float(errors.max()) > WIDEST:
        return nothing(_confused(matrix, known, names) if rows > 200 else "there are too few answers yet")
    residual = mix - matrix.T @ found
    spread = np.sqrt(np.maximum(np.diag(noise), 1.0 / rows**2))
    possible = bool(
        (found > -IMPOSSIBLE * errors - 0.01).all() and (np.abs(residual) < IMPOSSIBLE * spread + 0.01).all()
    )
    clipped = np.clip(found, 0.0, 1.0)
    shares, low, high, full = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros((size, size))
    shares[known] = clipped / clipped.sum()
    low[known] = np.clip(found - Z95 * errors, 0.0, 1.0)
    high[known] = np.clip(found + Z95 * errors, 0.0, 1.0)
    full[np.ix_(known, known)] = covariance
    return ClassShares(shares, low, high, usual, full, round(rows), reference_rows, possible, "")


def _confused(matrix: Floats, known: npt.NDArray[np.bool_], names: tuple[str, ...]) -> str:
    """Names the two classes that the answers tell apart worst."""
    places = np.flatnonzero(known)
    apart = np.abs(matrix[:, None, :] - matrix[None, :, :]).sum(axis=2)
    apart[np.diag_indices(len(apart))] = np.inf
    a, b = np.unravel_index(int(np.argmin(apart)), apart.shape)
    one, other = _name(int(places[a]), names), _name(int(places[b]), names)
    return f"the reference's answers do not tell {one} from {other} well enough"


def _name(number: int, names: tuple[str, ...]) -> str:
    return repr(names[number]) if number < len(names) else f"class {number}"
