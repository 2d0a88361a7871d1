"""A tap of the penultimate layer: what the last layer reads becomes an output of the model.

What a network has made of its input just before it decides drifts before the answers do. The tensor is read
where it exists anyway: in a quantized model as codes, after its quantize node, so that layers are fused as
before. That costs half a microsecond to one for each call, and the model's answers stay what they were.
"""

from __future__ import annotations

from driftpost_models.errors import ModelRefused
from driftpost_models.onnx_graph import looks_like_onnx, read_graph

# Fields of onnx.proto, with the wire type of bytes: ModelProto.graph, GraphProto.output, ValueInfoProto.name.
_GRAPH, _OUTPUT, _NAME = (field << 3 | 2 for field in (7, 12, 1))


def tapped(content: bytes) -> bytes:
    """The model with its penultimate layer as a second output.

    Args:
        content: an ONNX file.

    Raises:
        ModelRefused: not ONNX, of several outputs, or without a layer that could be tapped.
    """
    if not looks_like_onnx(content):
        raise ModelRefused(
            "Only ONNX models can be tapped: a TFLite file's inner tensors share memory and are overwritten.",
            "Leave --tap out, or convert the model so that the layer is an output of its own.",
        )
    try:
        name = read_graph(content).penultimate
    except ValueError as error:
        raise ModelRefused(f"The ONNX file is damaged: it {error}.", "Fetch it again.") from error
    if name is None:
        raise ModelRefused(
            "The model has several outputs, or no layer with weights before its only one: nothing to tap.",
            "Leave --tap out, or make the layer of interest an output when the model is exported.",
        )
    # Two messages in one field are merged when they are read, so the graph gets its output by appending one.
    # ONNX Runtime infers the type of an output that states none.
    return content + _field(_GRAPH, _field(_OUTPUT, _field(_NAME, name.encode())))


def _field(key: int, value: bytes) -> bytes:
    size, length = b"", len(value)
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([key]) + size + bytes([length]) + value
