"""A course of numbers in one line of block characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
# What stands for a moment without a value.
GAP = "·"


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """One character for each value, from the lowest block at `low` to the highest at `high`.

    Args:
        values: the course; NaN makes a gap.
        low, high: ends of the scale; what lies beyond stands at its end.
    """
    span = high - low
    drawn = []
    for value in values:
        if not math.isfinite(value):
            drawn.append(GAP)
            continue
        share = (value - low) / span if span > 0 else 0.5
        drawn.append(BLOCKS[min(len(BLOCKS) - 1, max(0, int(share * len(BLOCKS))))])
    return "".join(drawn)
