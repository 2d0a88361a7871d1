"""Delayed labels: alarms when answers became worse, within the budget when they did not."""

import math

import numpy as np
import pytest

from driftpost_sketches.errors import IncompatibleSketch, MalformedSketch
from driftpost_sketches.labels.concept import ConceptDetector
from driftpost_sketches.labels.dependence import Dependence, independent_rows
from driftpost_sketches.labels.label_sketch import LabelSketch

YEAR = math.log(105_000)  # five-minute windows of a year
BATCH = 50


def clustered(rng, n, rate, lag):
    """Errors of a two-state chain with this correlation of neighbours: bool[n]."""
    begin, end = rate * (1 - lag), (1 - rate) * (1 - lag)
    chance = rng.random(n)
    found = np.empty(n, dtype=bool)
    state = bool(rng.random() < rate)
    for i in range(n):
        state = bool(chance[i] >= end) if state else bool(chance[i] < begin)
        found[i] = state
    return found


def losses(errors):
    return LabelSketch.of_losses(errors.astype(np.float64))


def detector(reference, threshold=YEAR, effect=0.1):
    independent = independent_rows(reference.astype(np.float64))
    return ConceptDetector(losses(reference), independent, threshold, effect)


def alarms(watch, errors, batch=BATCH):
    said = []
    for begin in range(0, len(errors) - batch + 1, batch):
        said += [(begin + batch, alarm) for alarm in watch.step(losses(errors[begin : begin + batch]))]
    return said


@pytest.mark.parametrize(("lag", "shuffled"), [(0.0, False), (0.5, False), (0.9, False), (0.5, True)])
def test_false_alarms_stay_within_the_budget_also_where_errors_cluster(lag, shuffled):
    rng = np.random.default_rng(3)
    runs, steps, raised = 40, 200, 0
    for _ in range(runs):
        reference = clustered(rng, 5000, 0.1, lag)
        if shuffled:
            rng.shuffle(reference)
        watch = detector(reference, math.log(steps))
        raised += sum(
            alarm.state == "raised" for _, alarm in alarms(watch, clustered(rng, steps * BATCH, 0.1, lag))
        )
    # One a run is the promise; more than 60 in 40 would contradict it.
    assert raised <= runs // 4


@pytest.mark.parametrize(("rate", "rows"), [(0.2, 4000), (0.4, 300), (0.9, 100)])
def test_a_model_that_became_worse_is_found(rate, rows):
    rng = np.random.default_rng(4)
    delays = []
    for _ in range(9):
        watch = detector(rng.random(10_000) < 0.1)
        before = alarms(watch, rng.random(2000) < 0.1)
        assert not before
        after = alarms(watch, rng.random(8000) < rate)
        delays.append(after[0][0] if after else math.inf)
        alarm = after[0][1]
        assert (alarm.kind, alarm.direction, alarm.unit) == ("concept", "up", "share")
        assert alarm.effect_natural == pytest.approx(rate - 0.1, abs=0.1)
        assert len(after) == 1
    assert np.median(delays) <= rows


def test_an_alarm_is_cleared_by_evidence_and_not_before():
    rng = np.random.default_rng(5)
    watch = detector(rng.random(10_000) < 0.1)
    assert [a.state for _, a in alarms(watch, rng.random(2000) < 0.5)] == ["raised"]
    assert watch.standing
    assert [a.state for _, a in alarms(watch, rng.random(3000) < 0.1)] == ["cleared"]
    assert not watch.standing
    assert [a.state for _, a in alarms(watch, rng.random(2000) < 0.5)] == ["raised"]


def test_errors_that_cluster_behind_a_shuffled_reference_stay_within_the_budget():
    """Cut from an AR(1) of 0.98: batches differ by far more than independent errors would."""
    raised = 0
    for run in range(8):
        rng = np.random.default_rng([17, run])
        noise = rng.normal(size=30_000) * math.sqrt(1 - 0.98**2)
        level, errors = 0.0, np.empty(30_000, dtype=bool)
        for i, step in enumerate(noise):
            level = 0.98 * level + step
            errors[i] = level > 1.2816
        reference = rng.permutation(errors[:20_000])
        watch = detector(reference, math.log(200))
        raised += sum(alarm.state == "raised" for _, alarm in alarms(watch, errors[20_000:]))
    assert raised <= 4  # one a run is allowed; 6 when the reference's order was believed


def test_a_slice_without_a_single_error_is_not_taken_for_one_that_can_not_err():
    """Fifty pictures of a seven, shown 400 times and never missed; of fifty others two are missed."""
    reference = np.zeros(400, dtype=bool)
    month = math.log(10 * 30 * 24 * 720)  # windows of five seconds, and labels have a tenth of the budget
    raised = 0
    for run in range(10):
        rng = np.random.default_rng([18, run])
        raised += len(alarms(detector(reference, month, effect=0.25), rng.random(20_000) < 0.042, batch=20))
    assert raised == 0
    # What is worth knowing is found as before.
    watch = detector(reference, month, effect=0.25)
    assert alarms(watch, np.random.default_rng(1).random(4_000) < 0.2, batch=20)[0][0] < 2_000


