"""Small models and bundles for the agent's tests, built on the spot."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from driftpost_models.build import build_bundle
from driftpost_models.bundle import Bundle
from driftpost_models.policy import Policy

FEATURES, CLASSES = 30, 10
REFERENCE_ROWS = 4000


def mlp(seed: int = 0) -> bytes:
    """A classifier 30-64-32-10 with softmax, batch free, float32; random weights."""
    rng = np.random.default_rng(seed)
    sizes = (FEATURES, 64, 32, CLASSES)
    nodes, weights, last = [], [], "x"
    for layer, (wide, narrow) in enumerate(pairwise(sizes)):
        matrix = rng.normal(0, 1 / np.sqrt(wide), (wide, narrow)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        last = f"m{layer}"
        if narrow != CLASSES:
            nodes.append(helper.make_node("Relu", [last], [f"r{layer}"]))
            last = f"r{layer}"
    nodes.append(helper.make_node("Softmax", [last], ["p"], axis=1))
    return _model(nodes, [("x", TensorProto.FLOAT, [None, FEATURES])], [("p", [None, CLASSES])], weights)


def image_model(rows: int | None = 1) -> bytes:
    """Mean brightness of a uint8 picture 16x16x3, batch fixed at `rows`: enough to see what a guard does."""
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["brightness"], axes=[1, 2, 3], keepdims=0),
    ]
    image = ("image", TensorProto.UINT8, [rows, 16, 16, 3])
    return _model(nodes, [image], [("brightness", [rows])], [])


def reciprocal_model() -> bytes:
    """1 / x of four columns: a zero makes it answer infinity."""
    nodes = [helper.make_node("Reciprocal", ["x"], ["y"])]
    return _model(nodes, [("x", TensorProto.FLOAT, [None, 4])], [("y", [None, 4])], [])


def _model(
    nodes: list[Any],
    inputs: list[tuple[str, int, list[int | None]]],
    outputs: list[tuple[str, Any]],
    weights: Any,
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tabular_rows(count: int, seed: int = 1, shift: float = 0.0) -> NDArray[np.float32]:
    """Standard normal rows of 30 features; `shift` moves them all."""
    return (np.random.default_rng(seed).normal(shift, 1, (count, FEATURES))).astype(np.float32)


def pictures(count: int, seed: int = 1) -> NDArray[np.uint8]:
    """Noisy pictures of varying brightness."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(60, 180, (count, 1, 1, 1))
    return np.clip(base + rng.normal(0, 25, (count, 16, 16, 3)), 0, 255).astype(np.uint8)


def built(folder: Path, name: str, model: bytes, reference: NDArray[Any], **options: Any) -> Path:
    """Build a bundle of a model and its reference in `folder`; returns its path."""
    (folder / f"{name}.onnx").write_bytes(model)
    np.save(folder / f"{name}.npy", reference)
    out = folder / f"{name}.bundle"
    options.setdefault("version", "1")
    build_bundle(folder / f"{name}.onnx", folder / f"{name}.npy", out, name=name, **options)
    return out


def with_policy(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle with another policy, as an owner would have built it."""
    policy: Policy = bundle.policy.with_(**changes)
    return replace(bundle, policy=policy)
