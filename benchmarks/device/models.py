"""The models and inputs that the device benchmark runs: real architectures with random weights.

What a model answers does not matter for timing, so nothing is trained. Layers, shapes, operators and their
quantization are those that a converter would make: QDQ graphs from onnxruntime's own static quantization,
int8 per-tensor activations and weights. The float input's quantize node is cut off, so that an int8 model
takes an int8 tensor, as models for microcontrollers and camera pipelines do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

FEATURES, CLASSES = 30, 10
_OPSET = 17
# MobileNetV2 1.0 (Sandler et al. 2018, table 2): expansion, channels, repeats, stride of the first.
_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# MobileNetV1 (Howard et al. 2017, table 1) at a quarter of its width: channels and stride of each block.
_SEPARABLE = (
    (16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2),
    (128, 1), (128, 1), (128, 1), (128, 1), (128, 1), (256, 2), (256, 1),
)  # fmt: skip

Rows = Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One model with its inputs.

    Attributes:
        name: in the table and in metric names.
        title: what exactly it is.
        build: writes the ONNX file.
        rows: (count, seed) to array[count, *row_shape], different rows each.
        reference_rows: rows from which the bundle's baseline is made.
        calls: guarded calls in one repeat.
    """

    name: str
    title: str
    build: Callable[[Path], None]
    rows: Rows
    reference_rows: int
    calls: int


class _Layers:
    """Layers appended one after the other, in channels-first order."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.last = "x"

    def _named(self, array: NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [self.last, *inputs], [out], **attributes))
        self.last = out
        return out

    def conv(self, wide: int, narrow: int, size: int, stride: int = 1, *, depthwise: bool = False) -> str:
        group = wide if depthwise else 1
        shape = (narrow, wide // group, size, size)
        kernel = self._rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        return self.add(
            "Conv",
            self._named(kernel),
            self._named(self._rng.normal(0, 0.05, narrow)),
            strides=[stride, stride],
            pads=[size // 2] * 4,
            group=group,
        )

    def dense(self, wide: int, narrow: int) -> str:
        weights = self._rng.normal(0, np.sqrt(2 / wide), (wide, narrow))
        return self.add("Gemm", self._named(weights), self._named(self._rng.normal(0, 0.05, narrow)))

    def six(self) -> str:
        """ReLU6."""
        floor, top = self._named(np.array(0.0)), self._named(np.array(6.0))
        return self.add("Clip", floor, top)

    def save(self, path: Path, shape: list[Any], outputs: int) -> None:
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, [shape[0], outputs])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
        model.ir_version = 9
        onnx.checker.check_model(model)
        onnx.save_model(model, path)


def mlp(path: Path, features: int = FEATURES) -> None:
    """Dense 30-64-32-10 with softmax."""
    layers = _Layers(1)
    for wide, narrow in pairwise((features, 64, 32, CLASSES)):
        layers.dense(wide, narrow)
        if narrow != CLASSES:
            layers.add("Relu")
    layers.add("Softmax", axis=1)
    layers.save(path, [1, features], CLASSES)


def output_name(path: Path) -> str:
    """Name of a saved model's output."""
    return str(onnx.load_model(path).graph.output[0].name)


def cnn96(path: Path) -> None:
    """MobileNetV1 0.25 for 96x96x3, the usual small camera model, 10 classes, normalisation folded in."""
    layers = _Layers(2)
    layers.conv(3, 8, 3, 2)
    layers.add("Relu")
    wide = 8
    for narrow, stride in _SEPARABLE:
        layers.conv(wide, wide, 3, stride, depthwise=True)
        layers.add("Relu")
        layers.conv(wide, narrow, 1)
        layers.add("Relu")
        wide = narrow
    _head(layers, wide, CLASSES)
    layers.save(path, [1, 3, 96, 96], CLASSES)


