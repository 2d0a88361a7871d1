"""Small ONNX models for tests, made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET = 17


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = _OPSET,
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="tests")
    model.ir_version = 8
    return model


def info(name: str, dtype: int, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def classifier(features: int = 3, classes: int = 4, *, softmax: bool = True, seed: int = 0) -> bytes:
    """Linear scores of `[?, features]`, with or without softmax."""
    weights = np.random.default_rng(seed).normal(0, 2, (features, classes)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["scores" if softmax else "y"])]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["y"], axis=-1))
    return _model(
        nodes,
        [info("x", TensorProto.FLOAT, ["batch", features])],
        [info("y", TensorProto.FLOAT, ["batch", classes])],
        {"w": weights},
    ).SerializeToString()


def identity(dtype: int = TensorProto.FLOAT, shape: Sequence[int | str] = ("batch", 4)) -> bytes:
    """Answers what it is given."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return _model([node], [info("x", dtype, shape)], [info("y", dtype, shape)]).SerializeToString()


def quantized_ends(*, constants_as_nodes: bool = False) -> bytes:
    """int8 in and out with DequantizeLinear first and QuantizeLinear last, a Reshape on either side."""
    values = {
        "in_scale": np.array(0.5, np.float32),
        "in_zero": np.array(-3, np.int8),
        "out_scale": np.array(0.25, np.float32),
        "out_zero": np.array(7, np.int8),
        "flat": np.array([1, 6], np.int64),
        "tall": np.array([1, 3, 2], np.int64),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["x_flat"]),
        helper.make_node("DequantizeLinear", ["x_flat", "in_scale", "in_zero"], ["real"]),
        helper.make_node("Relu", ["real"], ["positive"]),
        helper.make_node("QuantizeLinear", ["positive", "out_scale", "out_zero"], ["y_flat"]),
        helper.make_node("Reshape", ["y_flat", "tall"], ["y"]),
    ]
    if constants_as_nodes:
        nodes = [
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
            for name, value in values.items()
        ] + nodes
    return _model(
        nodes,
        [info("x", TensorProto.INT8, [1, 2, 3])],
        [info("y", TensorProto.INT8, [1, 3, 2])],
        {} if constants_as_nodes else values,
    ).SerializeToString()


def float_ends_on_a_grid() -> bytes:
    """Float in and out, rounded to a grid right behind the input and right before the output."""
    values = {"scale": np.array(0.1, np.float32), "zero": np.array(5, np.uint8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    shape = [1, 4]
    return _model(
        nodes, [info("x", TensorProto.FLOAT, shape)], [info("y", TensorProto.FLOAT, shape)], values
    ).SerializeToString()


def two_inputs_and_a_scalar() -> bytes:
    """y = (a + b) * k, with a scalar k of int64."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Cast", ["k"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sum", "factor"], ["y"]),
    ]
    return _model(
        nodes,
        [
            info("a", TensorProto.FLOAT, [1, 3]),
            info("b", TensorProto.FLOAT, [1, 3]),
            info("k", TensorProto.INT64, []),
        ],
        [info("y", TensorProto.FLOAT, [1, 3])],
    ).SerializeToString()


def counter() -> bytes:
    """A model with an explicit state: state_out = state + x, y = state_out."""
    nodes = [
        helper.make_node("Add", ["x", "state"], ["state_out"]),
        helper.make_node("Identity", ["state_out"], ["y"]),
    ]
    shape = [1, 2]
    return _model(
        nodes,
        [info("x", TensorProto.FLOAT, shape), info("state", TensorProto.FLOAT, shape)],
        [info("y", TensorProto.FLOAT, shape), info("state_out", TensorProto.FLOAT, shape)],
    ).SerializeToString()


def endless() -> bytes:
    """A model that answers at once for x[0] == 0, and else counts for longer than any deadline."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Sin", ["carried_in"], ["carried_out"]),
        ],
        "body",
        [
            info("count", TensorProto.INT64, []),
            info("go_in", TensorProto.BOOL, []),
            info("carried_in", TensorProto.FLOAT, [1]),
        ],
        [info("go_out", TensorProto.BOOL, []), info("carried_out", TensorProto.FLOAT, [1])],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["go"], to=TensorProto.BOOL),
        helper.make_node("Loop", ["trips", "go", "start"], ["y"], body=body),
    ]
    return _model(
        nodes,
        [info("x", TensorProto.FLOAT, [1])],
        [info("y", TensorProto.FLOAT, [1])],
        {"trips": np.array(2**60, np.int64), "start": np.array([0.5], np.float32)},
    ).SerializeToString()


def failing() -> bytes:
    """A model whose Reshape fails for every input that does not hold 4 values."""
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    return _model(
        [node],
        [info("x", TensorProto.FLOAT, ["batch", "any"])],
        [info("y", TensorProto.FLOAT, [2, 2])],
        {"shape": np.array([2, 2], np.int64)},
    ).SerializeToString()


def unknown_operator() -> bytes:
    node = helper.make_node("NoSuchOperator", ["x"], ["y"])
    shape = [1, 4]
    return _model(
        [node], [info("x", TensorProto.FLOAT, shape)], [info("y", TensorProto.FLOAT, shape)]
    ).SerializeToString()


def too_new() -> bytes:
    model = onnx.load_from_string(identity())
    model.ir_version = 99
    return model.SerializeToString()


def texts() -> bytes:
    return identity(TensorProto.STRING, [1, 4])


def sequence_output() -> bytes:
    """What scikit-learn's converter makes unless it is told otherwise: an output that is no tensor."""
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    output = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    return _model([node], [info("x", TensorProto.FLOAT, [1, 4])], [output]).SerializeToString()


def external_data(folder: Path) -> bytes:
    """A model whose weights live in another file."""
    path = folder / "external.onnx"
    model = onnx.load_from_string(classifier(64, 64))
    onnx.save_model(model, str(path), save_as_external_data=True, size_threshold=16, location="weights.bin")
    return path.read_bytes()


def conv_images(channels: int = 3, size: int = 16, classes: int = 3, *, channels_first: bool = True) -> bytes:
    """Mean colour of an image into class probabilities."""
    shape = [1, channels, size, size] if channels_first else [1, size, size, channels]
    axes = [2, 3] if channels_first else [1, 2]
    weights = np.random.default_rng(1).normal(0, 8, (channels, classes)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1),
    ]
    return _model(
        nodes,
        [info("image", TensorProto.FLOAT, shape)],
        [info("probabilities", TensorProto.FLOAT, [1, classes])],
        {"w": weights},
    ).SerializeToString()
