"""Counts and delays as tables that a person can read, with what they prove."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from benchmarks.drift.changes import HORIZON_ROWS, WORDS
from benchmarks.drift.streams import SOURCES

CONFIDENCE = 0.95  # of one-sided bounds
# Median rows that driftpost wants to need at most, at 1 false alarm per 1,000 device-days.
TARGETS = {
    "iid": {"mean025": 900, "mean05": 210, "mean1": 60, "scale_up": 650, "scale_down": 900, "stuck": 20,
            "quantized": 40},
    "ar5": {"mean05": 600, "mean1": 160},
    "ar9": {"mean05": 3500, "mean1": 850},
}  # fmt: skip


def upper_bound(count: int, exposure: float) -> float:
    """Largest Poisson rate under which so few events are not yet surprising (one-sided, 95 %)."""
    return _rate(lambda mean: _at_most(count, mean) - (1 - CONFIDENCE)) / exposure


def lower_bound(count: int, exposure: float) -> float:
    """Smallest Poisson rate under which so many events are not yet surprising (one-sided, 95 %)."""
    return 0.0 if not count else _rate(lambda mean: _at_most(count - 1, mean) - CONFIDENCE) / exposure


def _at_most(count: int, mean: float) -> float:
    return math.fsum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count + 1))


def _rate(falling: Callable[[float], float]) -> float:
    low, high = 1e-9, 1e6
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return low


def quantile(delays: Sequence[float], share: float) -> float:
    """Rows within which this share of changes was found, the horizon where fewer were."""
    return min(float(np.quantile(delays, share, method="higher")), float(HORIZON_ROWS))


def median(delays: Sequence[float]) -> float:
    """Median rows, the horizon where most changes were missed."""
    return quantile(delays, 0.5)


def rows_in_words(delays: Sequence[float]) -> str:
    """Median / 90th percentile."""
    both = [float(np.quantile(delays, q, method="higher")) for q in (0.5, 0.9)]
    return " / ".join(f"{rows:,.0f}" if rows <= HORIZON_ROWS else f">{HORIZON_ROWS:,}" for rows in both)


def verdict(count: int, days: float, budget: int) -> str:
    """What a count says about a promise."""
    if lower_bound(count, days / 1000) > budget:
        return "BROKEN"
    return "kept" if upper_bound(count, days / 1000) <= budget else "open"


def false_alarm_table(
    counts: Mapping[str, Mapping[int, int]],
    days: Mapping[str, int],
    warned: Mapping[str, Mapping[int, int]],
) -> str:
    """Rates per 1,000 device-days with upper bounds, and streams that the builder calls too short."""
    budgets = list(next(iter(counts.values())))
    lines = [
        "| stream | reference rows | device-days | " + " | ".join(f"budget {b:,}" for b in budgets)
        + " | streams of 30 that the builder calls short at " + " / ".join(f"{b:,}" for b in budgets) + " |",
        "| --- | --- | --- |" + " --- |" * (len(budgets) + 1),
    ]  # fmt: skip
    for source, row in counts.items():
        cells = [
            f"{1000 * row[b] / days[source]:.4g} (at most {upper_bound(row[b], days[source] / 1000):.3g}; "
            f"{verdict(row[b], days[source], b)})"
            for b in budgets
        ]
        short = " / ".join(str(warned[source][b]) for b in budgets)
        lines.append(
            f"| {SOURCES[source].words} (`{source}`) | {SOURCES[source].reference_rows:,} | "
            f"{days[source]:,} | " + " | ".join(cells) + f" | {short} |"
        )
    return "\n".join(lines)


def delay_table(delays: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Median / 90th percentile in rows; the target, where there is one, and whether it is met."""
    lines = [
        "| change | " + " | ".join(f"`{source}`" for source in delays) + " |",
        "| --- |" + " --- |" * len(delays),
    ]
    for change, words in WORDS.items():
        cells = []
        for source, found in delays.items():
            target = TARGETS.get(source, {}).get(change)
            cell = rows_in_words(found[change])
            if target is not None:
                met = "met" if median(found[change]) <= target else "missed"
                cell += f" ({target:,}: {met})"
            cells.append(cell)
        lines.append(f"| {words} (`{change}`) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


class Column(NamedTuple):
    """One detector in a comparison.

    Attributes:
        setting: what it was tuned to, in words.
        raised: false alarms at that.
        device_days: on which they were counted.
        delays: rows by change.
    """

    setting: str
    raised: int
    device_days: int
    delays: Mapping[str, Sequence[float]]


def peer_table(detectors: Mapping[str, Column]) -> str:
    """A column a detector: how it was tuned, then its delays."""
    lines = [
        "| | " + " | ".join(detectors) + " |",
        "| --- |" + " --- |" * len(detectors),
        "| setting | " + " | ".join(column.setting for column in detectors.values()) + " |",
        "| false alarms | "
        + " | ".join(f"{column.raised} in {column.device_days:,} days" for column in detectors.values())
        + " |",
    ]
    for change, words in WORDS.items():
        cells = [rows_in_words(column.delays[change]) for column in detectors.values()]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sooner(detectors: Mapping[str, Column]) -> dict[str, list[str]]:
    """On which changes each detector has a shorter median delay than the first."""
    mine, *_ = detectors.values()
    return {
        name: [WORDS[c] for c in WORDS if median(column.delays[c]) < median(mine.delays[c])]
        for name, column in detectors.items()
        if column is not mine
    }