def mobilenetv2(path: Path) -> None:
    """MobileNetV2 1.0 for 224x224x3 and 1,000 classes, batch normalisation folded in."""
    layers = _Layers(3)
    layers.conv(3, 32, 3, 2)
    layers.six()
    wide = 32
    for expansion, narrow, repeats, first in _BLOCKS:
        for repeat in range(repeats):
            stride, entry = (first if repeat == 0 else 1), layers.last
            if expansion > 1:
                layers.conv(wide, wide * expansion, 1)
                layers.six()
            layers.conv(wide * expansion, wide * expansion, 3, stride, depthwise=True)
            layers.six()
            layers.conv(wide * expansion, narrow, 1)
            if stride == 1 and wide == narrow:
                layers.add("Add", entry)
            wide = narrow
    layers.conv(wide, 1280, 1)
    layers.six()
    _head(layers, 1280, 1000)
    layers.save(path, [1, 3, 224, 224], 1000)


def _head(layers: _Layers, wide: int, classes: int) -> None:
    layers.add("GlobalAveragePool")
    layers.add("Flatten")
    layers.dense(wide, classes)
    layers.add("Softmax", axis=1)


class _Samples(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._rows = iter(rows)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        row = next(self._rows, None)
        return None if row is None else {"x": row[np.newaxis]}


def quantized(
    build: Callable[[Path], None], samples: Callable[[], NDArray[np.float32]]
) -> Callable[[Path], None]:
    """The same model in int8, taking an int8 tensor."""

    def make(path: Path) -> None:
        whole = path.with_suffix(".float.onnx")
        build(whole)
        quantization.quantize_static(
            whole,
            path,
            _Samples(samples()),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        whole.unlink()
        _take_int8(path)

    return make


def _take_int8(path: Path) -> None:
    """Make the output of the first quantize node the model's input."""
    model = onnx.load_model(path)
    first = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "x")
    for node in model.graph.node:
        node.input[:] = ["x" if name == first.output[0] else name for name in node.input]
    model.graph.node.remove(first)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
    onnx.checker.check_model(model)
    onnx.save_model(model, path)


def tabular_rows(features: int) -> Rows:
    """float32[count, features] standard normal."""
    return lambda count, seed: np.random.default_rng(seed).normal(size=(count, features)).astype(np.float32)


def tabular(count: int, seed: int) -> NDArray[np.float32]:
    """float32[count, 30] standard normal."""
    rows: NDArray[np.float32] = tabular_rows(FEATURES)(count, seed)
    return rows


def tabular_codes(count: int, seed: int) -> NDArray[np.int8]:
    """int8[count, 30], what a quantize node makes of `tabular`."""
    return np.clip(np.rint(tabular(count, seed) * 30), -127, 127).astype(np.int8)


def images(side: int) -> Rows:
    """int8[count, 3, side, side]: smooth scenes of varying light, with a sensor's noise."""

    def rows(count: int, seed: int) -> NDArray[np.int8]:
        rng = np.random.default_rng(seed)
        coarse = rng.normal(0, 35, (count, 3, 8, 8)) + rng.normal(0, 25, (count, 1, 1, 1))
        scene = np.kron(coarse, np.ones((1, 1, side // 8, side // 8), np.float32))
        return np.clip(scene + rng.normal(0, 4, scene.shape), -126, 125).astype(np.int8)

    return rows


def _floats(side: int) -> Callable[[], NDArray[np.float32]]:
    def rows() -> NDArray[np.float32]:
        return np.divide(images(side)(8, 5), 64, dtype=np.float32)

    return rows


CASES: tuple[Case, ...] = (
    Case("tabular30", "MLP 30-64-32-10, float32", mlp, tabular, 20_000, 20_000),
    Case(
        "tabular30_int8",
        "the same MLP, int8, int8 input",
        quantized(mlp, lambda: tabular(256, 5)),
        tabular_codes,
        20_000,
        20_000,
    ),
    Case(
        "cnn96_int8",
        "MobileNetV1 0.25 96x96x3, int8, int8 input",
        quantized(cnn96, _floats(96)),
        images(96),
        2_000,
        2_000,
    ),
    Case(
        "mobilenetv2_int8",
        "MobileNetV2 1.0 224x224x3, int8, int8 input",
        quantized(mobilenetv2, _floats(224)),
        images(224),
        300,
        200,
    ),
)
