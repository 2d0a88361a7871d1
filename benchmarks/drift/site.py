"""What a site baseline is worth: false alarms, delays and skew of devices that learnt their own normal.

    python -m benchmarks.drift.site [--sites N]

Each site is installed with an offset, learns from 50,000 rows as a device does (ranges, then chains)
and is then watched. Beside it stands a bundle whose reference is that very site's data.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys

import numpy as np
import numpy.typing as npt

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.commissioning.commissioning import Plan
from driftpost_sketches.commissioning.watch import Mode, SiteWatch, streams_to_learn
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import Role, Schema

Rows = npt.NDArray[np.float64]

STREAMS = 10
LEARNT = 50_000  # rows
DAY = 20_000  # rows of a device-day
WINDOW = 20  # rows
PER_DAY = 0.1  # false alarms allowed: 100 per 1,000 device-days
EFFECT = 0.02  # smallest change worth knowing, standard deviations
SHIFT = 0.5  # standard deviations
SEED = 424_242


def autoregressive(rng: np.random.Generator, rows: int, phi: float) -> Rows:
    """AR(1) rows of variance 1: float64[rows, STREAMS]."""
    noise = rng.normal(size=(rows, STREAMS)) * math.sqrt(1.0 - phi * phi)
    state = rng.normal(size=STREAMS)
    for row in range(rows):
        state = phi * state + noise[row]
        noise[row] = state
    return noise


def first_alarm(calibration: Calibration, rows: Rows, threshold: float) -> tuple[int, int]:
    """Row at which a fresh detector first alarms (the rows, if never), and how many alarms it raises."""
    detector, accumulator = DriftDetector(calibration, threshold), WindowAccumulator(calibration.schema)
    first, count = len(rows), 0
    for start in range(0, len(rows), WINDOW):
        accumulator.update(rows[start : start + WINDOW])
        window, transitions = accumulator.take()[:2]
        raised = sum(alarm.state == "raised" for alarm in detector.step(transitions, window))
        if raised and not count:
            first = start + WINDOW
        count += raised
    return first, count


def learn(training: Calibration, rows: Rows, threshold: float) -> SiteWatch:
    """A watch that has learnt from these rows."""
    watch = SiteWatch(
        training, streams_to_learn(training.schema, ()), Plan(LEARNT, None), threshold, default_effect=EFFECT
    )
    accumulator = WindowAccumulator(training.schema)
    for start in range(0, len(rows), 500):
        block = rows[start : start + 500]
        accumulator.update(block)
        watch.update(block)
        window, transitions = accumulator.take()[:2]
        watch.step(transitions, window, 500.0)
        if watch.mode is Mode.FITTING and watch.ready is None:
            watch.ready = watch.fit()
    return watch


def calibrated(rows: Rows) -> Calibration:
    """A bundle's calibration of these rows."""
    schema = Schema([fit_numeric(f"s{i}", rows[:, i], Role.INPUT) for i in range(STREAMS)])
    return Calibration.fit(schema, rows, smallest_effect=EFFECT)


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=10)
    sites = parser.parse_args(arguments).sites
    threshold = math.log(DAY / WINDOW / PER_DAY)
    print(f"{sites} sites, {STREAMS} streams, learnt from {LEARNT:,} rows; budget {PER_DAY:g} a device-day")
    print("stream  installed  skew found  false alarms/day  delay +0.5 sd (own / bundle of the site), rows")
    for phi in (0.5, 0.9):
        rng = np.random.default_rng([SEED, round(10 * phi)])
        training = calibrated(autoregressive(rng, LEARNT, phi))
        for offset in (0.0, 1.0):
            skews, alarms, own, bundle = 0, 0, [], []
            for _ in range(sites):
                taught = autoregressive(rng, LEARNT + 500, phi) + offset
                watch = learn(training, taught, threshold)
                if watch.site is None:
                    continue
                skews += watch.skew is not None
                alarms += first_alarm(watch.site, autoregressive(rng, DAY, phi) + offset, threshold)[1]
                changed = autoregressive(rng, DAY, phi) + offset
                changed[:, 0] += SHIFT
                own.append(first_alarm(watch.site, changed, threshold)[0])
                bundle.append(first_alarm(calibrated(taught), changed, threshold)[0])
            print(
                f"AR {phi}  {offset:+.0f} sd      {skews:>3} of {sites:<3}  {alarms / sites:<16.3f}  "
                f"{statistics.median(own):,.0f} / {statistics.median(bundle):,.0f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
