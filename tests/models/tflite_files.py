"""Small TFLite models for tests, made on the spot with the schema that LiteRT ships."""

from __future__ import annotations

from collections.abc import Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "bool": schema.TensorType.BOOL,
}


def tensor(
    name: str,
    shape: Sequence[int],
    dtype: str = "float32",
    *,
    scale: float | None = None,
    zero_point: int = 0,
    free: Sequence[int] | None = None,
    buffer: int = 0,
) -> schema.TensorT:
    made = schema.TensorT()
    made.name = name.encode()
    made.shape = list(shape)
    made.shapeSignature = None if free is None else list(free)
    made.type = _TYPES[dtype]
    made.buffer = buffer
    if scale is not None:
        quantization = schema.QuantizationParametersT()
        quantization.scale = [scale]
        quantization.zeroPoint = [zero_point]
        made.quantization = quantization
    return made


def operator(
    code: int, inputs: Sequence[int], outputs: Sequence[int], kind: int = 0, options: object = None
) -> schema.OperatorT:
    made = schema.OperatorT()
    made.opcodeIndex = code
    made.inputs = list(inputs)
    made.outputs = list(outputs)
    made.builtinOptionsType = kind
    made.builtinOptions = options
    return made


def subgraph(
    tensors: Sequence[schema.TensorT],
    inputs: Sequence[int],
    outputs: Sequence[int],
    operators: Sequence[schema.OperatorT],
) -> schema.SubGraphT:
    made = schema.SubGraphT()
    made.name = b"main"
    made.tensors = list(tensors)
    made.inputs = list(inputs)
    made.outputs = list(outputs)
    made.operators = list(operators)
    return made


def pack(
    graphs: Sequence[schema.SubGraphT],
    codes: Sequence[int | str],
    buffers: Sequence[bytes] = (),
    signature: tuple[dict[str, int], dict[str, int]] | None = None,
) -> bytes:
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT()]
    for content in buffers:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        model.buffers.append(buffer)
    model.operatorCodes = []
    for code in codes:
        made = schema.OperatorCodeT()
        made.version = 1
        if isinstance(code, str):
            made.builtinCode = schema.BuiltinOperator.CUSTOM
            made.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
            made.customCode = code.encode()
        else:
            made.builtinCode = code
            made.deprecatedBuiltinCode = min(code, 127)
        model.operatorCodes.append(made)
    model.subgraphs = list(graphs)
    if signature is not None:
        made = schema.SignatureDefT()
        made.signatureKey = b"serving_default"
        made.inputs, made.outputs = (_named(side) for side in signature)
        model.signatureDefs = [made]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _named(side: dict[str, int]) -> list[schema.TensorMapT]:
    maps = []
    for name, index in side.items():
        made = schema.TensorMapT()
        made.name = name.encode()
        made.tensorIndex = index
        maps.append(made)
    return maps


def _add() -> tuple[int, object]:
    return schema.BuiltinOptions.AddOptions, schema.AddOptionsT()


def adder(
    names: tuple[str, str, str] = ("a", "b", "y"), signature: tuple[str, str, str] | None = None
) -> bytes:
    """Two float inputs of 4, and their sum."""
    kind, options = _add()
    graph = subgraph(
        [tensor(name, (1, 4)) for name in names], (0, 1), (2,), [operator(0, (0, 1), (2,), kind, options)]
    )
    signed = None
    if signature is not None:
        signed = ({signature[0]: 0, signature[1]: 1}, {signature[2]: 2})
    return pack([graph], [schema.BuiltinOperator.ADD], signature=signed)


def quantized_adder(dtype: str, scale: float | None, zero_point: int, *, free_batch: bool = False) -> bytes:
    """x + x for a quantized dtype."""
    free = (-1, 4) if free_batch else None
    kind, options = _add()
    made = [
        tensor("x", (1, 4), dtype, scale=scale, zero_point=zero_point, free=free),
        tensor("y", (1, 4), dtype, scale=scale, zero_point=zero_point, free=free),
    ]
    return pack(
        [subgraph(made, (0,), (1,), [operator(0, (0, 0), (1,), kind, options)])], [schema.BuiltinOperator.ADD]
    )


def reshaper(dtype: str, scale: float | None) -> bytes:
    """Moves values without arithmetic, so that odd quantization is legal."""
    shape = np.array([1, 2, 2], np.int32).tobytes()
    made = [
        tensor("x", (1, 4), dtype, scale=scale),
        tensor("shape", (3,), "int32", buffer=1),
        tensor("y", (1, 2, 2), dtype, scale=scale),
    ]
    options = schema.ReshapeOptionsT()
    options.newShape = [1, 2, 2]
    graph = subgraph(
        made, (0,), (2,), [operator(0, (0, 1), (2,), schema.BuiltinOptions.ReshapeOptions, options)]
    )
    return pack([graph], [schema.BuiltinOperator.RESHAPE], [shape])


def custom(name: str) -> bytes:
    """A model that needs an operator of somebody's own."""
    graph = subgraph([tensor("x", (1, 4)), tensor("y", (1, 4))], (0,), (1,), [operator(0, (0,), (1,))])
    return pack([graph], [name])


def endless() -> bytes:
    """A WHILE whose condition is its own input: it never ends for True."""
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    main = subgraph(
        [tensor("x", (1,), "bool"), tensor("y", (1,), "bool")],
        (0,),
        (1,),
        [operator(0, (0,), (1,), schema.BuiltinOptions.WhileOptions, options)],
    )
    condition = subgraph(
        [tensor("c", (1,), "bool"), tensor("d", (1,), "bool")],
        (0,),
        (1,),
        [operator(1, (0, 0), (1,), schema.BuiltinOptions.LogicalOrOptions, schema.LogicalOrOptionsT())],
    )
    body = subgraph(
        [tensor("b", (1,), "bool"), tensor("e", (1,), "bool")],
        (0,),
        (1,),
        [operator(1, (0, 0), (1,), schema.BuiltinOptions.LogicalOrOptions, schema.LogicalOrOptionsT())],
    )
    return pack([main, condition, body], [schema.BuiltinOperator.WHILE, schema.BuiltinOperator.LOGICAL_OR])
