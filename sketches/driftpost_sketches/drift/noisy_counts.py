"""Bets on counts that carry noise: tempered until noise alone can not win, whatever the bet.

A bet is a function g of cells with mean exp(g) at most 1 under the reference; its evidence over n rows is the
sum of counts times g. Gaussian noise of variance v on every count multiplies the mean of its exponential by
up to exp(v * sum of g**2 / 2), a discrete Gaussian's moments being those of a Gaussian at most (Canonne,
Kamath and Steinke 2020, fact 18). Multiplied by eta < 1 the bet loses power, and gains a margin in return,
since mean exp(eta * g) is below 1 by about eta * (1 - eta) / 2 of g's variance a row. The eta where both
balance for small bets is n * var / (n * var + v * sum of g**2): the rows count for less by what the noise
adds to the variance of a score. What larger bets then still lack is computed exactly and subtracted, so the
mean is at most 1 for every bet and any mixture of releases.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_NEVER = 1e-12  # variance of a bet that says the same of every cell


class NoisyCounts:
    """Evidence of many bets from counts with noise.

    Args:
        tables: float64[T, C, N], each bet's log evidence for a row in each cell.
        shares: float64[T, C], the reference's.
        bins: float64[T, C], noisy counts that were added up in each cell.

    Attributes:
        bins: float64[T], noisy counts of each stream in all.
    """

    def __init__(self, tables: FloatArray, shares: FloatArray, bins: FloatArray) -> None:
        self._tables = tables
        self._shares = shares
        mean = np.einsum("tc,tcn->tn", shares, tables)
        self._variance = np.maximum(np.einsum("tc,tcn->tn", shares, tables**2) - mean**2, 0.0)
        self.bins = bins.sum(axis=1)
        self._power = np.einsum("tc,tcn->tn", bins, tables**2)
        # What a bet was charged beforehand (reference error, trifles) is not there to pay for noise.
        self._charged = np.maximum(-np.log(np.einsum("tc,tcn->tn", shares, np.exp(tables))), 0.0)

    def evidence(
        self, counts: FloatArray, rows: FloatArray, noise: FloatArray, slack: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Log evidence of every bet.

        Args:
            counts: float64[T, C], in effective rows.
            rows: float64[T], effective rows without noise.
            noise: float64[T], variance of the noise on one count, in effective rows squared.
            slack: float64[T], change of a score's mean that is no news in this window, in its standard
                deviations, on top of what the bets were charged.

        Returns:
            float64[T, N], and float64[T]: the share of the rows' worth that the noise leaves, by the median
            bet.
        """
        plain = np.matmul(counts[:, None, :], self._tables)[:, 0]
        plain -= (rows * slack)[:, None] * np.sqrt(self._variance)
        if not noise.any():
            return plain, np.ones(len(rows))
        signal = rows[:, None] * self._variance
        added = noise[:, None] * self._power
        alive = self._variance > _NEVER
        eta = np.where(alive, signal / np.maximum(signal + added, _NEVER), 1.0)
        mean = np.log(np.einsum("tc,tcn->tn", self._shares, np.exp(eta[:, None, :] * self._tables)))
        lacking = 0.5 * eta**2 * added + rows[:, None] * (mean + eta * self._charged)
        left = np.array([np.median(e[a]) if a.any() else 1.0 for e, a in zip(eta, alive, strict=True)])
        return eta * plain - np.maximum(lacking, 0.0), left
