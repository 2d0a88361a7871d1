"""What a labelled reference teaches, and its bytes."""

import zlib

import numpy as np
import pytest

import class_worlds as worlds
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.labels.record import PerformanceRecord

SCHEMA, RECORD, BASELINE = worlds.learnt(np.random.default_rng(0), 1500)


def test_the_record_counts_what_was_answered():
    truth, values = worlds.rows(np.random.default_rng(0), 1500)
    assert RECORD.accuracy == pytest.approx((values[:, -2] == truth).mean())
    assert np.array_equal(RECORD.labels.confusion.sum(axis=1), np.bincount(truth, minlength=6))
    assert RECORD.bins[0].sum() == 1500
    assert RECORD.bins[1].sum() == RECORD.right.sum() == (values[:, -2] == truth).sum()
    assert np.array_equal(RECORD.by_class.sum(axis=2), np.tile(np.bincount(truth, minlength=7), (10, 1)))
    assert (values[:, -1] < RECORD.threshold).sum() == (values[:, -2] != truth).sum()


def test_it_round_trips_and_fits_its_schema():
    again = PerformanceRecord.from_bytes(RECORD.to_bytes())
    again.check(SCHEMA)
    assert again.to_bytes() == RECORD.to_bytes()
    assert len(RECORD.to_bytes()) < 4000


def test_a_short_form_keeps_answers_and_confidences():
    short = RECORD.short(SCHEMA)
    short.check(SCHEMA)
    assert not short.complete
    assert short.by_class[:8].sum() == 0
    assert np.array_equal(short.by_class[8:], RECORD.by_class[8:])
    assert len(short.to_bytes()) < len(RECORD.to_bytes())


def test_a_record_of_other_streams_is_refused():
    other = worlds.schema_of(worlds.rows(np.random.default_rng(9), 300)[1])
    RECORD.check(other)  # the same streams with other bins
    broken = PerformanceRecord(**{**RECORD.__dict__, "answers": "colour"})
    with pytest.raises(MalformedSketch, match="not in the schema"):
        broken.check(SCHEMA)
    broken = PerformanceRecord(**{**RECORD.__dict__, "by_class": RECORD.by_class[:4]})
    with pytest.raises(MalformedSketch, match="class histograms"):
        broken.check(SCHEMA)


def test_counts_that_contradict_each_other_are_refused():
    bins = RECORD.bins.copy()
    bins[1] = bins[0] + 1
    broken = PerformanceRecord(**{**RECORD.__dict__, "bins": bins})
    with pytest.raises(MalformedSketch, match="contradict"):
        PerformanceRecord.from_bytes(broken.to_bytes())
    data = RECORD.to_bytes()
    with pytest.raises(MalformedSketch):
        PerformanceRecord.from_bytes(data[:4] + zlib.compress(zlib.decompress(data[4:])[:-3]))


@pytest.mark.parametrize("field", ["calibrated_error", "threshold_above"])
@pytest.mark.parametrize("value", [1e200, float("nan"), -0.5])
def test_shares_and_errors_that_are_none_are_refused(field, value):
    broken = PerformanceRecord(**{**RECORD.__dict__, field: value})
    with pytest.raises(MalformedSketch, match=r"at most 1|out of range"):
        PerformanceRecord.from_bytes(broken.to_bytes())


def test_a_set_that_was_repeated_counts_once():
    truth, values = worlds.rows(np.random.default_rng(1), 300)
    order = np.random.default_rng(2).integers(300, size=3_000)
    record = PerformanceRecord.fit(SCHEMA, values[order], truth[order], answers="class", classes=6)
    assert record.labels.rows == 3_000
    assert record.labels.rows / record.independent <= 300


def test_rows_without_label_or_answer_are_left_out():
    truth, values = worlds.rows(np.random.default_rng(1), 600)
    truth[:100] = -1
    values[100:150, -2] = np.nan
    record = PerformanceRecord.fit(SCHEMA, values, truth, answers="class", confidence="confidence", classes=6)
    assert record.labels.rows == 450
    truth[:] = -1
    assert PerformanceRecord.fit(SCHEMA, values, truth, answers="class", classes=6) is None


def test_a_label_that_is_no_class_is_refused():
    truth, values = worlds.rows(np.random.default_rng(1), 300)
    truth[7] = 6
    with pytest.raises(MalformedSketch, match="6 classes"):
        PerformanceRecord.fit(SCHEMA, values, truth, answers="class", classes=6)


def test_small_counts_and_answers_too_good_to_be_true_are_noted():
    truth, values = worlds.rows(np.random.default_rng(2), 90)
    record = PerformanceRecord.fit(SCHEMA, values, truth, answers="class", classes=6, names=worlds.NAMES)
    assert any("90 labelled rows" in note for note in record.notes)
    assert any("fewer than 20 labelled rows of" in note for note in record.notes)
    truth, values = worlds.rows(np.random.default_rng(2), 900)
    values[:, -2] = truth
    record = PerformanceRecord.fit(SCHEMA, values, truth, answers="class", classes=6)
    assert any("trained on these rows" in note for note in record.notes)


def test_estimates_that_miss_stretches_of_the_reference_know_it():
    rng = np.random.default_rng(3)
    truth, values = worlds.rows(rng, 2000)
    # A quarter of the reference is answered worse at the same confidence: no calibration foresees it.
    spoilt = np.arange(2000) >= 1500
    truth = np.where(spoilt & (rng.random(2000) < 0.4), (truth + 1) % 6, truth)
    record = PerformanceRecord.fit(SCHEMA, values, truth, answers="class", confidence="confidence", classes=6)
    assert record.calibrated_error > 0.05 > RECORD.calibrated_error
