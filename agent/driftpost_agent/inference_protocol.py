"""Open Inference Protocol v2 over HTTP: JSON and binary tensors, as pure functions on bytes.

Requests and responses follow the protocol's REST specification with the binary tensor data extension: the
header `Inference-Header-Content-Length` gives the length of the JSON, and little-endian row-major tensors
follow it in the order in which the JSON names them. `docs/inference-protocol.md` shows both forms.

JSON has no NaN or infinity. `null` in the data of a floating-point tensor stands for NaN, both ways.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftpost_agent.errors import RequestRefused
from driftpost_agent.verdict import GuardedResult

HEADER_LENGTH = "Inference-Header-Content-Length"

# numpy's names on the left; BYTES is left out because there is no stream to be made of free text.
_DATATYPES: Mapping[str, str] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
_DTYPES: Mapping[str, np.dtype[Any]] = {
    wire: np.dtype(name).newbyteorder("<") for name, wire in _DATATYPES.items()
}

# No tensor of an edge model has more axes than this, and numpy itself stops at 64.
MAX_AXES = 16
# Length of one axis; far more than any request's bytes can hold. A longer number could not even be reported.
MAX_LENGTH = 1 << 63
# Product of the other axes of a tensor with an axis of length none.
MAX_EMPTY = 1 << 40
# A request names a handful of tensors; more than this is an attack on memory.
MAX_TENSORS = 256

Parameter = str | int | float | bool


@dataclass(frozen=True)
class RequestedOutput:
    """An output the client asked for, and whether it wants it as raw bytes."""

    name: str
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """A decoded request: `inputs` by name, and how the answer should look."""

    inputs: Mapping[str, NDArray[Any]]
    id: str = ""
    outputs: tuple[RequestedOutput, ...] = ()
    binary_default: bool = False
    parameters: Mapping[str, object] = field(default_factory=dict)


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a numpy dtype.

    Raises:
        RequestRefused: the protocol, or this server, has no such type.
    """
    try:
        return _DATATYPES[dtype.name]
    except KeyError:
        raise RequestRefused(f"tensors of type {dtype.name} can't be sent over this protocol", 500) from None


def dtype_of(name: str, datatype: object) -> np.dtype[Any]:
    """The numpy dtype, little-endian, of what an input `name` says it is.

    Raises:
        RequestRefused: the protocol has no such type.
    """
    if not isinstance(datatype, str) or datatype not in _DTYPES:
        raise RequestRefused(
            f"input {name!r} has datatype {datatype!r}; this server takes {', '.join(_DTYPES)}"
        )
    return _DTYPES[datatype]


def wire_shape(shape: Sequence[int | None]) -> list[int]:
    """A model's shape as the protocol writes it: -1 for a variable dimension."""
    return [-1 if size is None else size for size in shape]


def decode_request(body: bytes, header_length: str | None) -> InferRequest:
    """Decode the body of `POST .../infer`.

    Args:
        body: the whole body.
        header_length: the value of the header `Inference-Header-Content-Length`, None if absent.

    Raises:
        RequestRefused: with status 400 and what is wrong in it.
    """
    json_size = _json_size(header_length, len(body))
    document = _document(body[:json_size])
    tensors = document.get("inputs")
    if not isinstance(tensors, list) or not tensors:
        raise RequestRefused("the request needs 'inputs', a list with at least one tensor")
    if len(tensors) > MAX_TENSORS:
        raise RequestRefused(f"the request names {len(tensors)} inputs; at most {MAX_TENSORS} are accepted")
    parameters = _object(document.get("parameters", {}), "parameters")
    inputs: dict[str, NDArray[Any]] = {}
    position = json_size
    for tensor in tensors:
        entry = _object(tensor, "each of 'inputs'")
        name = _name(entry)
        if name in inputs:
            raise RequestRefused(f"input {name!r} is given twice")
        inputs[name], position = _tensor(name, entry, body, position)
    if position != len(body):
        raise RequestRefused(f"{len(body) - position} bytes follow the last binary tensor")
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise RequestRefused("'id' must be a string")
    binary_default = parameters.get("binary_data_output", False) is True
    return InferRequest(
        inputs=inputs,
        id=request_id,
        outputs=_requested(document.get("outputs", []), binary_default),
        binary_default=binary_default,
        parameters=parameters,
    )