def test_a_model_that_became_better_is_told_apart():
    rng = np.random.default_rng(6)
    watch = detector(rng.random(10_000) < 0.4)
    ((_, alarm),) = alarms(watch, rng.random(4000) < 0.1)
    assert alarm.direction == "down"
    assert "better" in alarm.text


def test_one_broken_class_is_named_by_its_answers():
    rng = np.random.default_rng(7)

    def batch(n, broken):
        labels = rng.integers(0, 8, n)
        wrong = rng.random(n) < np.where((labels == 3) & broken, 0.7, 0.05)
        # What is class 3 is answered as 4.
        answers = np.where(wrong, np.where(labels == 3, 4, (labels + 1) % 8), labels)
        return LabelSketch.of_classes(8, answers, labels)

    reference = batch(8000, False)
    watch = ConceptDetector(reference, 1.0, YEAR, 0.1, tuple("abcdefgh"))
    for _ in range(20):
        assert not watch.step(batch(BATCH, False))
    said = [alarm for _ in range(60) for alarm in watch.step(batch(BATCH, True))]
    assert said[0].streams[0][0] == "error_rate:e"
    assert "'e'" in said[0].text


def test_a_short_reference_makes_changes_unseen_rather_than_false_alarms():
    rng = np.random.default_rng(8)
    raised = 0
    for _ in range(60):
        watch = detector(rng.random(60) < 0.1, math.log(100), effect=0.0)
        raised += len(alarms(watch, rng.random(100 * BATCH) < 0.1))
    assert raised <= 6


def test_a_restart_in_mid_stream_changes_nothing():
    rng = np.random.default_rng(9)
    reference = rng.random(5000) < 0.1
    errors = np.concatenate([rng.random(1000) < 0.1, rng.random(1500) < 0.4, rng.random(2000) < 0.1])
    steady, restarted = detector(reference), detector(reference)
    for begin in range(0, len(errors), BATCH):
        part = losses(errors[begin : begin + BATCH])
        assert steady.step(part) == restarted.step(part)
        state = restarted.state_to_bytes()
        assert len(state) < 32_000
        restarted = detector(reference)
        restarted.restore(state)
    assert steady.rate() == restarted.rate()


def test_the_state_of_another_reference_is_refused():
    rng = np.random.default_rng(10)
    state = detector(rng.random(1000) < 0.1).state_to_bytes()
    with pytest.raises(IncompatibleSketch):
        detector(rng.random(1000) < 0.5).restore(state)


def test_labels_of_other_classes_and_references_without_labels_are_refused():
    watch = ConceptDetector(LabelSketch.of_classes(3, np.array([0, 1, 2]), np.array([0, 1, 1])), 1.0, YEAR)
    with pytest.raises(MalformedSketch, match="classes"):
        watch.step(LabelSketch.of_losses(np.zeros(3)))
    with pytest.raises(MalformedSketch, match="without labels"):
        ConceptDetector(LabelSketch.empty(3), 1.0, YEAR)


def test_batches_without_labels_do_not_count():
    watch = detector(np.random.default_rng(11).random(1000) < 0.1)
    before = watch.state_to_bytes()
    assert watch.step(LabelSketch.empty(0)) == []
    assert watch.state_to_bytes() == before


def test_labels_that_trickle_for_ages_never_alarm_by_the_calendar():
    watch = detector(np.zeros(5000, dtype=bool), math.log(1000))
    one = losses(np.zeros(1, dtype=bool))
    assert not any(watch.step(one) for _ in range(5000))


@pytest.mark.parametrize("lag", [0.0, 0.6, 0.9])
def test_how_errors_cluster_is_learnt_from_live_labels_alone(lag):
    rng = np.random.default_rng(12)
    true = (1 + lag) / (1 - lag)
    found = []
    for _ in range(5):
        dependence = Dependence()
        errors = clustered(rng, 20_000, 0.2, lag)
        for begin in range(0, len(errors), 100):
            part = losses(errors[begin : begin + 100])
            dependence.update(part.rows, float(errors[begin : begin + 100].sum()), part.moves)
        found.append(dependence.independent)
    assert 0.8 * true <= np.median(found) <= 1.9 * true


def test_a_lasting_change_is_not_taken_for_clustering():
    rng = np.random.default_rng(13)
    dependence = Dependence()
    errors = np.concatenate([rng.random(10_000) < 0.1, rng.random(10_000) < 0.3])
    for begin in range(0, len(errors), 100):
        part = losses(errors[begin : begin + 100])
        dependence.update(part.rows, float(errors[begin : begin + 100].sum()), part.moves)
    assert dependence.independent < 8
