from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from driftpost_models import tflite
from driftpost_models.errors import ModelRefused
from driftpost_models.tflite import TfliteRuntime
from models import tflite_files


@pytest.mark.parametrize(
    ("dtype", "scale", "zero"), [("int8", 0.5, -1), ("uint8", 0.25, 128), ("int16", 0.001, 0)]
)
def test_quantization_is_read_and_arithmetic_holds_in_natural_units(
    dtype: str, scale: float, zero: int
) -> None:
    model = TfliteRuntime(tflite_files.quantized_adder(dtype, scale, zero))
    spec = model.inputs[0]
    assert (spec.dtype, spec.scale, spec.zero_point) == (np.dtype(dtype), pytest.approx(scale), zero)
    codes = (np.array([[0, 1, 2, 10]]) + zero).astype(dtype)
    np.testing.assert_allclose(
        model.outputs[0].real(model.run({"x": codes})["y"]), 2 * spec.real(codes), atol=scale
    )
    model.close()


@pytest.mark.parametrize("scale", [0.0, None])
def test_a_scale_of_zero_means_not_quantized(scale: float | None) -> None:
    model = TfliteRuntime(tflite_files.reshaper("uint8", scale))
    assert not model.inputs[0].quantized
    assert model.inputs[0].limits() == (0, 255)
    codes = np.array([[1, 2, 3, 255]], np.uint8)
    np.testing.assert_array_equal(model.run({"x": codes})["y"].ravel(), codes.ravel())
    model.close()


def test_the_names_of_the_signature_are_used() -> None:
    model = TfliteRuntime(
        tflite_files.adder(("serving_default_p:0", "serving_default_q:0", "Call:0"), ("left", "right", "sum"))
    )
    assert [spec.name for spec in (*model.inputs, *model.outputs)] == ["left", "right", "sum"]
    ones = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(model.run({"left": ones, "right": ones * 2})["sum"], ones * 3)
    model.close()


def test_without_a_signature_the_converters_decoration_is_taken_off() -> None:
    model = TfliteRuntime(tflite_files.adder(("serving_default_p:0", "q", "Call:0")))
    assert [spec.name for spec in (*model.inputs, *model.outputs)] == ["p", "q", "Call"]
    model.close()


def test_equal_and_empty_names_are_told_apart() -> None:
    model = TfliteRuntime(tflite_files.adder(("a", "a", "")))
    assert [spec.name for spec in (*model.inputs, *model.outputs)] == ["a", "a#2", "tensor0"]
    ones = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(model.run({"a": ones, "a#2": ones})["tensor0"], ones * 2)
    model.close()


def test_compiled_and_custom_operators_are_refused_with_their_remedies() -> None:
    with pytest.raises(ModelRefused, match="Edge TPU") as compiled:
        TfliteRuntime(tflite_files.custom("edgetpu-custom-op"))
    assert "before the Edge TPU compiler" in compiled.value.remedy
    with pytest.raises(ModelRefused, match="MyOwnOp") as custom:
        TfliteRuntime(tflite_files.custom("MyOwnOp"))
    assert "built-in operators" in custom.value.remedy
    with pytest.raises(ModelRefused, match="TensorFlow"):
        TfliteRuntime(tflite_files.custom("FlexErf"))


def test_without_any_runtime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, _ in tflite._PACKAGES:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelRefused, match="no runtime") as refused:
        TfliteRuntime(tflite_files.adder())
    assert "driftpost[tflite]" in refused.value.remedy


def test_tflite_runtime_is_used_where_litert_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import ai_edge_litert.interpreter

    older = types.ModuleType("tflite_runtime.interpreter")
    older.Interpreter = ai_edge_litert.interpreter.Interpreter
    older.OpResolverType = ai_edge_litert.interpreter.OpResolverType
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", types.ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", older)
    monkeypatch.setattr(tflite.importlib.metadata, "version", {"tflite-runtime": "2.14.0"}.__getitem__)
    model = TfliteRuntime(tflite_files.adder())
    assert model.version == "tflite-runtime 2.14.0"
    model.close()
