"""Label shift is told from covariate shift by whether the streams follow from the mix."""

from collections import Counter

import numpy as np
import pytest

import class_worlds as worlds
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.labels.class_mix import ClassMix
from simulated_streams import windows

STEEP = np.array([0.45, 0.25, 0.1, 0.1, 0.05, 0.05])


def read(rng, live, mix, labelled=3000, **change):
    schema, record, _ = worlds.learnt(rng, labelled)
    reader = record.class_mix(schema, np.ones(len(schema.tracked_streams)))
    _, values = worlds.rows(rng, live, mix, **change)
    return reader.read(reader.cells_of_window(worlds.sketch(schema, values)))


@pytest.mark.parametrize(("labelled", "live"), [(500, 1000), (3000, 500), (3000, 5000)])
def test_another_mix_is_called_label_shift_with_its_shares(labelled, live):
    rng = np.random.default_rng(1)
    found = [read(rng, live, STEEP, labelled) for _ in range(12)]
    assert Counter(one.verdict for one in found)["label_shift"] >= 11
    inside = [(one.shares.low[:6] <= STEEP) & (one.shares.high[:6] >= STEEP) for one in found]
    assert np.mean(inside) > 0.85


@pytest.mark.parametrize("change", [{"shift": 0.8}, {"scale": 1.4}])
def test_other_inputs_are_not_called_label_shift(change):
    rng = np.random.default_rng(2)
    found = Counter(read(rng, 2000, worlds.EVEN, **change).verdict for _ in range(12))
    assert found["label_shift"] == 0


def test_another_mix_of_other_inputs_is_covariate_shift():
    rng = np.random.default_rng(3)
    found = Counter(read(rng, 2000, STEEP, shift=0.8).verdict for _ in range(12))
    assert found["label_shift"] <= 1
    assert found["covariate"] >= 10


def test_nothing_changed_is_the_same_mix():
    rng = np.random.default_rng(4)
    found = Counter(read(rng, 2000, worlds.EVEN).verdict for _ in range(20))
    assert found["same"] >= 19


@pytest.mark.parametrize(
    ("change", "kinds"), [({"mix": STEEP}, {"label_shift"}), ({"shift": 0.8}, {"shift"})]
)
def test_a_detector_names_its_alarm_by_the_mix(change, kinds):
    rng = np.random.default_rng(5)
    truth, values = worlds.rows(rng, 6000)
    schema = worlds.schema_of(values)
    calibration = Calibration.fit(schema, values, smallest_effect=0.1)
    from driftpost_sketches.labels.record import PerformanceRecord

    record = PerformanceRecord.fit(
        schema, values, truth, answers="class", confidence="confidence", classes=6, names=worlds.NAMES
    )
    reader = record.class_mix(schema, np.ones(len(schema.tracked_streams)))
    found = set()
    for _ in range(3):
        detector = DriftDetector(calibration, 11.5)
        detector.name_changes(reader.interpret)
        _, before = worlds.rows(rng, 1000)
        _, after = worlds.rows(rng, 2000, **change)
        for window, transitions in windows(schema, np.concatenate([before, after]), 100):
            found |= {
                alarm.kind for alarm in detector.step(transitions, window)[:1] if alarm.state == "raised"
            }
            if detector.standing:
                alarm = detector.standing[0]
                break
    assert found == kinds
    if "label_shift" in kinds:
        assert alarm.unit == "share"
        assert "their mix changed: 'a' in" in alarm.text


def test_histograms_of_another_schema_are_refused():
    schema, record, _ = worlds.learnt(np.random.default_rng(6), 500)
    with pytest.raises(MalformedSketch):
        ClassMix(schema, record.by_class[:3], "class", np.ones(3))
