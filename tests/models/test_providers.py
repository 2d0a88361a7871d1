"""Accelerators are used where they are, and the CPU where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from agent.bundles import FEATURES, mlp
from driftpost_models.errors import ModelRefused
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
