"""Which devices stand apart from a population that differs by nature, and which are only different."""

import math

import numpy as np
import pytest

from driftpost_sketches.drift.apart import (
    MIN_POPULATION,
    log_e_against,
    log_e_apart,
    log_e_either,
    log_e_moved,
)
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.ebh import e_bh
from driftpost_sketches.drift.marginal import MarginalDetector
from simulated_streams import independent, numeric_schema, windows

ROWS, STREAMS = 200, 2


@pytest.fixture(scope="module")
def detector():
    values = independent(np.random.default_rng(0), 50_000, STREAMS)
    schema = numeric_schema(values)
    return MarginalDetector(schema, Calibration.fit(schema, values).baseline, {}, {}, 0.02, math.log(1e5))


def placed(detector, rng, offsets, rows=ROWS, spread=None):
    parts = []
    for number, offset in enumerate(offsets):
        values = independent(rng, rows, STREAMS)
        if spread is not None:
            values = values * spread[number]
        window = next(windows(detector.reference.schema, values + offset, rows))[0]
        parts.append(detector.read(window))
    sums, counts, noise = (np.array(column) for column in zip(*parts, strict=True))
    return detector.place(detector.project(sums), counts, noise)


def test_evidence_of_healthy_devices_is_an_e_value(detector):
    rng = np.random.default_rng(1)
    values = np.concatenate([np.exp(log_e_apart(placed(detector, rng, np.zeros(40)))[0]) for _ in range(25)])
    assert values.mean() < 1.0
    assert np.log(values).max() < math.log(len(values) / 0.05)


@pytest.mark.parametrize("nature", [0.1, 0.4])
def test_devices_that_differ_by_nature_are_not_named(detector, nature):
    rng = np.random.default_rng(2)
    log_e = log_e_apart(placed(detector, rng, rng.normal(0, nature, 300)))[0]
    assert e_bh(dict(enumerate(log_e))) == []


@pytest.mark.parametrize("nature", [0.0, 0.1])
@pytest.mark.parametrize("shift", [-1.2, 1.2, 4.0])
def test_a_fault_beyond_the_devices_nature_is_named(detector, nature, shift):
    rng = np.random.default_rng(3)
    offsets = rng.normal(0, nature, 300)
    offsets[17] += shift
    log_e, streams = log_e_apart(placed(detector, rng, offsets))
    assert e_bh(dict(enumerate(log_e))) == [17]
    assert (streams[17] > 5).all()


def test_a_device_that_is_noisier_than_the_others_stands_apart(detector):
    rng = np.random.default_rng(4)
    spread = np.ones(100)
    spread[5] = 2.0
    assert e_bh(dict(enumerate(log_e_apart(placed(detector, rng, np.zeros(100), spread=spread))[0]))) == [5]


def test_where_the_fleet_has_moved_it_is_the_others_that_count(detector):
    rng = np.random.default_rng(5)
    offsets = np.full(50, -1.0)
    offsets[3] = 0.0
    where = placed(detector, rng, offsets)
    assert e_bh(dict(enumerate(log_e_apart(where)[0]))) == [3]
    assert log_e_against(where)[3] < 0 < log_e_against(where)[4]


def test_a_handful_of_devices_names_nobody(detector):
    rng = np.random.default_rng(6)
    offsets = np.zeros(MIN_POPULATION - 1)
    offsets[0] = 5.0
    assert (log_e_apart(placed(detector, rng, offsets))[0] == 0.0).all()


def test_a_device_that_says_nothing_has_no_evidence(detector):
    rng = np.random.default_rng(7)
    parts = [
        detector.read(next(windows(detector.reference.schema, independent(rng, ROWS, STREAMS), ROWS))[0])
        for _ in range(20)
    ]
    sums, counts, noise = (np.array(column) for column in zip(*parts, strict=True))
    counts[4] = 0.0
    where = detector.place(detector.project(sums), counts, noise)
    assert log_e_apart(where)[0][4] == 0.0
    assert log_e_against(where)[4] == 0.0


def test_a_move_is_believed_by_its_standard_errors_and_one_of_two_reasons_is_enough():
    assert log_e_moved(0.1, 0.01) < 0 < log_e_moved(0.6, 0.01)
    assert log_e_either(30.0, -2.0) == pytest.approx(30.0 - math.log(2.0))
