"""KLL: quantiles of a stream of unknown range, from a few hundred values (Karnin, Lang and Liberty 2016).

Level h holds values that stand for 2^h each. A level beyond its capacity is sorted and every second value of
it, from a random start, moves up. Capacities fall by 2/3 a level from k at the top to 8.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from driftpost_sketches.datasketches import kll_bytes

DEFAULT_K = 200
MIN_K, MAX_K = 8, 65535
LEAST = 8  # capacity of the lowest levels
MAX_LEVELS = 61  # 2^60 values
BLOCK = 4096  # values taken in at a time: bounds what is held above the sketch's own size

Floats = npt.NDArray[np.float64]


class KllSketch:
    """Quantiles of numbers.

    Args:
        k: capacity of the top level; the rank error falls as about 1 / k.
        double: values are float64 in bytes; otherwise they are rounded to float32 as they come.

    Attributes:
        k: as given.
        double: as given.
        least_k: smallest k of all that were merged in: what the error goes by.
        n: values seen.
        low: smallest value; NaN without any.
        high: largest value.
        levels: float64 arrays; level h's values stand for 2^h each; all but the lowest are sorted.
    """

    def __init__(self, k: int = DEFAULT_K, *, double: bool = True) -> None:
        if not MIN_K <= k <= MAX_K:
            raise ValueError(f"k lies between {MIN_K} and {MAX_K}, not at {k}")
        self.k = k
        self.double = double
        self.least_k = k
        self.n = 0
        self.low = self.high = math.nan
        self.levels: list[Floats] = [np.zeros(0)]

    @property
    def empty(self) -> bool:
        """Whether it has seen nothing."""
        return self.n == 0

    @property
    def retained(self) -> int:
        """Values held."""
        return sum(len(level) for level in self.levels)

    def update(self, values: npt.ArrayLike) -> None:
        """Takes numbers, in any order; NaN is left out."""
        taken = np.asarray(values, dtype=np.float64).ravel()
        taken = taken[~np.isnan(taken)]
        if not self.double:
            with np.errstate(over="ignore"):
                taken = taken.astype(np.float32).astype(np.float64)
        for start in range(0, len(taken), BLOCK):
            block = taken[start : start + BLOCK]
            self._reach(float(block.min()), float(block.max()))
            self.n += len(block)
            # The library fills the lowest level downwards: the newest value stands first.
            self.levels[0] = np.concatenate([block[::-1], self.levels[0]])
            self._compress()

    def merge(self, other: KllSketch) -> None:
        """Takes what another sketch has seen.

        Raises:
            ValueError: one holds float32 and the other float64.
        """
        if self.double != other.double:
            raise ValueError("a KLL sketch of float32 does not merge with one of float64")
        if other.empty:
            return
        self._reach(other.low, other.high)
        self.n += other.n
        self.least_k = min(self.least_k, other.least_k)
        while len(self.levels) < len(other.levels):
            self.levels.append(np.zeros(0))
        for h, level in enumerate(other.levels):
            both = np.concatenate([level, self.levels[h]])
            self.levels[h] = np.sort(both) if h else both
        self._compress()

    def rank_error(self) -> float:
        """Error of a rank (a share between 0 and 1) that is exceeded in one of a hundred cases.

        The library's fit to its own measurements: 2.296 / k^0.9723.
        """
        if len(self.levels) == 1:
            return 0.0
        return 2.296 / math.pow(self.least_k, 0.9723)

    def weighted(self) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Retained values in ascending order, and how many each stands for; the weights add up to n."""
        values = np.concatenate(self.levels)
        weights = np.repeat(
            np.array([1 << h for h in range(len(self.levels))], dtype=np.int64),
            [len(level) for level in self.levels],
        )
        order = np.argsort(values, kind="stable")
        return values[order], weights[order]

    def rank(self, value: float) -> float:
        """Share of values at most `value`.

        Raises:
            ValueError: it has seen nothing.
        """
        self._some()
        values, weights = self.weighted()
        return float(weights[values <= value].sum()) / self.n

    def quantiles(self, shares: npt.ArrayLike) -> Floats:
        """Smallest values that at least these shares of all values do not exceed; exact at 0 and 1.

        Raises:
            ValueError: it has seen nothing, or a share is none.
        """
        self._some()
        asked = np.asarray(shares, dtype=np.float64)
        if not ((asked >= 0.0) & (asked <= 1.0)).all():
            raise ValueError("shares lie between 0 and 1")
        values, weights = self.weighted()
        at = np.searchsorted(np.cumsum(weights), np.ceil(asked * self.n), side="left")
        found = values[np.minimum(at, len(values) - 1)]
        return np.asarray(np.where(asked == 0.0, self.low, np.where(asked == 1.0, self.high, found)))

    def to_bytes(self) -> bytes:
        """The library's form."""
        return kll_bytes.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes, *, double: bool = True) -> KllSketch:
        """Reads the library's form; the bytes do not say which of the two types they hold.

        Raises:
            MalformedSketch: it is not such a sketch.
        """
        return kll_bytes.decode(data, double=double)

    def _some(self) -> None:
        if self.empty:
            raise ValueError("an empty sketch has no quantiles")

    def _reach(self, low: float, high: float) -> None:
        self.low = low if self.n == 0 else min(self.low, low)
        self.high = high if self.n == 0 else max(self.high, high)

    def _compress(self) -> None:
        """Thins levels from the lowest up until all that is held fits."""
        while self.retained > capacity(self.k, len(self.levels)):
            for h in range(len(self.levels)):
                if len(self.levels[h]) >= level_capacity(self.k, len(self.levels), h):
                    self._thin(h)
                    break

    def _thin(self, h: int) -> None:
        level = self.levels[h]
        if h == 0:
            level = np.sort(level)
        # One of an odd number stays, so that the weights add up.
        odd = len(level) % 2
        kept, thinned = level[:odd], level[odd + _coin(self.n, h) :: 2]
        self.levels[h] = kept
        if h + 1 == len(self.levels):
            self.levels.append(np.zeros(0))
        self.levels[h + 1] = np.sort(np.concatenate([self.levels[h + 1], thinned]))


def level_capacity(k: int, levels: int, h: int) -> int:
    """Values that level `h` of so many may hold: k (2/3)^depth, at least 8."""
    depth = levels - h - 1
    capacity_ = k
    # In two steps for deep levels, as the library rounds.
    for part in (depth,) if depth <= 30 else (depth // 2, depth - depth // 2):
        capacity_ = ((((capacity_ << 1) << part) // 3**part) + 1) >> 1
    return max(LEAST, capacity_)


def capacity(k: int, levels: int) -> int:
    """Values that so many levels may hold together."""
    return sum(level_capacity(k, levels, h) for h in range(levels))


def _coin(n: int, h: int) -> int:
    """A fair coin that depends on nothing but how much was seen: the same stream gives the same sketch."""
    z = (n * 0x9E3779B97F4A7C15 + (h + 1) * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (z ^ (z >> 31)) & 1
