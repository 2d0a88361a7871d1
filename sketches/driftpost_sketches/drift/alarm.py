"""What a detector says when evidence and effect are both large enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

KINDS = (
    "shift",  # location
    "scale",  # spread; "noisy" when it grew in an input
    "noisy",
    "shape",
    "stuck",
    "quantized",
    "saturated",
    "missing",
    "new_category",
    "category_share",
    "label_shift",  # another mix of the same classes
    "concept",  # error rate of labelled answers
    "wrong_scale",  # inputs times 255, less 128, ...
    "dead",  # an output that no longer moves while inputs do
    "joint",  # how several streams hang together; no single one shows it
    "skew",  # installed differently from the training data
)


@dataclass(frozen=True)
class Alarm:
    """A change that began or ended.

    Attributes:
        state: "raised" or "cleared".
        streams: (name, share of the evidence) of the streams that say so, strongest first.
        kind: one of `KINDS`, as seen in the strongest stream.
        log_e: natural log of the evidence at the alarm.
        effect: size of the change in the strongest stream, in reference standard deviations (difference of
            shares for categories and missing values).
        effect_natural: the same in the stream's unit.
        unit: that unit.
        direction: "up", "down" or "none".
        onset_windows_ago: estimated windows since the change began (0 = within this window).
        text: one sentence for people.
    """

    state: str
    streams: tuple[tuple[str, float], ...]
    kind: str
    log_e: float
    effect: float
    effect_natural: float
    unit: str
    direction: str
    onset_windows_ago: int
    text: str


def evidence_in_words(log_e: float) -> str:
    """Evidence as odds a person can hold against each other."""
    tens = log_e / math.log(10.0)
    if tens >= 100:
        return "evidence beyond 10^100 to 1"
    if tens >= 6:
        return f"evidence 10^{tens:.0f} to 1"
    return f"evidence {math.exp(log_e):,.0f} to 1"
