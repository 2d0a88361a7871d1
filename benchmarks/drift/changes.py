"""What happens to a stream of unit variance when it drifts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

RAMP_ROWS = 20_000  # over which a ramp climbs one standard deviation
WARM_UP_ROWS = 2_000  # watched in peace before the change
HORIZON_ROWS = 40_000  # watched after it; what is not found by then counts as missed

# Each takes the unchanged rows from the change on and the last value before it.
Change = Callable[[FloatArray, float], FloatArray]

CHANGES: dict[str, Change] = {
    "mean01": lambda values, before: values + 0.1,
    "mean025": lambda values, before: values + 0.25,
    "mean05": lambda values, before: values + 0.5,
    "mean1": lambda values, before: values + 1.0,
    "scale_up": lambda values, before: values * 1.5,
    "scale_down": lambda values, before: values / 1.5,
    "stuck": np.full_like,
    "quantized": lambda values, before: np.round(values * 2.0) / 2.0,
    "ramp": lambda values, before: values + np.minimum(np.arange(len(values)) / RAMP_ROWS, 1.0),
}
WORDS = {
    "mean01": "mean +0.1 sd",
    "mean025": "mean +0.25 sd",
    "mean05": "mean +0.5 sd",
    "mean1": "mean +1 sd",
    "scale_up": "scale x1.5",
    "scale_down": "scale /1.5",
    "stuck": "stuck",
    "quantized": "quantized to 0.5 sd",
    "ramp": "ramp of 1 sd in 20,000 rows",
}
