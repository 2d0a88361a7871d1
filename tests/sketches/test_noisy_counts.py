"""Tests on counts that were released with noise: size and power, with and without the correction."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from driftpost_sketches.cells import CELLS
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.marginal import MarginalDetector
from driftpost_sketches.drift.noisy_counts import NoisyCounts
from driftpost_sketches.privacy.release import plan_release, release
from driftpost_sketches.window import NOISE_STEPS
from simulated_streams import independent, numeric_schema, windows

ROWS = 400
ALARM_EVERY = 200  # windows


@pytest.fixture(scope="module")
def reference():
    values = independent(np.random.default_rng(0), 50_000, 3)
    schema = numeric_schema(values)
    return schema, Calibration.fit(schema, values).baseline


def noised(schema, window, variance, rng):
    """As `release` makes it, from numpy's generator for speed: rounded Gaussian noise on every count."""
    draw = lambda like: np.rint(rng.normal(0, math.sqrt(variance), like.shape)).astype(np.int64)  # noqa: E731
    return replace(
        window,
        counts=window.counts + draw(window.counts),
        missing=window.missing + draw(window.missing),
        nonfinite=window.nonfinite + draw(window.nonfinite),
        low=np.full_like(window.low, np.inf),
        high=np.full_like(window.high, -np.inf),
        noise=math.ceil((variance + 1 / 12) * NOISE_STEPS),
    )


def watching(schema, baseline, alarm_every=ALARM_EVERY):
    return MarginalDetector(schema, baseline, {}, {}, 0.02, math.log(alarm_every))


def first_alarm(schema, baseline, variance, rng, *, windows_at_most, correct=True, shift=0.0):
    """Windows until a detector alarms; None if it does not."""
    detector = watching(schema, baseline)
    live = independent(rng, ROWS * windows_at_most, 3) + shift
    for number, (window, _) in enumerate(windows(schema, live, ROWS), 1):
        seen = noised(schema, window, variance, rng)
        if not correct:
            seen = replace(
                seen, noise=0, counts=np.maximum(seen.counts, 0), missing=np.maximum(seen.missing, 0)
            )
        if any(alarm.state == "raised" for alarm in detector.step(seen)):
            return number
    return None


@pytest.mark.parametrize("variance", [4.0, 100.0, 2_500.0])
def test_noise_alone_alarms_no_more_often_than_the_budget_allows(reference, variance):
    rng = np.random.default_rng(1)
    runs, length = 30, 50
    alarmed = sum(
        first_alarm(*reference, variance, rng, windows_at_most=length) is not None for _ in range(runs)
    )
    # A detector whose mean time to a false alarm is A alarms within length windows at a rate of length / A
    # at most; three standard deviations of a binomial beside it.
    mean = runs * length / ALARM_EVERY
    assert alarmed <= mean + 3 * math.sqrt(mean)


def test_counts_taken_for_exact_would_alarm_on_noise_at_once(reference):
    rng = np.random.default_rng(2)
    delays = [first_alarm(*reference, 100.0, rng, windows_at_most=10, correct=False) for _ in range(10)]
    assert all(delay is not None and delay <= 3 for delay in delays)


@pytest.mark.parametrize("variance", [1.0, 30.0, 900.0])
def test_every_bet_s_evidence_has_a_mean_of_at_most_one_under_noise(variance):
    rng = np.random.default_rng(3)
    shares = np.append(rng.dirichlet(np.full(CELLS - 2, 4.0)), [0.0, 0.0])[None]
    scores = rng.normal(size=(1, CELLS, 24))
    sizes = np.geomspace(0.05, 2.0, 24)
    tables = scores * sizes - np.log(np.einsum("tc,tcn->tn", shares, np.exp(scores * sizes)))[:, None]
    noisy = NoisyCounts(tables, shares, np.ones((1, CELLS)))
    draws = rng.multinomial(200, shares[0], 20_000) + np.rint(rng.normal(0, variance**0.5, (20_000, CELLS)))
    values = []
    for counts in draws:
        log_e, left = noisy.evidence(
            counts[None], np.array([200.0]), np.array([variance + 1 / 12]), np.zeros(1)
        )
        values.append(np.exp(log_e[0]))
        assert 0.0 < left[0] < 1.0
    mean, error = np.mean(values, axis=0), np.std(values, axis=0) / math.sqrt(len(values))
    assert (mean <= 1.0 + 5 * error).all()
    naive = np.logaddexp.reduce(np.einsum("dc,cn->dn", draws, tables[0]), axis=0) - math.log(len(draws))
    assert naive.max() > math.log(2.0)


def test_a_change_is_still_found_later_with_more_noise(reference):
    delays = []
    for variance in (0.0, 25.0, 400.0):
        rng = np.random.default_rng(4)
        found = [
            first_alarm(*reference, variance, rng, windows_at_most=80, shift=0.3) or 80 for _ in range(5)
        ]
        delays.append(float(np.median(found)))
    assert delays[0] <= delays[1] < delays[2] < 80


def test_merging_many_devices_buys_the_power_back(reference):
    schema, baseline = reference
    rng = np.random.default_rng(5)
    plan = plan_release(schema, 0.01)
    generator = random.Random(5)

    def windows_to_alarm(devices):
        detector = watching(schema, baseline)
        for number in range(1, 60):
            merged = None
            for _ in range(devices):
                window, _ = next(windows(schema, independent(rng, ROWS, 3) + 0.2, ROWS))
                window = release(window, schema, baseline, plan, generator)
                merged = window if merged is None else merged.merge(window)
            if detector.step(merged):
                return number
        return 60

    assert windows_to_alarm(16) <= 6 < windows_to_alarm(1)


def test_slack_silences_exactly_the_changes_it_allows(reference):
    schema, baseline = reference
    rng = np.random.default_rng(6)
    said = {}
    for slack in (0.0, 0.25):
        for shift in (0.2, 0.6):
            detector = watching(schema, baseline, 1e6)
            told = []
            for window, _ in windows(schema, independent(rng, 40 * ROWS, 3) + shift, ROWS):
                sums = detector.reference.sums(window, None)
                told += detector.step_sums(sums, slack=np.full(3, slack))
            said[slack, shift] = bool(told)
    assert said == {(0.0, 0.2): True, (0.0, 0.6): True, (0.25, 0.2): False, (0.25, 0.6): True}
