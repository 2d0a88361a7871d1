"""The few facts about an ONNX file that ONNX Runtime does not tell.

ONNX Runtime reports names, types and shapes, but not the quantization of a graph's inputs and outputs, nor
why it can't read a file. The protobuf is read here directly (onnx.proto field numbers), because the `onnx`
package is a heavy guest on a device that only wants to run a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MAX_NODES = 1_000_000
"""Nodes. The largest public models have some ten thousand; this bounds a hostile file's loop."""

_VARINT_BYTES = 10
_FLOAT_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
_INT_TYPES = {2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8"}

_WEIGHTED = frozenset({"Gemm", "MatMul", "Conv", "QGemm", "QLinearMatMul", "QLinearConv", "MatMulInteger"})
# Operators between the last layer with weights and the output: softmax, quantization, reshapes.
_MOST_AFTER_LAST = 16
# Operators that move values without changing them: quantization on one side holds on the other.
_MOVES = frozenset({"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"})


@dataclass(frozen=True)
class Grid:
    """Quantization of one tensor: real value = (code - zero_point) * scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class _Node:
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class OnnxGraph:
    """What was read from the file.

    Attributes:
        grids: quantization of graph inputs and outputs by name, where a (De)QuantizeLinear with a single
            scale stands at that end of the graph.
        external_data: whether weights live in other files.
        penultimate: what the last layer with weights reads, after it was quantized if it is; None where there
            is more than one output, or no such layer above it.
    """

    grids: dict[str, Grid]
    external_data: bool
    penultimate: str | None = None


class _Damaged(ValueError):
    """The bytes are not protobuf."""


def _varint(buffer: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_VARINT_BYTES):
        if at >= len(buffer):
            raise _Damaged("ends inside a number")
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at
    raise _Damaged("a number is too long")


def _fields(buffer: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers with their varint, or their bytes."""
    at = 0
    while at < len(buffer):
        key, at = _varint(buffer, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _Damaged("field number 0")
        if wire == 0:
            value, at = _varint(buffer, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(buffer, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise _Damaged(f"wire type {wire}")
        if length > len(buffer) - at:
            raise _Damaged("ends inside a field")
        yield number, buffer[at : at + length]
        at += length


def _messages(buffer: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(buffer):
        if number == wanted and isinstance(value, memoryview):
            yield value


def looks_like_onnx(content: bytes) -> bool:
    """Whether the bytes are a protobuf whose top level has an IR version and a graph."""
    seen = set()
    try:
        for number, value in _fields(memoryview(content)):
            if (number == 1 and isinstance(value, int)) or (number == 7 and isinstance(value, memoryview)):
                seen.add(number)
            if len(seen) == 2:
                return True
    except _Damaged:
        # A truncated file still shows its version and its maker; the runtime then says what is wrong with it.
        return 1 in seen and content[:1] == b"\x08"
    return False


def _number(tensor: memoryview) -> tuple[str, float | int, bool] | None:
    """Name and single value of a TensorProto, None for longer ones; and whether it lives in another file."""
    name, data_type, raw, external = "", 0, b"", False
    plain: float | int | None = None
    count = 1
    for number, value in _fields(tensor):
        if number == 1 and isinstance(value, int):
            count *= value
        elif number == 1 and isinstance(value, memoryview):
            at = 0
            while at < len(value):
                dim, at = _varint(value, at)
                count *= dim
        elif number == 2 and isinstance(value, int):
            data_type = value
        elif number == 8 and isinstance(value, memoryview):
            name = bytes(value).decode(errors="replace")
        elif number == 9 and isinstance(value, memoryview) and len(value) <= 8:
            raw = bytes(value)
        elif number == 4 and isinstance(value, memoryview) and len(value) == 4:
            plain = float(np.frombuffer(value, "<f4")[0])
        elif number in (5, 7):
            coded = value if isinstance(value, int) else _varint(value, 0)[0]
            plain = coded - (1 << 64) if coded >= 1 << 63 else coded
        elif number == 14 and value == 1:
            external = True
    if external:
        return name, 0, True
    if count != 1:
        return None
    dtype = _FLOAT_TYPES.get(data_type) or _INT_TYPES.get(data_type)
    if raw and dtype and len(raw) == np.dtype(dtype).itemsize:
        found = np.frombuffer(raw, dtype)[0]
        plain = float(found) if data_type in _FLOAT_TYPES else int(found)
    return None if plain is None else (name, plain, False)


def _node(buffer: memoryview) -> tuple[_Node, tuple[str, float | int, bool] | None]:
    inputs, outputs, op = [], [], ""
    constant = None
    for number, value in _fields(buffer):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            inputs.append(bytes(value).decode(errors="replace"))
        elif number == 2:
            outputs.append(bytes(value).decode(errors="replace"))
        elif number == 4:
            op = bytes(value).decode(errors="replace")
        elif number == 5:
            for tensor in _messages(value, 5):
                constant = _number(tensor)
    return _Node(op, tuple(inputs), tuple(outputs)), constant


def _grid(node: _Node, values: dict[str, float | int]) -> Grid | None:
    scale = values.get(node.inputs[1]) if len(node.inputs) > 1 else None
    zero = values.get(node.inputs[2]) if len(node.inputs) > 2 else 0
    if scale is None or zero is None or not scale > 0:
        return None
    return Grid(float(scale), int(zero))


def _follow(
    start: str, by_tensor: dict[str, list[_Node]], values: dict[str, float | int], *, forward: bool
) -> Grid | None:
    """Walk from a graph's end over operators that only move values to a (De)QuantizeLinear."""
    name = start
    for _ in range(16):
        nodes = by_tensor.get(name, [])
        if len(nodes) != 1:
            return None
        node = nodes[0]
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            return _grid(node, values) if (not forward or node.inputs[0] == name) else None
        if node.op not in _MOVES or not node.inputs or not node.outputs:
            return None
        name = node.outputs[0] if forward else node.inputs[0]
    return None


def read_graph(content: bytes) -> OnnxGraph:
    """Read quantization at the graph's ends.

    Raises:
        ValueError: the bytes are not an ONNX protobuf.
    """
    values: dict[str, float | int] = {}
    external = False
    consumers: dict[str, list[_Node]] = {}
    producers: dict[str, list[_Node]] = {}
    ends: list[tuple[str, bool]] = []
    for graph in _messages(memoryview(content), 7):
        for index, (number, value) in enumerate(_fields(graph)):
            if index > MAX_NODES:
                raise _Damaged("too many nodes")
            if not isinstance(value, memoryview):
                continue
            found = None
            if number == 1:
                node, found = _node(value)
                for name in set(node.inputs):
                    consumers.setdefault(name, []).append(node)
                for name in node.outputs:
                    producers.setdefault(name, []).append(node)
                if found is not None and node.outputs:
                    found = (node.outputs[0], found[1], found[2])
            elif number == 5:
                found = _number(value)
            elif number in (11, 12):
                named = next(_messages(value, 1), None)
                if named is not None:
                    ends.append((bytes(named).decode(errors="replace"), number == 11))
            if found is not None:
                external = external or found[2]
                values[found[0]] = found[1]
    grids = {}
    for name, is_input in ends:
        grid = _follow(name, consumers if is_input else producers, values, forward=is_input)
        if grid is not None:
            grids[name] = grid
    outputs = [name for name, is_input in ends if not is_input]
    return OnnxGraph(grids, external, _penultimate(outputs[0], producers) if len(outputs) == 1 else None)


def _penultimate(output: str, producers: dict[str, list[_Node]]) -> str | None:
    name = output
    for _ in range(_MOST_AFTER_LAST):
        node = next(iter(producers.get(name, [])), None)
        if node is None or not node.inputs:
            return None
        name = node.inputs[0]
        if node.op in _WEIGHTED:
            break
    else:
        return None
    # A graph in QDQ form reads real numbers from a dequantize node: those would have to be computed for the
    # tap alone, and the pair of nodes could no longer be fused into the layer. The codes are there anyway.
    before = next(iter(producers.get(name, [])), None)
    if before is not None and before.op == "DequantizeLinear":
        return before.inputs[0]
    return name if before is not None else None
