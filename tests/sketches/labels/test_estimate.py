"""Accuracy without labels: right while the assumption holds, and doubted where it does not."""

import numpy as np
import pytest

import class_worlds as worlds
from driftpost_sketches.labels.estimate import estimate_accuracy


def estimated(rng, live, labelled=1000, drifting=(), **change):
    schema, record, baseline = worlds.learnt(rng, labelled)
    truth, values = worlds.rows(rng, live, **change)
    window = worlds.sketch(schema, values)
    reader = record.class_mix(schema, np.ones(len(schema.tracked_streams)))
    reading = reader.read(reader.cells_of_window(window))
    found = estimate_accuracy(record, schema, baseline, window, drifting=drifting, mix=reading)
    return found, float((values[:, -2] == truth).mean())


@pytest.mark.parametrize(("labelled", "live"), [(500, 300), (1000, 1000), (3000, 3000)])
@pytest.mark.parametrize("mix", [worlds.EVEN, np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])])
def test_intervals_hold_the_accuracy_while_classes_look_as_they_did(labelled, live, mix):
    rng = np.random.default_rng(1)
    found = [estimated(rng, live, labelled, mix=mix) for _ in range(40)]
    for low, high in (("low", "high"), ("threshold_low", "threshold_high")):
        held = sum(getattr(one, low) <= true <= getattr(one, high) for one, true in found)
        assert held >= 34  # 38 are expected; a run in ten thousand has fewer than 34
    assert abs(np.mean([one.accuracy - true for one, true in found])) < 0.02


def test_inputs_beyond_the_reference_are_named_and_widen_the_interval():
    rng = np.random.default_rng(2)
    usual, _ = estimated(rng, 1000)
    found, true = estimated(rng, 1000, shift=4.0)
    assert usual.trusted
    assert not found.trusted
    assert "x0" in found.doubts[0]
    assert found.outside > 0.5
    assert found.low <= true <= found.high
    assert found.high - found.low > 0.5
    assert "not to be relied on" in found.text


def test_a_standing_drift_of_inputs_is_a_doubt():
    found, _ = estimated(np.random.default_rng(3), 1000, drifting=("x3",))
    assert any("x3" in doubt for doubt in found.doubts)


def test_confidences_that_fell_tell_of_lost_accuracy():
    rng = np.random.default_rng(4)
    found, true = estimated(rng, 3000, mix=np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]))
    assert found.accuracy == pytest.approx(true, abs=0.05)
    assert found.loss == pytest.approx(found.reference - min(found.accuracy, found.threshold_accuracy))


def test_no_answers_and_no_confidences_give_no_estimate():
    schema, record, baseline = worlds.learnt(np.random.default_rng(5), 500)
    empty = worlds.sketch(schema, np.full((10, 10), np.nan))
    assert estimate_accuracy(record, schema, baseline, empty) is None
    bare = type(record)(**{**record.__dict__, "confidence": ""})
    assert estimate_accuracy(bare, schema, baseline, baseline) is None
