"""The quick path says and records what the long one does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from agent.bundles import built, tabular_rows, with_policy
from agent.clocks import ManualClock
from driftpost import Guard, Reason
from driftpost_agent.recorder import ClosedWindow
from driftpost_models.bundle import Bundle

Rows = NDArray[Any]


def camera_model() -> bytes:
    """Mean of each channel of an int8 image 64x64x3."""
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["means"], axes=[1, 2], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "camera",
        [helper.make_tensor_value_info("image", TensorProto.INT8, [1, 64, 64, 3])],
        [helper.make_tensor_value_info("means", TensorProto.FLOAT, [1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def frames(count: int, seed: int = 1) -> Rows:
    rng = np.random.default_rng(seed)
    light = rng.normal(0, 20, (count, 1, 1, 1))
    return np.clip(light + rng.normal(0, 25, (count, 64, 64, 3)), -120, 120).astype(np.int8)


@pytest.fixture(scope="module")
def camera_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = built(tmp_path_factory.mktemp("camera"), "camera", camera_model(), frames(600))
    return Bundle.open(path, None)


def guarded(bundle: Bundle, *, quick: bool) -> tuple[Guard, list[ClosedWindow]]:
    windows: list[ClosedWindow] = []
    guard = Guard(bundle, clock=ManualClock(1_000), on_window=windows.append, threaded=False)
    assert guard._quick is not None
    if not quick:
        guard._quick = None
    return guard, windows


def compared(bundle: Bundle, rows: Rows) -> list[tuple[Reason, ...]]:
    """Verdicts of both paths on the same rows, after checking that they and the windows are the same."""
    said, closed = [], []
    for quick in (True, False):
        guard, windows = guarded(bundle, quick=quick)
        said.append([guard.run(row[None]).verdict.reasons for row in rows])
        guard.close()
        assert guard.meter.read().rows == len(rows)
        closed.append(windows)
    assert said[0] == said[1]
    for first, second in zip(*closed, strict=True):
        schema = bundle.schema
        latency = slice(*schema.offsets[[i := schema.index("latency_us"), i + 1]])
        counts = [np.delete(one.window.counts, np.r_[latency]) for one in (first, second)]
        np.testing.assert_array_equal(*counts)
        np.testing.assert_array_equal(first.transitions.moves, second.transitions.moves)
        np.testing.assert_array_equal(first.window.missing, second.window.missing)
    return said[0]


def spoiled(rows: Rows, change: Callable[[Rows, np.random.Generator], None]) -> Rows:
    rows, rng = rows.copy(), np.random.default_rng(3)
    for row in rows[::3]:
        change(row, rng)
    return rows


def test_tables_with_all_kinds_of_trouble_are_judged_alike(mlp_bundle: Bundle) -> None:
    def spoil(row: Rows, rng: np.random.Generator) -> None:
        row[rng.integers(30)] = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e30, -60.0, -0.0, 3e38]))

    rows = spoiled(tabular_rows(700), spoil)
    rows[50:70] = rows[49]
    reasons = {reason for one in compared(mlp_bundle, rows) for reason in one}
    assert reasons == {
        Reason.NONFINITE_INPUT,
        Reason.OUT_OF_RANGE,
        Reason.FROZEN,
        Reason.NONFINITE_OUTPUT,
    }


def test_an_unsure_answer_is_noticed_on_both(mlp_bundle: Bundle) -> None:
    unsure = compared(with_policy(mlp_bundle, min_confidence=0.2), tabular_rows(200))
    assert 0 < sum(reasons == (Reason.LOW_CONFIDENCE,) for reasons in unsure) < 200


def test_large_images_are_judged_and_sketched_alike(camera_bundle: Bundle) -> None:
    def spoil(row: Rows, rng: np.random.Generator) -> None:
        row[:] = rng.choice(np.array([-128, 127], np.int8))

    rows = spoiled(frames(200, 5), spoil)
    rows[100:112] = rows[100]
    reasons = {reason for one in compared(camera_bundle, rows) for reason in one}
    assert {Reason.SATURATED, Reason.FROZEN} <= reasons


def test_a_batch_of_large_images_is_sketched_as_its_images_one_by_one(camera_bundle: Bundle) -> None:
    rows = frames(90, 6)
    closed = []
    for batch in (rows, None):
        guard, windows = guarded(camera_bundle, quick=True)
        for call in [rows] if batch is not None else [row[None] for row in rows]:
            guard.run(call)
        guard.close()
        closed.append(windows[0].window)
    schema = camera_bundle.schema
    for name in ("brightness", "sharpness", "frame_change", "image.codes"):
        start, stop = schema.offsets[[i := schema.index(name), i + 1]]
        np.testing.assert_array_equal(closed[0].counts[start:stop], closed[1].counts[start:stop])


def test_threads_lose_no_row_and_no_name(mlp_bundle: Bundle) -> None:
    guard, windows = guarded(mlp_bundle, quick=True)
    names: list[str] = []

    def call(seed: int) -> None:
        names.extend([guard.run(row[None]).inference_id for row in tabular_rows(400, seed)])

    threads = [threading.Thread(target=call, args=(seed,), name=f"caller-{seed}") for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    guard.close()
    assert sum(closed.window.rows for closed in windows) == 1600
    assert len(set(names)) == 1600
    assert guard.recorder.rows_recorded == guard.meter.read().calls == 1600
