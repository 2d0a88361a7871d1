"""A tap shows what the last layer reads, as codes where it is quantized, and changes no answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.device import models

from driftpost_models.build import build_bundle
from driftpost_models.errors import ModelRefused
from driftpost_models.runtime import load_model
from driftpost_models.tap import tapped


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("models")
    models.mlp(folder / "float.onnx")
    models.quantized(models.mlp, lambda: models.tabular(64, 5))(folder / "int8.onnx")
    return {name: (folder / f"{name}.onnx").read_bytes() for name in ("float", "int8")}


@pytest.mark.parametrize("name", ["float", "int8"])
def test_answers_stay_what_they_were_and_the_layer_comes_beside_them(
    files: dict[str, bytes], name: str
) -> None:
    plain, tap = load_model(files[name]), load_model(tapped(files[name]))
    rows = models.tabular(5, 1) if name == "float" else models.tabular_codes(5, 1)
    answer, (same, layer) = plain.outputs[0], tap.outputs
    assert same == answer
    assert layer.shape[-1] == 32
    assert layer.dtype == (np.float32 if name == "float" else np.int8)
    for row in rows[:, np.newaxis]:
        found = tap.run({"x": row})
        np.testing.assert_array_equal(found[answer.name], plain.run({"x": row})[answer.name])
        # Behind a ReLU nothing is negative, and something is not zero.
        assert layer.real(found[layer.name]).min() >= 0
        assert layer.real(found[layer.name]).max() > 0
    plain.close()
    tap.close()


def test_codes_of_a_tapped_layer_come_with_their_scale(files: dict[str, bytes]) -> None:
    tap = load_model(tapped(files["int8"]))
    assert (tap.outputs[1].scale or 0) > 0
    tap.close()


def test_a_tapped_model_is_not_tapped_again(files: dict[str, bytes]) -> None:
    with pytest.raises(ModelRefused, match="several outputs"):
        tapped(tapped(files["float"]))


@pytest.mark.parametrize("content", [b"TFL3" * 20, b"", b"\x1c\0\0\0TFL3"])
def test_what_is_not_onnx_is_refused_with_a_way_out(content: bytes) -> None:
    with pytest.raises(ModelRefused, match="Only ONNX"):
        tapped(content)


def test_a_damaged_file_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(ModelRefused):
        tapped(files["float"][: len(files["float"]) // 2])


def test_the_path_of_the_layer_is_found_under_long_names(tmp_path: Path) -> None:
    import onnx

    models.mlp(tmp_path / "m.onnx")
    model = onnx.load_model(tmp_path / "m.onnx")
    gemm = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    old, new = gemm.input[0], "layer/" * 60
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    tap = load_model(tapped(model.SerializeToString()))
    assert tap.outputs[1].name == new
    tap.close()


def test_a_bundle_built_with_a_tap_watches_the_layer(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(files["int8"])
    np.save(tmp_path / "reference.npy", models.tabular_codes(2_000, 7))
    built = build_bundle(
        tmp_path / "m.onnx", tmp_path / "reference.npy", tmp_path / "m.bundle", name="m", tap=True
    )
    names = [stream.name for stream in built.bundle.schema.streams]
    assert {"norm", "direction1", "direction4"} <= set(names)
    layer = built.bundle.outputs[1]
    assert f"{layer.name}.codes" in names