def encode_response(
    request: InferRequest, result: GuardedResult, model_name: str, model_version: str
) -> tuple[dict[str, str], bytes]:
    """Encode a result: headers to add, and the body.

    The verdict travels in `parameters`: `verdict`, `verdict_reasons` (comma separated) and `inference_id`. A
    result without outputs (the guard abstained) has an empty list of them.

    Raises:
        RequestRefused: the client asked for an output that the model does not have.
    """
    wanted = request.outputs or tuple(
        RequestedOutput(name, request.binary_default) for name in result.outputs
    )
    outputs: list[dict[str, object]] = []
    tail: list[bytes] = []
    for output in wanted if result.outputs else ():
        value = result.outputs.get(output.name)
        if value is None:
            raise RequestRefused(
                f"the model has no output {output.name!r}; it has {', '.join(map(repr, result.outputs))}"
            )
        entry: dict[str, object] = {
            "name": output.name,
            "datatype": datatype_of(value.dtype),
            "shape": list(value.shape),
        }
        if output.binary:
            raw = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<")).tobytes()
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            entry["data"] = _json_data(value)
        outputs.append(entry)
    document: dict[str, object] = {
        "model_name": model_name,
        "model_version": model_version,
        "id": request.id,
        "parameters": verdict_parameters(result),
        "outputs": outputs,
    }
    head = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    if not tail:
        return {"Content-Type": "application/json"}, head
    return (
        {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))},
        b"".join((head, *tail)),
    )


def verdict_parameters(result: GuardedResult) -> dict[str, Parameter]:
    """The verdict as the scalars that a response's `parameters` may hold."""
    return {
        "verdict": result.verdict.status.value,
        "verdict_reasons": ",".join(reason.label for reason in result.verdict.reasons),
        "inference_id": result.inference_id,
    }


def _json_size(header_length: str | None, body_length: int) -> int:
    if header_length is None:
        return body_length
    if not (header_length.isascii() and header_length.isdigit()) or int(header_length[:20]) > body_length:
        raise RequestRefused(
            f"the header {HEADER_LENGTH} must be the length of the JSON part, between 0 and {body_length}"
        )
    return int(header_length)


def _document(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except RecursionError:
        raise RequestRefused("the JSON is nested too deeply") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise RequestRefused(f"the body is not valid JSON: {error}") from None
    return _object(document, "the body")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestRefused(f"{what} must be a JSON object")
    return value


def _name(entry: Mapping[str, object]) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise RequestRefused("each tensor needs a 'name'")
    return name


def _requested(outputs: object, binary_default: bool) -> tuple[RequestedOutput, ...]:
    if not isinstance(outputs, list):
        raise RequestRefused("'outputs' must be a list")
    if len(outputs) > MAX_TENSORS:
        raise RequestRefused(f"the request names {len(outputs)} outputs; at most {MAX_TENSORS} are accepted")
    requested = []
    for output in outputs:
        entry = _object(output, "each of 'outputs'")
        parameters = _object(entry.get("parameters", {}), "the parameters of an output")
        requested.append(RequestedOutput(_name(entry), parameters.get("binary_data", binary_default) is True))
    return tuple(requested)


def shape_of(name: str, entry: Mapping[str, object]) -> tuple[int, ...]:
    """The shape that a tensor of a request states.

    Raises:
        RequestRefused: it is none, or one that no array can have.
    """
    shape = entry.get("shape")
    # bool is an int to Python, and not to the protocol.
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_AXES
        or not all(type(size) is int and 0 <= size <= MAX_LENGTH for size in shape)
    ):
        raise RequestRefused(
            f"input {name!r} needs a 'shape', a list of at most {MAX_AXES} non-negative integers"
        )
    # An axis of none makes any shape hold no bytes, and numpy still multiplies the others.
    if 0 in shape and math.prod(max(size, 1) for size in shape) > MAX_EMPTY:
        raise RequestRefused(f"input {name!r}: no array has the shape {shape}")
    return tuple(shape)


