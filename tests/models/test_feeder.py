from __future__ import annotations

import numpy as np
import pytest

from driftpost_models.errors import ReferenceRefused
from driftpost_models.feeder import Feeder, blocks, spread
from driftpost_models.probes.block import as_rows, rows_in_call
from driftpost_models.runtime import TensorSpec, load_model
from models import onnx_files


def test_rows_go_in_one_by_one_and_come_back_as_a_block() -> None:
    model = load_model(onnx_files.classifier(3, 4))
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    block = Feeder(model, ["x"]).block({"x": rows})
    np.testing.assert_array_equal(block.inputs["x"], rows)
    np.testing.assert_allclose(block.outputs["y"], model.run({"x": rows})["y"], rtol=1e-5)
    assert (block.latency_us > 0).all()
    assert block.verdict.tolist() == [0] * 5
    model.close()


def test_a_state_starts_at_zero_and_follows_the_answers_until_it_is_reset() -> None:
    model = load_model(onnx_files.counter())
    feeder = Feeder(model, ["x"])
    assert feeder.states == {"state": "state_out"}
    ones = np.ones((3, 2), np.float32)
    assert feeder.block({"x": ones}).outputs["y"][:, 0].tolist() == [1, 2, 3]
    assert feeder.block({"x": ones}).outputs["y"][:, 0].tolist() == [4, 5, 6]
    feeder.reset()
    assert feeder.block({"x": ones}).inputs["state"][:, 0].tolist() == [0, 1, 2]
    model.close()


def test_an_input_that_is_no_state_is_never_fed_with_answers() -> None:
    model = load_model(onnx_files.two_inputs_and_a_scalar())
    with pytest.raises(ReferenceRefused, match="nothing for the input 'b'"):
        Feeder(model, ["a", "k"])
    model.close()


def test_scalars_are_fed_without_a_batch() -> None:
    model = load_model(onnx_files.two_inputs_and_a_scalar())
    rows = {"a": np.ones((2, 3), np.float32), "b": np.ones((2, 3), np.float32), "k": np.array([2, 3])}
    block = Feeder(model, list(rows)).block(rows)
    assert block.outputs["y"][:, 0].tolist() == [4, 6]
    assert block.inputs["k"].tolist() == [2, 3]
    model.close()


def test_the_rows_of_a_call_are_told_from_its_batched_inputs() -> None:
    x = TensorSpec("x", (None, 3), np.dtype(np.float32))
    state = TensorSpec("state", (2, None, 4), np.dtype(np.float32))
    answer = TensorSpec("y", (None, None, None), np.dtype(np.float32))
    inputs = {"x": np.zeros((1, 3), np.float32), "state": np.zeros((2, 1, 4), np.float32)}
    assert rows_in_call([x, state], inputs) == 1
    assert as_rows(state, inputs["state"], 1).shape == (1, 2, 1, 4)
    # The runtime promises nothing about this output's first dimension, and it counts no rows.
    assert as_rows(answer, np.zeros((2, 1, 4), np.float32), 1).shape == (1, 2, 1, 4)
    several = {"x": np.zeros((5, 3), np.float32), "state": inputs["state"]}
    assert rows_in_call([x, state], several) == 5
    assert as_rows(x, several["x"], 5).shape == (5, 3)
    assert as_rows(state, several["state"], 5) is None


def test_rows_are_spread_and_blocks_cover_everything_once() -> None:
    assert spread(1000, 5).tolist() == [0, 250, 500, 749, 999]
    assert spread(3, 12).tolist() == [0, 1, 2]
    assert list(blocks(10, 4)) == [(0, 4), (4, 8), (8, 10)]
