"""A shuffled reference looks independent until live rows, in order, say otherwise."""

import numpy as np
import pytest

from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from simulated_streams import alarms, autoregressive, categories, independent, numeric_schema

THRESHOLD = np.log(1e6)


def doubts(reference, live, rows=20, schema=None):
    schema = schema or numeric_schema(reference)
    detector = DriftDetector(Calibration.fit(schema, reference), THRESHOLD)
    alarms(detector, schema, live, rows)
    return detector.doubts()


@pytest.mark.parametrize(("rho", "rows"), [(0.9, 20), (0.9, 500), (0.5, 20)])
def test_a_shuffled_reference_is_noticed_on_the_device(rho, rows):
    rng = np.random.default_rng(0)
    reference = rng.permutation(autoregressive(rng, 5_000, 3, rho))
    said = doubts(reference, autoregressive(rng, 4_000, 3, rho), rows)
    assert [sentence.split(":")[0] for sentence in said] == ["x0", "x1", "x2"]
    assert "time order" in said[0]


def test_nothing_is_said_of_a_reference_in_time_order():
    rng = np.random.default_rng(0)
    assert doubts(autoregressive(rng, 5_000, 3), autoregressive(rng, 8_000, 3)) == ()
    assert doubts(independent(rng, 5_000, 3), independent(rng, 8_000, 3)) == ()


@pytest.mark.parametrize("change", [lambda x: x + 3.0, lambda x: 3.0 * x, lambda x: np.round(2 * x) / 2])
def test_drift_is_not_taken_for_a_shuffled_reference(change):
    rng = np.random.default_rng(0)
    live = independent(rng, 8_000, 2)
    live[3_000:, 0] = change(live[3_000:, 0])
    assert doubts(independent(rng, 5_000, 2), live) == ()


def test_a_few_rows_say_nothing_yet():
    rng = np.random.default_rng(0)
    reference = rng.permutation(autoregressive(rng, 5_000))
    assert doubts(reference, autoregressive(rng, 600)) == ()
    assert doubts(reference, np.zeros((0, 1))) == ()


def test_categories_have_no_such_order():
    rng = np.random.default_rng(0)
    from driftpost_sketches.fitting import fit_categorical
    from driftpost_sketches.schema import Role, Schema

    reference = categories(rng, 2_000, [0.5, 0.3, 0.2])[:, None]
    schema = Schema([fit_categorical("class", reference[:, 0], Role.OUTPUT)])
    assert doubts(reference, np.sort(reference, axis=0), schema=schema) == ()