def _tensor(name: str, entry: Mapping[str, object], body: bytes, position: int) -> tuple[NDArray[Any], int]:
    datatype = entry.get("datatype")
    dtype = dtype_of(name, datatype)
    shape = shape_of(name, entry)
    count = math.prod(shape)
    parameters = _object(entry.get("parameters", {}), f"the parameters of input {name!r}")
    size = parameters.get("binary_data_size")
    if size is None:
        return _json_tensor(name, entry.get("data"), dtype, shape, count), position
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise RequestRefused(f"input {name!r}: binary_data_size must be a non-negative integer")
    if "data" in entry:
        raise RequestRefused(f"input {name!r} has both 'data' and binary_data_size")
    if size != count * dtype.itemsize:
        raise RequestRefused(
            f"input {name!r}: shape {list(shape)} of {datatype} is {count * dtype.itemsize} bytes, "
            f"binary_data_size says {size}"
        )
    if position + size > len(body):
        raise RequestRefused(f"input {name!r}: the body ends {position + size - len(body)} bytes too early")
    values = np.frombuffer(body, dtype=dtype, count=count, offset=position).reshape(shape)
    return values, position + size


def _json_tensor(
    name: str, data: object, dtype: np.dtype[Any], shape: tuple[int, ...], count: int
) -> NDArray[Any]:
    if not isinstance(data, list):
        raise RequestRefused(f"input {name!r} needs 'data', a list, or binary_data_size")
    _check_numbers(name, data, dtype)
    try:
        # Left to itself numpy makes floats of integers above int64's range, and loses their last digits.
        raw = np.array(data, dtype=object if dtype.name == "uint64" else None)
    except (ValueError, OverflowError, RecursionError):
        raise RequestRefused(f"input {name!r}: the data is ragged or nested too deeply") from None
    if raw.size != count:
        raise RequestRefused(
            f"input {name!r}: shape {list(shape)} needs {count} values, the data has {raw.size}"
        )
    return _cast(name, raw, dtype).reshape(shape)


def _check_numbers(name: str, data: list[object], dtype: np.dtype[Any], depth: int = 1) -> None:
    """Refuse anything but numbers, truth values and null in nested lists.

    One long text among many short ones would become an array that is as wide as the longest in every place.
    """
    if depth > MAX_AXES:
        raise RequestRefused(f"input {name!r}: the data is ragged or nested too deeply")
    kinds = set(map(type, data))
    if not kinds <= {int, float, bool, type(None), list}:
        raise RequestRefused(f"input {name!r}: the data has values that are not of type {dtype.name}")
    if list in kinds:
        for part in data:
            if isinstance(part, list):
                _check_numbers(name, part, dtype, depth + 1)


def _cast(name: str, raw: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    mismatch = RequestRefused(f"input {name!r}: the data has values that are not of type {dtype.name}")
    if raw.size == 0:
        return raw.astype(dtype)
    if dtype.kind == "b":
        if raw.dtype.kind != "b":
            raise mismatch
        return raw
    if raw.dtype.kind == "O" and dtype.kind in "iu":
        if not all(type(value) is int for value in raw.flat):
            raise mismatch
        try:
            return raw.astype(dtype)
        except OverflowError:
            raise mismatch from None
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if raw.dtype.kind not in "iu" or int(raw.min()) < limits.min or int(raw.max()) > limits.max:
            raise mismatch
        return raw.astype(dtype)
    if raw.dtype.kind == "O":
        # null stands for NaN; whatever else makes an object array (huge integers, mappings) is refused.
        if not all(value is None or isinstance(value, (int, float)) for value in raw.flat):
            raise mismatch
        try:
            raw = raw.astype(np.float64)
        except (OverflowError, TypeError, ValueError):
            raise mismatch from None
    if raw.dtype.kind not in "iuf":
        raise mismatch
    with np.errstate(over="ignore"):
        return raw.astype(dtype)


def _json_data(value: NDArray[Any]) -> list[object]:
    flat: list[object] = value.ravel().tolist()
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        return [item if isinstance(item, float) and math.isfinite(item) else None for item in flat]
    return flat
