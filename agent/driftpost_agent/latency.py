"""How long requests take, in the buckets of a Prometheus histogram."""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import Any

# Upper bounds, seconds: from an MLP on a fast core to a model that is about to be taken for hung.
BOUNDS_S: tuple[float, ...] = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


class LatencyHistogram:
    """Counts calls by how long they took; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """A call took this long."""
        place = bisect_left(BOUNDS_S, seconds)
        with self._lock:
            self._counts[place] += 1
            self._sum += seconds

    def facts(self) -> dict[str, Any]:
        """Bounds, counts of each bucket by itself (the last one is beyond the highest bound), and the sum."""
        with self._lock:
            return {"bounds_s": list(BOUNDS_S), "counts": list(self._counts), "sum_s": round(self._sum, 6)}
