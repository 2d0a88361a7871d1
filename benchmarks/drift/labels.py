"""Delayed labels: false alarms where errors cluster, also behind a shuffled reference, and delays.

    python -m benchmarks.drift.labels [RUNS] [SEED]

Batches of 50 labels, an error rate of 10 % on 20,000 labelled rows, a smallest change of 0.1 sd. False alarms
are counted in runs of 400 batches at a budget of one a run; delays are labels until an alarm at one a year of
five-minute windows, after 2,000 labels without a change.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from driftpost_sketches.labels.concept import ConceptDetector
from driftpost_sketches.labels.dependence import independent_rows
from driftpost_sketches.labels.label_sketch import LabelSketch

Errors = npt.NDArray[np.bool_]
Source = Callable[[np.random.Generator, int, float], Errors]

BATCH, BATCHES, REFERENCE, QUIET = 50, 400, 20_000, 2_000
HORIZON = 40_000  # labels watched after a change
RATE, EFFECT = 0.1, 0.1
YEAR = math.log(105_000)  # five-minute windows of a year
CHANGED = (0.2, 0.3, 0.5)


def chained(lag: float) -> Source:
    """Errors of a two-state chain with this correlation of neighbours."""

    def draw(rng: np.random.Generator, rows: int, rate: float) -> Errors:
        fresh = rng.random(rows) >= lag
        fresh[0] = True
        drawn = rng.random(rows) < rate
        return np.asarray(drawn[np.maximum.accumulate(np.where(fresh, np.arange(rows), 0))])

    return draw


def cut(lag: float) -> Source:
    """Errors wherever an AR(1) is above its quantile."""

    def draw(rng: np.random.Generator, rows: int, rate: float) -> Errors:
        noise = rng.normal(size=rows) * math.sqrt(1 - lag * lag)
        level, out = float(rng.normal()), np.empty(rows)
        for row in range(rows):
            level = lag * level + noise[row]
            out[row] = level
        limit = float(np.quantile(rng.normal(size=200_000), 1 - rate))
        return out > limit

    return draw


def daily(rng: np.random.Generator, rows: int, rate: float) -> Errors:
    """Independent errors whose rate goes up and down by 60 % every 5,000 rows."""
    course = 1.0 + 0.6 * np.sin(2 * math.pi * (np.arange(rows) / 5_000 + rng.random()))
    return np.asarray(rng.random(rows) < rate * course)


SOURCES: dict[str, Source] = {
    "independent": chained(0.0),
    "clustered, correlation 0.5 from row to row": chained(0.5),
    "clustered, 0.9": chained(0.9),
    "cut from an AR(1) of 0.98": cut(0.98),
    "a daily cycle of 60 %": daily,
}


def watch(reference: Errors, log_threshold: float) -> ConceptDetector:
    """A detector as a device has it."""
    losses = reference.astype(np.float64)
    return ConceptDetector(LabelSketch.of_losses(losses), independent_rows(losses), log_threshold, EFFECT)


def false_alarms(source: Source, shuffled: bool, runs: int, seed: int) -> int:
    """Alarms raised in so many runs while the error rate stays."""
    raised = 0
    for run in range(runs):
        rng = np.random.default_rng([seed, run, int(shuffled)])
        reference = source(rng, REFERENCE, RATE)
        if shuffled:
            rng.shuffle(reference)
        detector = watch(reference, math.log(BATCHES))
        live = source(rng, BATCHES * BATCH, RATE).reshape(-1, BATCH)
        for batch in live.astype(np.float64):
            raised += sum(a.state == "raised" for a in detector.step(LabelSketch.of_losses(batch)))
    return raised


def delays(source: Source, rate: float, trials: int, seed: int) -> float:
    """Median labels from a change of the error rate until an alarm; infinity where most find none."""
    found = []
    for trial in range(trials):
        rng = np.random.default_rng([seed, trial, round(100 * rate)])
        detector = watch(source(rng, REFERENCE, RATE), YEAR)
        live = np.concatenate([source(rng, QUIET, RATE), source(rng, HORIZON, rate)]).reshape(-1, BATCH)
        delay = math.inf
        for number, batch in enumerate(live.astype(np.float64)):
            if any(a.state == "raised" for a in detector.step(LabelSketch.of_losses(batch))):
                delay = (number + 1) * BATCH - QUIET
                break
        found.append(delay)
    return float(np.median(found))


def main() -> None:
    """Prints the table."""
    given = [int(word) for word in sys.argv[1:]]
    runs, seed = (*given, *(100, 1)[len(given) :])
    columns = " | ".join(f"{RATE:.0%} to {rate:.0%}" for rate in CHANGED)
    print(f"| errors | false alarms ({runs} allowed) | reference shuffled | {columns} |")
    print("| --- | --- | --- | --- | --- | --- |")
    for words, source in SOURCES.items():
        counts = [str(false_alarms(source, shuffled, runs, seed)) for shuffled in (False, True)]
        late = [f"{delays(source, rate, max(runs // 5, 5), seed):,.0f}" for rate in CHANGED]
        print(f"| {words} | {' | '.join([*counts, *late])} |", flush=True)


if __name__ == "__main__":
    main()
