"""Class shares from predicted counts: intervals that hold, and silence where nothing can be said."""

import numpy as np
import pytest

from driftpost_sketches.labels.class_shares import class_shares


def answers(rng, matrix, mix, n):
    return sum(rng.multinomial(k, row) for k, row in zip(rng.multinomial(n, mix), matrix, strict=True))


def reference(rng, matrix, n):
    even = np.full(len(matrix), 1 / len(matrix))
    counts = rng.multinomial(n, even)
    return np.array([rng.multinomial(k, row) for k, row in zip(counts, matrix, strict=True)])


def confusing(rng, classes, accuracy):
    return rng.dirichlet(np.ones(classes), size=classes) * (1 - accuracy) + np.eye(classes) * accuracy


@pytest.mark.parametrize(
    ("classes", "accuracy", "labelled", "live"),
    [(3, 0.8, 600, 500), (10, 0.86, 1000, 1000), (12, 0.9, 500, 500)],
)
def test_intervals_hold_the_true_shares_with_the_references_own_error(classes, accuracy, labelled, live):
    rng = np.random.default_rng(1)
    held = []
    for _ in range(120):
        matrix, mix = confusing(rng, classes, accuracy), rng.dirichlet(np.full(classes, 2.0))
        found = class_shares(reference(rng, matrix, labelled), answers(rng, matrix, mix, live))
        assert found.problem == ""
        assert found.possible
        held.append(((found.low <= mix) & (mix <= found.high)).mean())
    assert np.mean(held) > 0.92


def test_an_unchanged_mix_is_seldom_significant():
    rng = np.random.default_rng(2)
    even = np.full(10, 0.1)
    matrix = confusing(rng, 10, 0.86)
    found = [
        class_shares(reference(rng, matrix, 1000), answers(rng, matrix, even, 1000)).significance
        for _ in range(200)
    ]
    assert sum(one > 3.5 for one in found) <= 5


def test_dependence_between_rows_widens_the_intervals():
    rng = np.random.default_rng(3)
    matrix = confusing(rng, 4, 0.8)
    counts, live = reference(rng, matrix, 1000), answers(rng, matrix, np.full(4, 0.25), 1000)
    alone, clustered = class_shares(counts, live), class_shares(counts, live, independent=10.0)
    assert ((clustered.high - clustered.low) > (alone.high - alone.low)).all()


def test_classes_that_the_model_does_not_tell_apart_are_named_instead_of_guessed():
    confusion = np.array([[50, 50, 0], [50, 50, 0], [0, 5, 95]])
    found = class_shares(confusion, np.array([300, 300, 400]), names=("cat", "dog", "bird"))
    assert np.isnan(found.shares).all()
    assert "'cat' from 'dog'" in found.problem
    nearly = class_shares(
        confusion + np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]]), np.array([3000, 3000, 4000])
    )
    assert "do not tell" in nearly.problem


def test_answers_that_no_mix_explains_are_called_impossible():
    confusion = np.array([[900, 100], [100, 900]])
    found = class_shares(confusion, np.array([1000, 0]))
    assert not found.possible


def test_a_class_without_labelled_rows_is_left_out_or_named():
    confusion = np.array([[90, 10, 0], [10, 90, 0], [0, 0, 2]])
    assert class_shares(confusion, np.array([60, 40, 0])).shares[2] == 0.0
    assert "fewer than" in class_shares(confusion, np.array([40, 40, 20])).problem


@pytest.mark.parametrize("live", [np.zeros(2), np.array([1, 0])])
def test_too_few_answers_say_nothing(live):
    assert class_shares(np.array([[90, 10], [10, 90]]), live).problem


def test_answers_of_no_class_count_against_every_mix():
    confusion = np.array([[90, 10, 0], [10, 90, 0]])
    assert not class_shares(confusion, np.array([400, 400, 400])).possible
