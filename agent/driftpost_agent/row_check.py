"""Whether every value of a row lies within limits of its own, in one comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Bounds = tuple[NDArray[np.float32], NDArray[np.float32]]


class RowCheck:
    """Checks float32 rows; not for several threads at a time.

    The row stands in a buffer twice. Compared with the lowest allowed values the first copy must be true
    everywhere, compared with the first values above the highest the second must be false everywhere; NaN is
    false in both. One call into numpy answers both, and comparing its bytes costs a third of `all()`.

    Args:
        bounds: lowest and highest allowed values, float32[values] each, of the parts of a row.
    """

    def __init__(self, bounds: Sequence[Bounds]) -> None:
        none = np.empty(0, np.float32)
        low = np.concatenate([none, *(low for low, _ in bounds)])
        high = np.concatenate([none, *(high for _, high in bounds)])
        with np.errstate(over="ignore"):  # what comes after the largest number is infinity, as it should
            self._limits = np.concatenate([low, np.nextafter(high, np.float32(np.inf))])
        self._wanted = b"\x01" * len(low) + b"\x00" * len(high)
        self._values = np.zeros(2 * len(low), np.float32)
        self._bytes = self._values.view(np.uint8).data

    def passes(self, row: bytes) -> bool:
        """Whether all values are finite and within their limits.

        Args:
            row: the values' bytes, in this machine's order.
        """
        self._bytes[:] = row + row
        return bool((self._values >= self._limits).tobytes() == self._wanted)
