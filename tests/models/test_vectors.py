"""Reconstruction, embedding, columns, spectrogram and summary by their numbers."""

from __future__ import annotations

import numpy as np
import pytest

from driftpost_models.probes.block import Block
from driftpost_models.probes.categorical_columns import CategoricalColumns
from driftpost_models.probes.embedding import Embedding, directions
from driftpost_models.probes.numeric_columns import NumericColumns
from driftpost_models.probes.reconstruction import Reconstruction
from driftpost_models.probes.spectrogram import Spectrogram
from driftpost_models.probes.summary import Summary
from driftpost_models.runtime import TensorSpec

FLOAT = np.dtype(np.float32)


def _extract(probe, inputs=None, outputs=None) -> np.ndarray:
    rows = len(next(iter({**(inputs or {}), **(outputs or {})}.values())))
    return probe.extract(Block(inputs or {}, outputs or {}, np.zeros(rows), np.zeros(rows, np.int64)))[0]


def test_a_reconstruction_is_compared_in_natural_units_whatever_the_builds() -> None:
    original = TensorSpec("x", (1, 4), np.dtype(np.int8), 0.5, 10)
    probe = Reconstruction(original, TensorSpec("y", (1, 4), np.dtype(np.uint8), 0.25, 100), "")
    x = np.array([[10, 12, 14, 16]], np.int8)  # 0, 1, 2, 3
    y = np.array([[100, 104, 108, 120]], np.uint8)  # 0, 1, 2, 5
    np.testing.assert_allclose(_extract(probe, {"x": x}, {"y": y}), [[1.0, 2.0]])


def test_directions_never_change() -> None:
    found = directions(5, 3, 2011)
    np.testing.assert_allclose((found**2).sum(axis=0), 1.0)
    np.testing.assert_array_equal(found, directions(5, 3, 2011))
    np.testing.assert_allclose(found[0], [0.03080779, 0.41654613, 0.48966251], atol=1e-6)


def test_an_embedding_shows_its_norm_and_a_turn() -> None:
    probe = Embedding(TensorSpec("y", (1, 64), FLOAT), "output", "", 64, 4, 2011)
    vector = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
    turned = np.roll(vector, 1, axis=1)
    a, b = _extract(probe, outputs={"y": vector})[0], _extract(probe, outputs={"y": turned})[0]
    assert a[0] == pytest.approx(np.linalg.norm(vector), rel=1e-6)
    assert a[0] == pytest.approx(b[0], rel=1e-6)
    assert np.abs(a[1:] - b[1:]).max() > 0.5


def test_columns_are_dequantized_and_categories_rounded() -> None:
    spec = TensorSpec("x", (1, 3), np.dtype(np.int8), 0.1, -5)
    raw = np.array([[5, 15, -5]], np.int8)
    numeric = NumericColumns(spec, "input", (0, 2), ("a", "b"), ("", ""))
    categorical = CategoricalColumns(spec, "input", (1,), ("c",))
    np.testing.assert_allclose(_extract(numeric, {"x": raw}), [[1.0, 0.0]], atol=1e-6)
    assert _extract(categorical, {"x": raw}).tolist() == [[2.0]]


def test_a_missing_column_is_missing_and_the_others_are_not() -> None:
    probe = NumericColumns(TensorSpec("x", (1, 2), FLOAT), "input", (0, 1), ("a", "b"), ("", ""))
    found = _extract(probe, {"x": np.array([[np.nan, 2.0]], np.float32)})
    assert np.isnan(found[0, 0])
    assert found[0, 1] == 2.0


def test_features_over_time_show_level_movement_and_each_group() -> None:
    probe = Spectrogram(TensorSpec("x", (1, 4, 20), FLOAT), "input", "", 20)
    names = [draft.name for draft in probe.streams()]
    frames = np.zeros((1, 4, 20), np.float32)
    frames[0, ::2, 6:8] = 8.0
    found = dict(zip(names, _extract(probe, {"x": frames})[0], strict=True))
    assert found["peak"] == 8.0
    assert found["level"] == pytest.approx(0.4)
    assert found["movement"] == pytest.approx(0.8)
    assert found["features6_7"] == pytest.approx(4.0)
    assert found["features4_5"] == 0.0
    assert len(names) == 4 + 10


def test_a_summary_holds_mean_spread_and_extremes() -> None:
    probe = Summary(TensorSpec("y", (1, 2, 2), FLOAT), "output", "y.", watched=True)
    found = _extract(probe, outputs={"y": np.array([[[1, 2], [3, 6]]], np.float32)})
    np.testing.assert_allclose(found, [[3.0, np.std([1, 2, 3, 6]), 1.0, 6.0]])
