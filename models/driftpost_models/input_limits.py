"""What the reference showed of each input: the yardstick of the guard's checks on single inferences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_models.runtime import Array, TensorSpec

MAX_ELEMENTS = 1024
"""Elements of a row up to which each has limits of its own."""


@dataclass(frozen=True)
class InputLimits:
    """Ranges and shares of one input, in raw values as fed.

    Attributes:
        low: lowest value by element of the flattened row, `float64[elements]`, or `float64[1]` over all
            elements of a large row.
        high: highest value likewise.
        floor: the low end of the whole tensor: the dtype's for 8 and 16 bit integers, else the lowest seen.
        ceiling: the high end likewise.
        low_share: largest share of a row's elements at or below `floor`.
        high_share: largest share of a row's elements at or above `ceiling`.
        longest_run: most consecutive rows that were identical; 1 where none repeated.
    """

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    floor: float
    ceiling: float
    low_share: float
    high_share: float
    longest_run: int

    def to_dict(self) -> dict[str, object]:
        """Plain types."""
        return {
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "floor": self.floor,
            "ceiling": self.ceiling,
            "low_share": self.low_share,
            "high_share": self.high_share,
            "longest_run": self.longest_run,
        }

    @classmethod
    def from_dict(cls, plain: object) -> InputLimits:
        """Inverse of `to_dict`.

        Raises:
            ValueError: a field is missing or not of its type.
        """
        if not isinstance(plain, Mapping):
            raise ValueError("input limits must be a table")
        try:
            low, high = np.array(plain["low"], np.float64), np.array(plain["high"], np.float64)
            limits = cls(
                low,
                high,
                float(plain["floor"]),
                float(plain["ceiling"]),
                float(plain["low_share"]),
                float(plain["high_share"]),
                int(plain["longest_run"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"input limits: {error!r}") from error
        if low.ndim != 1 or low.shape != high.shape or not 1 <= len(low) <= MAX_ELEMENTS:
            raise ValueError("input limits: low and high must be lists of one length")
        return limits


class LimitsObserver:
    """Sees the rows of one input in time order and keeps their limits.

    Args:
        spec: the input.
        sample: `[rows, ...]` spread over the reference; tells the ends of a float input.
    """

    def __init__(self, spec: TensorSpec, sample: Array) -> None:
        elements = max(1, int(np.prod(sample.shape[1:])))
        width = elements if elements <= MAX_ELEMENTS else 1
        self._low = np.full(width, np.inf)
        self._high = np.full(width, -np.inf)
        if spec.dtype.kind in "iu" and spec.dtype.itemsize <= 2:
            info = np.iinfo(spec.dtype.str)
            self._floor, self._ceiling = float(info.min), float(info.max)
        else:
            finite = sample[np.isfinite(sample)] if sample.dtype.kind == "f" else sample
            self._floor = float(finite.min()) if finite.size else 0.0
            self._ceiling = float(finite.max()) if finite.size else 0.0
        self._low_share = self._high_share = 0.0
        self._run = self._longest = 1
        self._last: bytes | None = None

    def update(self, rows: Array) -> None:
        """Add rows, `[rows, ...]`."""
        flat = rows.reshape(len(rows), -1)
        if flat.size == 0:
            return
        columns = flat if len(self._low) == flat.shape[1] else flat.reshape(-1, 1)
        self._low = np.minimum(self._low, _extreme(columns, np.fmin, np.inf))
        self._high = np.maximum(self._high, _extreme(columns, np.fmax, -np.inf))
        # Compared as float64: numpy would wrap or refuse an integer beyond the dtype.
        low_shares = np.count_nonzero(np.less_equal(flat, self._floor), axis=1)
        high_shares = np.count_nonzero(np.greater_equal(flat, self._ceiling), axis=1)
        self._low_share = max(self._low_share, float(low_shares.max()) / flat.shape[1])
        self._high_share = max(self._high_share, float(high_shares.max()) / flat.shape[1])
        for row in flat:
            raw = row.tobytes()
            self._run = self._run + 1 if raw == self._last else 1
            self._longest = max(self._longest, self._run)
            self._last = raw

    def limits(self) -> InputLimits:
        """What was seen; an element that was never finite has the whole line as its range."""
        low = np.where(np.isfinite(self._low), self._low, -np.finfo(np.float64).max)
        high = np.where(np.isfinite(self._high), self._high, np.finfo(np.float64).max)
        return InputLimits(
            low, high, self._floor, self._ceiling, self._low_share, self._high_share, self._longest
        )


def _extreme(columns: Array, fold: np.ufunc, start: float) -> npt.NDArray[np.float64]:
    if columns.dtype.kind == "f":
        columns = np.where(np.isfinite(columns), columns, start)
    found: npt.NDArray[np.float64] = fold.reduce(columns, axis=0).astype(np.float64)
    return found
