from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from driftpost_models import runtime as runtime_module
from driftpost_models.errors import InferenceFailed, InputMismatch, ModelRefused
from driftpost_models.isolated import IsolatedRuntime
from driftpost_models.runtime import Runtime, TensorSpec, load_model, model_kind
from models import onnx_files, tflite_files


def _loaders():
    return {"in process": load_model, "in a child": IsolatedRuntime}


@pytest.fixture(params=_loaders(), ids=str)
def load(request):
    opened: list[Runtime] = []

    def opener(content, **options):
        made = _loaders()[request.param](content, **options)
        opened.append(made)
        return made

    yield opener
    for each in opened:
        each.close()


ADDERS = {
    "onnx": (onnx_files.two_inputs_and_a_scalar, {"k": np.array(2, np.int64)}, 2.0),
    "tflite": (tflite_files.adder, {}, 1.0),
}


@pytest.mark.parametrize("kind", ADDERS)
def test_every_runtime_keeps_the_contract(load, kind: str) -> None:
    make, more, factor = ADDERS[kind]
    model = load(make(), threads=2)
    width = model.inputs[0].shape[1]
    inputs = {"a": np.full((1, width), 3, np.float32), "b": np.full((1, width), 4, np.float32), **more}
    answer = model.run(inputs)

    assert model.kind == kind
    assert model.version.split()[0] in ("onnxruntime", "ai-edge-litert", "tflite-runtime")
    assert model.version.split()[1][0].isdigit()
    assert model.provider
    assert [spec.name for spec in model.inputs][:2] == ["a", "b"]
    assert [spec.name for spec in model.outputs] == ["y"]
    np.testing.assert_allclose(answer["y"], np.full((1, width), 7 * factor))
    assert answer["y"].dtype == model.outputs[0].dtype

    with pytest.raises(InputMismatch, match="missing") as missing:
        model.run({"b": inputs["b"], **more})
    assert (missing.value.tensor, missing.value.problem) == ("a", "missing")
    with pytest.raises(InputMismatch, match="unknown"):
        model.run({**inputs, "c": inputs["b"]})
    with pytest.raises(InputMismatch, match="float64") as dtype:
        model.run({**inputs, "a": inputs["a"].astype(np.float64)})
    assert dtype.value.problem == "dtype"
    with pytest.raises(InputMismatch, match=r"float32\[1,9\]") as shape:
        model.run({**inputs, "a": np.zeros((1, 9), np.float32)})
    assert shape.value.problem == "shape"
    np.testing.assert_allclose(model.run(inputs)["y"], answer["y"])

    model.close()
    model.close()
    with pytest.raises(InferenceFailed, match="closed"):
        model.run(inputs)


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_calls_from_several_threads_do_not_mix(load, kind: str) -> None:
    model = load(onnx_files.classifier(softmax=False) if kind == "onnx" else tflite_files.adder())
    names = [spec.name for spec in model.inputs]
    width = model.inputs[0].shape[1]
    wrong = []

    def call(seed: int) -> None:
        rows = {n: np.full((1, width), seed, np.float32) for n in names}
        expected = model.run(rows)["y"]
        wrong.extend(seed for _ in range(50) if not np.array_equal(model.run(rows)["y"], expected))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_free_dimensions_take_every_length_and_answers_follow(load) -> None:
    model = load(onnx_files.classifier(3, 4))
    assert model.inputs[0].shape == (None, 3)
    for rows in (1, 5, 2):
        assert model.run({"x": np.ones((rows, 3), np.float32)})["y"].shape == (rows, 4)


def test_a_free_batch_of_a_tflite_model_is_resized_back_and_forth(load) -> None:
    model = load(tflite_files.quantized_adder("int8", 0.5, -1, free_batch=True))
    assert model.inputs[0].shape == (None, 4)
    for rows in (1, 3, 1):
        assert model.run({"x": np.zeros((rows, 4), np.int8)})["y"].shape == (rows, 4)


def test_an_error_in_one_call_leaves_the_model_usable(load) -> None:
    model = load(onnx_files.failing())
    with pytest.raises(InferenceFailed, match="ONNX Runtime"):
        model.run({"x": np.zeros((1, 3), np.float32)})
    assert model.run({"x": np.zeros((1, 4), np.float32)})["y"].shape == (2, 2)


def test_large_tensors_pass_whole(load) -> None:
    model = load(onnx_files.identity(shape=("batch", "width")))
    sent = np.random.default_rng(0).normal(size=(3, 70_001)).astype(np.float32)
    assert np.array_equal(model.run({"x": sent})["y"], sent)


