"""Accelerators are used where they are, and the CPU where they are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.bundles import FEATURES, mlp
from driftpost_models.errors import InferenceFailed, ModelRefused
from driftpost_models.isolated import IsolatedRuntime
from driftpost_models.onnx import OnnxRuntime
from driftpost_models.providers import attempts

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
EVERYTHING = [TENSORRT, CUDA, CPU]


def _names(tries):
    return [[name for name, _ in attempt] for attempt in tries]


def test_what_a_jetson_has_is_tried_fastest_first_and_the_cpu_is_left_in_the_end() -> None:
    tries = attempts(("tensorrt", "cuda", "cpu"), EVERYTHING)
    assert _names(tries) == [[TENSORRT, CUDA, CPU], [CUDA, CPU], [CPU]]


def test_what_the_build_does_not_have_is_passed_over() -> None:
    assert _names(attempts(("tensorrt", "cuda", "cpu"), ["AzureExecutionProvider", CPU])) == [[CPU]]


def test_the_owner_can_keep_the_model_off_an_accelerator_or_change_the_order() -> None:
    assert _names(attempts(("cpu",), EVERYTHING)) == [[CPU]]
    assert _names(attempts(("cpu", "cuda"), EVERYTHING)) == [[CPU]]
    assert _names(attempts(("cuda",), EVERYTHING)) == [[CUDA, CPU], [CPU]]
    assert _names(attempts((), EVERYTHING)) == [[CPU]]


def test_an_unknown_name_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no provider is called 'npu'"):
        attempts(("npu",), EVERYTHING)


def test_compiled_engines_are_kept_in_the_cache(tmp_path: Path) -> None:
    (first, options), *_ = attempts(("tensorrt",), EVERYTHING, tmp_path)[0]
    assert first == TENSORRT
    assert options == {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(tmp_path)}


def test_an_accelerator_that_does_not_start_leaves_the_model_on_the_cpu_and_says_why(monkeypatch) -> None:
    import onnxruntime

    class Broken(onnxruntime.InferenceSession):  # type: ignore[misc]
        """As on a board whose driver is older than its CUDA: asking for the device fails."""

        def __init__(self, content, options, providers, **more) -> None:
            if providers[0][0] == CUDA:
                raise RuntimeError("CUDA failure 35:\n driver version is insufficient")
            super().__init__(content, options, providers=providers, **more)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Broken)
    runtime = OnnxRuntime(mlp())
    assert runtime.provider == CPU
    assert runtime.declined == f"{CUDA}: CUDA failure 35: driver version is insufficient"
    assert runtime.run({"x": np.zeros((1, FEATURES), np.float32)})["p"].shape == (1, 10)


def test_an_accelerator_that_quietly_stays_away_is_reported(monkeypatch) -> None:
    import onnxruntime

    class Quiet(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, content, options, providers, **more) -> None:
            super().__init__(content, options, providers=[CPU], **more)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Quiet)
    runtime = OnnxRuntime(mlp())
    assert runtime.provider == CPU
    assert "does not start here" in runtime.declined


def test_a_broken_model_is_refused_whatever_computes() -> None:
    with pytest.raises(ModelRefused):
        OnnxRuntime(mlp()[:500])


class _Changed:
    """A session of an ONNX Runtime whose inner parts are others than today's."""

    def __init__(self, session: Any, inner: Any) -> None:
        self.run = session.run
        if inner is not None:
            self._sess = inner


class _Renamed:
    def run(self, feeds: object) -> None:
        """Takes other arguments than today's."""


@pytest.mark.parametrize("inner", [None, object(), _Renamed()])
def test_a_single_call_goes_the_public_way_where_onnx_runtime_has_changed_inside(inner: Any) -> None:
    runtime = OnnxRuntime(mlp())
    (given,) = runtime.inputs
    row = np.zeros([size or 1 for size in given.shape], given.dtype)
    wanted = runtime.run({given.name: row})[runtime.outputs[0].name]
    np.testing.assert_array_equal(runtime.single_call()(row), wanted)
    runtime._session = _Changed(runtime._session, inner)
    call = runtime.single_call()
    for _ in range(2):
        np.testing.assert_array_equal(call(row), wanted)


def test_a_single_call_that_does_not_fit_fails_in_the_words_of_the_public_way() -> None:
    runtime = OnnxRuntime(mlp())
    (given,) = runtime.inputs
    for wrong in (np.zeros((1, 7), np.float32), np.zeros([size or 1 for size in given.shape], np.float64)):
        with pytest.raises(InferenceFailed) as short:
            runtime.single_call()(wrong)
        with pytest.raises(runtime._errors) as public:
            runtime._session.run([runtime.outputs[0].name], {given.name: wrong})
        assert str(short.value) == f"ONNX Runtime: {' '.join(str(public.value).split())}"
    runtime.close()
    with pytest.raises(InferenceFailed, match="closed"):
        runtime.single_call()(np.zeros((1, 7), np.float32))


def test_threads_reach_the_session() -> None:
    options = OnnxRuntime(mlp(), threads=3)._session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1


def test_the_child_runs_on_the_cpus_it_was_given_with_all_its_threads() -> None:
    cpu = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    runtime = IsolatedRuntime(mlp(), threads=2, cpus=[cpu])
    try:
        runtime.run({"x": np.zeros((1, FEATURES), np.float32)})
        threads = [int(entry.name) for entry in Path(f"/proc/{runtime.pid}/task").iterdir()]
        assert len(threads) >= 2
        assert all(os.sched_getaffinity(thread) == {cpu} for thread in threads)
        assert os.sched_getaffinity(0) == before
        assert (runtime.provider, runtime.declined) == (CPU, "")
    finally:
        runtime.close()


def test_a_cpu_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ModelRefused, match=r"CPUs \[1023\]") as refused:
        IsolatedRuntime(mlp(), cpus=[1023])
    assert str(min(os.sched_getaffinity(0))) in refused.value.remedy
