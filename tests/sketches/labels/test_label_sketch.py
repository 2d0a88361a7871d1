"""Label sketches merge exactly and tell what came of the labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.labels.label_sketch import LabelSketch

rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(0, 1)), max_size=40)


def sketch(some):
    return LabelSketch.of_classes(
        4,
        np.array([a for a, _, _ in some], dtype=np.int64),
        np.array([b for _, b, _ in some], dtype=np.int64),
        np.array([c for _, _, c in some], dtype=np.float64),
    )


@given(rows, rows, rows)
@settings(max_examples=80, deadline=None)
def test_merging_in_any_order_and_grouping_gives_the_same(a, b, c):
    one = sketch(a).merge(sketch(b)).merge(sketch(c))
    assert one == sketch(c).merge(sketch(b).merge(sketch(a)))
    assert one.merge(LabelSketch.empty(4)) == one
    whole = sketch(a + b + c)
    assert (one.rows, one.loss, one.squares) == (whole.rows, whole.loss, whole.squares)
    assert one.reliability == whole.reliability
    assert np.array_equal(one.confusion, whole.confusion)


@given(rows)
@settings(max_examples=80, deadline=None)
def test_a_sketch_round_trips_through_bytes(some):
    assert LabelSketch.from_bytes(sketch(some).to_bytes()) == sketch(some)


@given(st.lists(st.floats(0, 1), max_size=50))
@settings(max_examples=60, deadline=None)
def test_graded_losses_round_trip_and_keep_their_mean(losses):
    found = LabelSketch.of_losses(np.array(losses, dtype=np.float64))
    assert LabelSketch.from_bytes(found.to_bytes()) == found
    if losses:
        assert found.error_rate == pytest.approx(np.mean(losses), abs=1e-3)


def test_errors_are_counted_by_answer_and_by_label():
    found = sketch([(0, 0, 0.9), (0, 1, 0.8), (2, 1, 0.7), (1, 1, 0.6)])
    assert found.error_rate == 0.5
    assert [part.tolist() for part in found.by_answer()] == [[2, 1, 1, 0], [1, 0, 1, 0]]
    assert [part.tolist() for part in found.by_label()] == [[1, 3, 0, 0], [0, 2, 0, 0]]
    assert found.moves.tolist() == [[0, 1], [1, 1]]


def test_a_thousand_classes_are_counted_without_a_confusion_matrix():
    found = LabelSketch.of_classes(1000, np.array([999, 3]), np.array([999, 4]))
    assert found.classes == 0
    assert found.error_rate == 0.5
    assert LabelSketch.from_bytes(found.to_bytes()) == found


@pytest.mark.parametrize(("answers", "labels"), [([4], [0]), ([0], [4]), ([-1], [0]), ([0, 1], [0])])
def test_classes_that_do_not_exist_are_refused(answers, labels):
    with pytest.raises(MalformedSketch):
        LabelSketch.of_classes(4, np.array(answers), np.array(labels))


@pytest.mark.parametrize("loss", [-0.1, 1.1, np.nan, np.inf])
def test_losses_outside_their_range_are_refused(loss):
    with pytest.raises(MalformedSketch, match="0 to 1"):
        LabelSketch.of_losses(np.array([0.5, loss]))


def test_sketches_of_other_classes_do_not_merge():
    with pytest.raises(MalformedSketch, match="can not merge"):
        LabelSketch.empty(4).merge(LabelSketch.empty(5))


def test_ten_classes_of_ten_thousand_rows_stay_below_a_kilobyte():
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 10, 10_000)
    labels = np.where(rng.random(10_000) < 0.9, answers, rng.integers(0, 10, 10_000))
    assert len(LabelSketch.of_classes(10, answers, labels, rng.random(10_000)).to_bytes()) < 1024