def test_tensors_that_are_not_contiguous_pass_right(load) -> None:
    model = load(onnx_files.identity())
    sent = np.arange(8, dtype=np.float32).reshape(4, 2).T
    assert np.array_equal(model.run({"x": sent})["y"], sent)


FOREIGN = {
    "zip": (b"PK\x03\x04" + bytes(40), "zip archive"),
    "keras": (b"\x89HDF\r\n" + bytes(40), "HDF5"),
    "pickle": (b"\x80\x04\x95" + bytes(40), "pickle"),
    "language model": (b"GGUF" + bytes(40), "GGUF"),
    "git pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "noise": (bytes(range(200, 250)), "neither an ONNX nor a TFLite"),
    "text": (b"hello world, this is no model", "neither an ONNX nor a TFLite"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_files_are_refused_with_what_they_are_and_a_remedy(name: str) -> None:
    content, reason = FOREIGN[name]
    with pytest.raises(ModelRefused, match=reason) as refused:
        load_model(content)
    assert refused.value.remedy


def test_a_missing_file_a_folder_and_a_wrong_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="can not be read"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(ModelRefused, match="is a folder"):
        load_model(tmp_path)
    with pytest.raises(ModelRefused, match="said to be tflite"):
        load_model(onnx_files.identity(), kind="tflite")
    with pytest.raises(ValueError, match="threads"):
        load_model(onnx_files.identity(), threads=0)


def test_a_model_that_is_too_large_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "MAX_MODEL_BYTES", 1000)
    path = tmp_path / "large.onnx"
    path.write_bytes(bytes(1001))
    with pytest.raises(ModelRefused, match="at most"):
        load_model(path)
    with pytest.raises(ModelRefused, match="at most"):
        load_model(bytes(1001))


def test_the_kind_is_told_from_the_content_whatever_the_name(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(tflite_files.adder())
    assert model_kind(path.read_bytes()) == "tflite"
    model = load_model(path)
    assert model.kind == "tflite"
    model.close()


@pytest.mark.parametrize("make", [onnx_files.classifier, tflite_files.adder], ids=["onnx", "tflite"])
def test_truncated_files_are_refused_at_every_length(make) -> None:
    whole = make()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        with pytest.raises(ModelRefused) as refused:
            load_model(whole[:length])
        assert refused.value.remedy


class TestTensorSpec:
    QUANTIZED = TensorSpec("x", (1, 3), np.dtype(np.int8), 0.5, -2)
    PLAIN = TensorSpec("x", (None, 3), np.dtype(np.float32))

    def test_codes_become_real_values(self) -> None:
        real = self.QUANTIZED.real(np.array([[-128, -2, 127]], np.int8))
        np.testing.assert_allclose(real, [[-63.0, 0.0, 64.5]])
        assert self.QUANTIZED.limits() == (-63.0, 64.5)

    def test_a_float_on_a_grid_is_not_dequantized_again(self) -> None:
        spec = TensorSpec("x", (1, 2), np.dtype(np.float32), 0.5, -2)
        assert not spec.quantized
        np.testing.assert_allclose(spec.real(np.array([[1.0, 2.0]], np.float32)), [[1.0, 2.0]])
        assert spec.limits() is None

    @pytest.mark.parametrize(
        ("shape", "batched", "row"),
        [
            ((1, 3), True, (3,)),
            ((None, 3), True, (3,)),
            ((2, None, 4), False, (2, None, 4)),
            ((3,), False, (3,)),
            ((1,), False, (1,)),
            ((), False, ()),
        ],
    )
    def test_rows_leave_out_the_batch(self, shape, batched, row) -> None:
        spec = TensorSpec("x", shape, np.dtype(np.float32))
        assert (spec.batched, spec.row_shape) == (batched, row)

    @pytest.mark.parametrize("spec", [QUANTIZED, PLAIN, TensorSpec("", (), np.dtype(np.int64))])
    def test_plain_types_round_trip(self, spec: TensorSpec) -> None:
        assert TensorSpec.from_dict(spec.to_dict()) == spec

    @pytest.mark.parametrize(
        "change",
        [
            {"name": None},
            {"name": 3},
            {"shape": "3"},
            {"shape": [1, -3]},
            {"shape": [1, 2.0]},
            {"shape": [True]},
            {"shape": [1] * 9},
            {"dtype": "nonsense"},
            {"dtype": "O"},
            {"dtype": "U8"},
            {"scale": "1"},
            {"zero_point": 1.5},
        ],
    )
    def test_malformed_plain_types_are_refused(self, change) -> None:
        with pytest.raises(ValueError, match="tensor"):
            TensorSpec.from_dict({**self.QUANTIZED.to_dict(), **change})
