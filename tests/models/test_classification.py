from __future__ import annotations

import numpy as np
import pytest

from driftpost_models.probes.block import Block
from driftpost_models.probes.classification import Classification
from driftpost_models.runtime import TensorSpec


def _measure(scores: str, raw: np.ndarray, classes=(), **quantization) -> np.ndarray:
    spec = TensorSpec("y", (1, *raw.shape[1:]), raw.dtype, **quantization)
    probe = Classification(spec, "", scores, classes)
    rows = len(raw)
    return probe.extract(Block({}, {"y": raw}, np.zeros(rows), np.zeros(rows, np.int64)))[0]


def test_probabilities_give_class_confidence_margin_and_entropy_in_bits() -> None:
    raw = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], np.float32)
    np.testing.assert_allclose(_measure("probabilities", raw), [[0, 0.5, 0.25, 1.5], [1, 1, 1, 0]], atol=1e-7)


def test_logits_are_softmaxed_without_overflow() -> None:
    raw = np.array([[1000.0, 1000.0, -1000.0], [0.0, np.log(3.0), -np.inf]], np.float32)
    found = _measure("logits", raw)
    np.testing.assert_allclose(found[0], [0, 0.5, 0, 1], atol=1e-7)
    assert np.isfinite(found[1, :3]).all()
    np.testing.assert_allclose(found[1, 1], 0.75, rtol=1e-6)


def test_int8_and_float_builds_agree_within_the_grid() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(12) * 0.3, 300).astype(np.float32)
    codes = np.clip(np.rint(probabilities * 256) - 128, -128, 127).astype(np.int8)
    exact = _measure("probabilities", probabilities)
    quantized = _measure("probabilities", codes, scale=1 / 256, zero_point=-128)
    sure = exact[:, 2] > 0.01
    assert (exact[sure, 0] == quantized[sure, 0]).all()
    np.testing.assert_allclose(quantized[:, 1], exact[:, 1], atol=1 / 256)
    np.testing.assert_allclose(quantized[:, 3], exact[:, 3], atol=0.12)


def test_one_probability_is_a_choice_of_two() -> None:
    found = _measure("binary", np.array([[0.9], [0.25]], np.float32))
    np.testing.assert_allclose(found[:, :3], [[1, 0.9, 0.8], [0, 0.75, 0.5]], atol=1e-6)


@pytest.mark.parametrize("scores", ["probabilities", "logits", "binary"])
def test_a_score_that_is_not_finite_makes_the_answer_missing(scores: str) -> None:
    raw = np.array([[0.2, np.nan], [0.3, 0.7]], np.float32)[:, : 1 if scores == "binary" else 2]
    raw[0, 0] = np.nan
    found = _measure(scores, raw)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_an_entropy_is_never_negative_and_never_minus_zero() -> None:
    found = _measure("probabilities", np.array([[127, -128, -128]], np.int8), scale=1 / 256, zero_point=-128)
    assert found[0, 3] == 0
    assert not np.signbit(found[0, 3])


def test_a_dead_quantized_output_has_no_class_to_be_sure_of() -> None:
    found = _measure("probabilities", np.full((1, 4), -128, np.int8), scale=1 / 256, zero_point=-128)
    assert found[0, 1] == 0
    assert np.isnan(found[0, 3])


def test_few_classes_are_fixed_categories_and_a_thousand_are_left_to_the_reference() -> None:
    few = Classification(TensorSpec("y", (1, 3), np.dtype(np.float32)), "", "logits", ("a", "b", "c"))
    draft = few.streams()[0]
    assert (draft.categories, draft.labels) == ((0, 1, 2), ("a", "b", "c"))
    many = Classification(TensorSpec("y", (1, 1001), np.dtype(np.uint8)), "", "probabilities", ())
    assert many.streams()[0].categories == ()
    assert many.count == 1001
