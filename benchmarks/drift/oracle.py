"""How soon another scale of a volatile (GARCH) stream can be told at all: by one who knows everything.

The likelihood ratio of the scaled stream over the quiet one, with the true parameters, the true factor and
the moment at which the change begins: no test that asks for as much evidence is sooner on average. A detector
has to learn the stream from its reference, and knows neither the factor nor the moment.
"""

from __future__ import annotations

import math

import numpy as np
from benchmarks.drift.changes import HORIZON_ROWS
from benchmarks.drift.product import log_threshold
from benchmarks.drift.streams import BURN_IN, GARCH_ALPHA, GARCH_BETA, STREAMS_PER_DEVICE, generator

FACTORS = {"scale_up": 1.5, "scale_down": 1 / 1.5}
TRIALS = 600


def garch_delays(seed: int, budget: int) -> dict[str, list[float]]:
    """Rows from the change until the ratio reaches what one stream of thirty must bring at this budget."""
    rng = generator(seed, "garch", 0, "oracle")
    needed = log_threshold(budget) + math.log(STREAMS_PER_DEVICE)
    rest = 1.0 - GARCH_ALPHA - GARCH_BETA
    start = np.ones(TRIALS)
    for _ in range(BURN_IN):
        start = rest + GARCH_ALPHA * start * rng.normal(size=TRIALS) ** 2 + GARCH_BETA * start
    found = {}
    for name, factor in FACTORS.items():
        true = start.copy()
        quiet, scaled = start.copy(), factor**2 * start
        evidence, rows = np.zeros(TRIALS), np.full(TRIALS, np.inf)
        for row in range(1, HORIZON_ROWS + 1):
            value = np.sqrt(true) * rng.normal(size=TRIALS)
            seen = (factor * value) ** 2
            evidence += 0.5 * (np.log(quiet / scaled) + seen / quiet - seen / scaled)
            rows[(evidence >= needed) & np.isinf(rows)] = row
            if np.isfinite(rows).all():
                break
            true = rest + GARCH_ALPHA * value**2 + GARCH_BETA * true
            quiet = rest + GARCH_ALPHA * seen + GARCH_BETA * quiet
            scaled = factor**2 * rest + GARCH_ALPHA * seen + GARCH_BETA * scaled
        found[name] = rows.tolist()
    return found
