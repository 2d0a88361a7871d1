"""The Open Inference Protocol's codec: both forms of tensors, and everything a client can get wrong."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from driftpost_agent.errors import RequestRefused
from driftpost_agent.inference_protocol import (
    HEADER_LENGTH,
    InferRequest,
    RequestedOutput,
    decode_request,
    encode_response,
    wire_shape,
)
from driftpost_agent.verdict import OK, GuardedResult, Reason, Status, verdict_of


def _request(**tensor: Any) -> bytes:
    base: dict[str, Any] = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}
    base.update(tensor)
    return json.dumps({"inputs": [{k: v for k, v in base.items() if v is not ...}]}).encode()


def _refused(body: bytes, header: str | None = None) -> str:
    with pytest.raises(RequestRefused) as caught:
        decode_request(body, header)
    assert caught.value.status == 400
    return caught.value.problem


def test_nested_and_flat_data_mean_the_same_tensor() -> None:
    flat = decode_request(_request(shape=[2, 2], data=[1, 2, 4, 5]), None).inputs["x"]
    nested = decode_request(_request(shape=[2, 2], data=[[1, 2], [4, 5]]), None).inputs["x"]
    np.testing.assert_array_equal(flat, nested)
    assert flat.dtype == np.float32
    assert flat.shape == (2, 2)


def test_binary_tensors_follow_the_json_in_order() -> None:
    a, b = np.arange(6, dtype="<f4").reshape(2, 3), np.array([7, -8], dtype="<i2")
    head = json.dumps(
        {
            "id": "frame-1",
            "inputs": [
                {"name": "a", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": 24}},
                {"name": "j", "shape": [1], "datatype": "UINT8", "data": [9]},
                {"name": "b", "shape": [2], "datatype": "INT16", "parameters": {"binary_data_size": 4}},
            ],
        }
    ).encode()
    request = decode_request(head + a.tobytes() + b.tobytes(), str(len(head)))
    np.testing.assert_array_equal(request.inputs["a"], a)
    np.testing.assert_array_equal(request.inputs["b"], b)
    assert request.inputs["j"].tolist() == [9]
    assert request.id == "frame-1"


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("UINT16", [0, 65535]),
        ("UINT32", [0, 2**32 - 1]),
        ("UINT64", [0, 2**64 - 1]),
        ("INT8", [-128, 127]),
        ("INT16", [-(2**15), 2**15 - 1]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("FP16", [-1.5, 0.25]),
        ("FP32", [-1.5, 2.0**127]),
        ("FP64", [-1.5, 1e300]),
    ],
)
def test_every_datatype_round_trips_in_json_and_in_binary(datatype: str, values: list[Any]) -> None:
    given = decode_request(_request(datatype=datatype, data=values), None).inputs["x"]
    assert given.tolist() == values
    result = GuardedResult({"y": given}, OK, "1-1")
    for binary in (False, True):
        headers, body = encode_response(InferRequest({}, binary_default=binary), result, "m", "1")
        size = int(headers.get(HEADER_LENGTH, len(body)))
        output = json.loads(body[:size])["outputs"][0]
        assert output["datatype"] == datatype
        if binary:
            again = np.frombuffer(body[size:], dtype=given.dtype.newbyteorder("<"))
            assert output["parameters"]["binary_data_size"] == len(body) - size
        else:
            again = decode_request(_request(datatype=datatype, data=output["data"]), None).inputs["x"]
        np.testing.assert_array_equal(again, given)


def test_null_stands_for_nan_both_ways() -> None:
    given = decode_request(_request(data=[1.0, None]), None).inputs["x"]
    assert np.isnan(given[1])
    _, body = encode_response(InferRequest({}), GuardedResult({"y": given}, OK, ""), "m", "1")
    assert json.loads(body)["outputs"][0]["data"] == [1.0, None]


def test_the_verdict_travels_in_the_parameters() -> None:
    verdict = verdict_of(Status.FLAGGED, {Reason.SATURATED, Reason.OUT_OF_RANGE})
    result = GuardedResult({"y": np.ones(1, np.float32)}, verdict, "7-42")
    _, body = encode_response(InferRequest({}, id="mine"), result, "m", "3")
    document = json.loads(body)
    assert document["parameters"] == {
        "verdict": "flagged",
        "verdict_reasons": "out_of_range,saturated",
        "inference_id": "7-42",
    }
    assert (document["id"], document["model_name"], document["model_version"]) == ("mine", "m", "3")


def test_an_abstained_result_has_no_outputs_even_if_some_were_asked_for() -> None:
    result = GuardedResult({}, verdict_of(Status.ABSTAINED, {Reason.FROZEN}), "")
    _, body = encode_response(InferRequest({}, outputs=(RequestedOutput("y", True),)), result, "m", "1")
    assert json.loads(body)["outputs"] == []


def test_asking_for_an_unknown_output_names_those_there_are() -> None:
    request = InferRequest({}, outputs=(RequestedOutput("z", False),))
    with pytest.raises(RequestRefused, match="no output 'z'; it has 'y'"):
        encode_response(request, GuardedResult({"y": np.ones(1, np.float32)}, OK, ""), "m", "1")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b"[" * 200_000, "nested too deeply"),
        (b"{}", "needs 'inputs'"),
        (b'{"inputs": []}', "needs 'inputs'"),
        (b'{"inputs": [3]}', "must be a JSON object"),
        (b'{"inputs": [{}]}', "needs a 'name'"),
        (_request(datatype="BYTES", data=["a", "b"]), "datatype 'BYTES'"),
        (_request(datatype=["FP32"]), "datatype"),
        (_request(shape="2"), "needs a 'shape'"),
        (_request(shape=[0, 1 << 40, 1 << 40], data=[]), "no array has the shape"),
        (_request(shape=[True, 2]), "needs a 'shape'"),
        (_request(shape=[-1]), "needs a 'shape'"),
        (_request(shape=[1] * 99), "needs a 'shape'"),
        (_request(shape=[2**62, 2**62]), "needs 2126"),
        (_request(shape=[10**4000] * 2, data=..., parameters={"binary_data_size": 4}), "needs a 'shape'"),
        (_request(data=...), "needs 'data'"),
        (_request(data=[1, 2, 3]), "the data has 3"),
        (_request(shape=[2, 2], data=[[1, 2], [3]]), "ragged"),
        (_request(data=[1, "two"]), "not of type float32"),
        (_request(data=[1, {}]), "not of type float32"),
        (_request(datatype="INT8", data=[1, 300]), "not of type int8"),
        (_request(datatype="INT8", data=[1, 1.5]), "not of type int8"),
        (_request(datatype="UINT8", data=[1, None]), "not of type uint8"),
        (_request(datatype="BOOL", data=[1, 0]), "not of type bool"),
        (_request(datatype="INT64", data=[1, 10**400]), "not of type int64"),
        (_request(datatype="FP64", data=[1, 10**400]), "not of type float64"),
        (_request(data=..., parameters={"binary_data_size": -8}), "non-negative"),
        (_request(data=..., parameters={"binary_data_size": True}), "non-negative"),
        (_request(data=..., parameters={"binary_data_size": 4}), "is 8 bytes"),
        (_request(data=..., parameters={"binary_data_size": 8}), "8 bytes too early"),
        (_request(parameters={"binary_data_size": 8}), "has both"),
        (_request(parameters=[]), "must be a JSON object"),
        (json.dumps({"inputs": [{"name": "x"}] * 300}).encode(), "at most 256"),
        (
            json.dumps(
                {"id": 3, "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
            ).encode(),
            "'id' must be",
        ),
    ],
)
def test_malformed_requests_are_refused_with_what_is_wrong(body: bytes, says: str) -> None:
    assert says in _refused(body)


def test_text_among_numbers_costs_no_more_memory_than_it_is_long() -> None:
    body = _request(data=["a" * 60_000] + ["b"] * 2_000)
    tracemalloc.start()
    try:
        assert "not of type float32" in _refused(body)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("header", ["-1", "9" * 50, "two", "\u0661", "1e3", ""])
def test_a_header_length_that_is_no_length_is_refused(header: str) -> None:
    assert HEADER_LENGTH in _refused(_request(), header)


def test_bytes_after_the_last_tensor_are_refused() -> None:
    body = _request()
    assert "4 bytes follow" in _refused(body + b"abcd", str(len(body)))


def test_the_same_input_twice_is_refused() -> None:
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    assert "given twice" in _refused(json.dumps({"inputs": [tensor, tensor]}).encode())


def test_free_dimensions_are_minus_one_on_the_wire() -> None:
    assert wire_shape((None, 28, 28)) == [-1, 28, 28]
