"""Which of many e-values may be believed together: the e-BH procedure (Wang and Ramdas 2022).

Of K e-values the k largest are named where the k-th is at least K / (alpha * k). The expected share of false
names is then at most alpha, under any dependence between devices, streams or slices.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

_Key = TypeVar("_Key", bound=Hashable)


def e_bh(log_e: Mapping[_Key, float], alpha: float = 0.05) -> list[_Key]:
    """Names that may be listed, strongest first.

    Args:
        log_e: natural log of each e-value; NaN counts as no evidence.
        alpha: expected share of false names.

    Raises:
        ValueError: alpha is not between 0 and 1.
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is a share between 0 and 1, not {alpha}")
    order = sorted(log_e, key=lambda key: -log_e[key] if not math.isnan(log_e[key]) else math.inf)
    named = 0
    for k, key in enumerate(order, 1):
        if log_e[key] >= math.log(len(order) / (alpha * k)):
            named = k
    return order[:named]
