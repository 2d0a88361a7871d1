"""The smaller tables of the drift benchmark: class shares, joint alarms, delayed labels, names of faults."""

import numpy as np
import pytest
from benchmarks.drift import class_prior, faults, joint, labels, product


def test_class_shares_from_counts_hold_their_intervals_and_are_near_those_from_every_score():
    found = class_prior.estimators(3, 1_000, 500, 1, trials=20)
    assert found.held > 0.9
    assert found.scores < found.counts < 2.0 * found.scores
    sharp = class_prior.estimators(3, 3_000, 1_000, 3, trials=20)
    assert sharp.counts < sharp.scores  # overconfident scores mislead, counts do not read them


def test_a_quiet_device_whose_streams_hang_together_is_counted_by_budget():
    found = joint.quiet(1, "iid", 0, 1)
    assert found.watched
    assert list(found.joint) == list(found.every) == list(product.BUDGETS)
    assert all(found.joint[b] <= found.every[b] for b in product.BUDGETS)


@pytest.mark.parametrize("words", labels.SOURCES)
def test_every_kind_of_errors_has_the_rate_that_it_is_asked_for(words):
    rng = np.random.default_rng(1)
    drawn = np.concatenate([labels.SOURCES[words](rng, 20_000, 0.1) for _ in range(5)])
    assert drawn.mean() == pytest.approx(0.1, abs=0.025)


def test_every_fault_has_the_name_that_is_expected_of_it():
    assert set(faults.EXPECTED) == set(faults.FAULTS)
    named = faults.confusion(0.5, 1, 1, ("stuck", "clipped at +0.7 sd"))
    assert sum(named["stuck"].values()) == 1
    assert named["clipped at +0.7 sd"]["saturated"] == 1
