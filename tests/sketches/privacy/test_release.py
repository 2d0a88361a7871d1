import math
import random

import numpy as np
import pytest

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.effect import effect_of
from driftpost_sketches.errors import IncompatibleSketch
from driftpost_sketches.privacy.release import PrivacyError, bin_values, plan_release, release
from driftpost_sketches.schema import StreamKind
from driftpost_sketches.window import FIXED_POINT, NOISE_STEPS, Window
from simulated_streams import independent, mixed_schema, numeric_schema


@pytest.fixture(scope="module")
def reference():
    values = independent(np.random.default_rng(0), 20_000, 3)
    schema = numeric_schema(values)
    return schema, Calibration.fit(schema, values).baseline


def window_of(schema, values, codes=None):
    accumulator = WindowAccumulator(schema)
    accumulator.update(values, codes)
    return accumulator.take()[0]


def test_the_noise_pays_for_all_streams_together(reference):
    schema, _ = reference
    assert plan_release(schema, 0.5).variance == 3 * NOISE_STEPS
    assert plan_release(schema, 0.5, rows_per_subject=10).variance == 300 * NOISE_STEPS


def test_noise_on_every_count_is_independent_and_of_the_planned_variance(reference):
    schema, baseline = reference
    window = window_of(schema, independent(np.random.default_rng(1), 500, 3))
    plan = plan_release(schema, 0.01)
    generator = random.Random(1)
    noisy = [release(window, schema, baseline, plan, generator) for _ in range(200)]
    off = np.array([np.concatenate([w.counts - window.counts, w.missing, w.nonfinite]) for w in noisy])
    spread = plan.variance / NOISE_STEPS
    assert off.var() == pytest.approx(spread, rel=0.05)
    assert abs(off.mean()) < 4 * math.sqrt(spread / off.size)
    correlation = np.corrcoef(off.T) - np.eye(off.shape[1])
    assert np.abs(correlation).max() < 5 / math.sqrt(len(off))
    assert all(w.noise == plan.variance and w.rows == 500 and w.parts == 1 for w in noisy)


def test_a_released_window_survives_the_wire_and_the_schema_s_check(reference):
    schema, baseline = reference
    window = window_of(schema, independent(np.random.default_rng(2), 50, 3))
    noisy = release(window, schema, baseline, plan_release(schema, 0.001), random.Random(2))
    again = Window.from_bytes(noisy.to_bytes())
    again.check(schema)
    assert again == noisy
    assert (noisy.counts < 0).any()
    both = noisy.merge(noisy).merge(window)
    assert both.noise == 2 * noisy.noise
    assert Window.from_bytes(both.to_bytes()) == both


def test_extremes_codes_and_unwatched_streams_stay_at_home():
    schema, values, codes = mixed_schema(np.random.default_rng(0))
    baseline = Calibration.fit(schema, values, codes=codes).baseline
    window = window_of(schema, values, codes)
    noisy = release(window, schema, baseline, plan_release(schema, 1.0), random.Random(3))
    watched = set(schema.tracked_streams.tolist())
    for i, stream in enumerate(schema.streams):
        counts = noisy.counts[schema.offsets[i] : schema.offsets[i + 1]]
        assert bool(counts.any()) == (i in watched), stream.name
        assert stream.kind is not StreamKind.CODES or i not in watched
    assert np.isposinf(noisy.low).all()
    assert np.isneginf(noisy.high).all()
    assert noisy.joint_rows == 0 == noisy.joint.size


def test_moments_follow_from_the_noised_counts_alone(reference):
    schema, baseline = reference
    values = independent(np.random.default_rng(4), 400, 3)
    other = values.copy()
    other[np.abs(values) > 2.5] *= 1.5  # within the outermost bins, so the histogram can not tell
    first, second = window_of(schema, values), window_of(schema, other)
    assert (first.sum1 != second.sum1).any()
    assert np.array_equal(first.counts, second.counts)
    plan = plan_release(schema, 0.1)
    one, two = (release(w, schema, baseline, plan, random.Random(5)) for w in (first, second))
    assert one == two


def test_typical_values_give_the_reference_its_own_moments(reference):
    schema, baseline = reference
    typical = bin_values(schema, baseline)
    for i in range(3):
        part = slice(schema.offsets[i], schema.offsets[i + 1])
        counts = baseline.counts[part]
        assert counts @ typical[part] == pytest.approx(baseline.sum1[i], abs=float(counts.sum()))
        assert counts @ typical[part] ** 2 == pytest.approx(baseline.sum2[i], rel=1e-3)
        assert (np.diff(typical[part]) > 0).all()
        assert np.abs(typical[part]).max() <= 16 * FIXED_POINT


@pytest.mark.parametrize("shift", [0.0, 0.3, -1.0])
def test_an_effect_can_be_read_off_released_counts(reference, shift):
    schema, baseline = reference
    values = independent(np.random.default_rng(6), 40_000, 3) + shift
    noisy = release(
        window_of(schema, values), schema, baseline, plan_release(schema, 0.002), random.Random(6)
    )
    effect = effect_of(schema, baseline, noisy, 1)
    assert effect.sd_shift == pytest.approx(shift, abs=0.08 + 0.05 * abs(shift))


def test_a_window_is_not_noised_twice(reference):
    schema, baseline = reference
    window = window_of(schema, independent(np.random.default_rng(7), 50, 3))
    plan = plan_release(schema, 1.0)
    noisy = release(window, schema, baseline, plan, random.Random(7))
    with pytest.raises(PrivacyError, match="released before"):
        release(noisy, schema, baseline, plan, random.Random(7))


def test_another_schema_s_window_is_refused(reference):
    schema, baseline = reference
    values = independent(np.random.default_rng(8), 500, 2)
    other = numeric_schema(values)
    with pytest.raises(IncompatibleSketch):
        release(window_of(other, values), schema, baseline, plan_release(schema, 1.0), random.Random(8))


@pytest.mark.parametrize(
    ("rho", "rows", "words"), [(0.0, 1, "positive"), (1.0, 0, "one row"), (1e-12, 1, "larger epsilon")]
)
def test_a_plan_that_leaves_nothing_is_refused(reference, rho, rows, words):
    with pytest.raises(PrivacyError, match=words):
        plan_release(reference[0], rho, rows)
