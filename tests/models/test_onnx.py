from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from driftpost_models.errors import ModelRefused
from driftpost_models.onnx import OnnxRuntime
from driftpost_models.onnx_graph import Grid, looks_like_onnx, read_graph
from models import onnx_files


@pytest.mark.parametrize("as_nodes", [False, True], ids=["initializers", "constant nodes"])
def test_quantization_at_the_ends_of_a_graph_is_read_through_reshapes(as_nodes: bool) -> None:
    model = OnnxRuntime(onnx_files.quantized_ends(constants_as_nodes=as_nodes))
    x, y = model.inputs[0], model.outputs[0]
    assert (x.dtype, x.scale, x.zero_point, x.quantized) == (np.int8, 0.5, -3, True)
    assert (y.dtype, y.scale, y.zero_point, y.quantized) == (np.int8, 0.25, 7, True)
    answer = model.run({"x": np.full((1, 2, 3), 5, np.int8)})["y"]
    np.testing.assert_allclose(y.real(answer), x.real(np.full((1, 3, 2), 5, np.int8)))
    model.close()


def test_float_ends_know_the_grid_behind_them_but_stay_floats() -> None:
    model = OnnxRuntime(onnx_files.float_ends_on_a_grid())
    for spec in (*model.inputs, *model.outputs):
        assert spec.scale == pytest.approx(0.1)
        assert (spec.zero_point, spec.quantized) == (5, False)
    model.close()


def test_plain_graphs_have_no_grid() -> None:
    assert read_graph(onnx_files.classifier()).grids == {}


@pytest.mark.parametrize(
    ("content", "reason", "remedy"),
    [
        (onnx_files.unknown_operator, "operator", "standard operators"),
        (onnx_files.too_new, "older than the model", "Update onnxruntime"),
        (onnx_files.texts, r"tensor\(string\)", "feed numbers"),
        (onnx_files.sequence_output, "no numeric tensor", "zipmap"),
    ],
)
def test_what_onnx_runtime_can_not_do_is_refused_with_the_remedy(content, reason: str, remedy: str) -> None:
    with pytest.raises(ModelRefused, match=reason) as refused:
        OnnxRuntime(content())
    assert remedy in refused.value.remedy


def test_weights_in_another_file_are_refused_before_they_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="other files") as refused:
        OnnxRuntime(onnx_files.external_data(tmp_path))
    assert "save_as_external_data=False" in refused.value.remedy


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelRefused, match="can not be imported") as refused:
        OnnxRuntime(onnx_files.identity())
    assert "driftpost[onnx]" in refused.value.remedy


def test_all_numeric_dtypes_pass() -> None:
    for number, dtype in (
        (2, "u1"),
        (3, "i1"),
        (5, "i2"),
        (6, "i4"),
        (7, "i8"),
        (10, "f2"),
        (11, "f8"),
        (9, "?"),
    ):
        model = OnnxRuntime(onnx_files.identity(number, [1, 4]))
        assert model.inputs[0].dtype == np.dtype(dtype)
        sent = np.array([[0, 1, 1, 0]], dtype)
        np.testing.assert_array_equal(model.run({"x": sent})["y"], sent)
        model.close()


def test_mutated_files_are_refused_or_load_and_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    whole = np.frombuffer(onnx_files.quantized_ends(), np.uint8)
    outcomes = set()
    for _ in range(300):
        content = whole.copy()
        places = rng.integers(0, len(content), 3)
        content[places] = rng.integers(0, 256, 3)
        looks_like_onnx(content.tobytes())
        try:
            read_graph(content.tobytes())
            outcomes.add("read")
        except ValueError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_hostile_protobuf_is_bounded() -> None:
    for content in (
        b"\x08" + b"\xff" * 20,  # a number without end
        b"\x3a\xff\xff\xff\xff\x0f",  # a graph of 4 GB
        b"\x07",  # a wire type that does not exist
        b"\x00\x00",  # field number 0
    ):
        assert not looks_like_onnx(content) or content[:1] == b"\x08"
        with pytest.raises(ValueError, match=r"ends|long|wire|field"):
            read_graph(content)
    assert Grid(1.0, 0) == Grid(1.0, 0)
