"""What no rows can have made: counts, moments and extremes of one window that contradict each other.

An honest device computes all of them from the same rows, so any contradiction means a broken or a lying one.
`Window.from_bytes` refuses what is impossible whatever the bins are; here stands what needs the schema.
"""

from __future__ import annotations

import numpy as np

from driftpost_sketches.schema import Schema, StreamKind
from driftpost_sketches.window import CLIP, FIXED_POINT, Window

ROUNDING = 1.0  # steps of 1/4096 by which a value's z may be rounded


def contradictions(schema: Schema, window: Window) -> list[str]:
    """Sentences about streams whose numbers can not belong to one set of rows; empty for an honest window.

    Windows released with noise have no moments or extremes of their own, and contradict nothing.

    Args:
        schema: of the window.
        window: that passed `Window.check`.
    """
    if window.noise:
        return []
    found = []
    for i, stream in enumerate(schema.streams):
        counts = window.counts[schema.offsets[i] : schema.offsets[i + 1]]
        filled = np.flatnonzero(counts)
        if stream.kind is not StreamKind.NUMERIC or not len(filled):
            continue
        # Extremes travel as float32; rounding is monotonic, so rounded edges still bound them.
        edges = np.concatenate([[-np.inf], np.array(stream.edges), [np.inf]]).astype(np.float32)
        low, high = window.low[i], window.high[i]
        if not (edges[filled[0]] <= low <= edges[filled[0] + 1]):
            found.append(f"{stream.name}: its lowest value {low:g} lies outside its lowest filled bin")
        elif not (edges[filled[-1]] <= high <= edges[filled[-1] + 1]):
            found.append(f"{stream.name}: its highest value {high:g} lies outside its highest filled bin")
        else:
            limit = CLIP * FIXED_POINT
            bounds = np.concatenate([[float(low)], stream.edges, [float(high)]])
            z = np.clip((bounds - stream.center) / stream.scale * FIXED_POINT, -limit, limit)
            n = counts.astype(np.float64)
            slack = n.sum() * (ROUNDING + 1e-6 * np.abs(z).max(initial=0.0))
            least = float(n @ np.clip(z[:-1], z[0], z[-1])) - slack
            most = float(n @ np.clip(z[1:], z[0], z[-1])) + slack
            if not least <= float(window.sum1[i]) <= most:
                found.append(f"{stream.name}: its mean can not be that of the values in its bins")
    return found
