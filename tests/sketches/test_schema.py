import json

import numpy as np
import pytest

from driftpost_sketches.errors import MalformedSketch, UnsupportedVersion
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind
from simulated_streams import mixed_schema


@pytest.fixture
def schema():
    return mixed_schema(np.random.default_rng(0))[0]


def test_the_plain_form_survives_json_and_keeps_the_id(schema):
    plain = json.loads(json.dumps(schema.to_dict()))
    again = Schema.from_dict(plain)
    assert again == schema
    assert again.id == schema.id
    assert len(schema.id) == 16
    assert again.to_dict() == schema.to_dict()


def test_any_change_of_a_stream_changes_the_id(schema):
    seen = {schema.id}
    for change in (
        {"name": "other"}, {"unit": "mV"}, {"role": "output"}, {"center": 0.5}, {"scale": 2.0},
        {"tracked": False}, {"edges": [0.0, 1.0]},
    ):  # fmt: skip
        plain = schema.to_dict()
        plain["streams"][0] = {**plain["streams"][0], **change}
        seen.add(Schema.from_dict(plain).id)
    assert len(seen) == 8


def test_the_order_of_streams_is_part_of_the_id(schema):
    assert Schema(schema.streams[::-1]).id != schema.id


def test_offsets_and_indices_follow_the_streams(schema):
    assert schema.offsets.tolist()[0] == 0
    assert np.diff(schema.offsets).tolist() == [s.n_bins for s in schema.streams]
    assert schema.scalar_streams.tolist() == [0, 2, 3, 4, 5]
    assert schema.tracked_streams.tolist() == [0, 2, 4, 5]
    assert schema.index("spend") == 2
    assert "spend" in schema
    assert "other" not in schema
    with pytest.raises(KeyError):
        schema.index("other")


@pytest.mark.parametrize(
    "change",
    [
        {"edges": [1.0, 1.0]}, {"edges": [2.0, 1.0]}, {"edges": [float("nan")]}, {"edges": [float("inf")]},
        {"scale": 0.0}, {"scale": -1.0}, {"scale": float("nan")}, {"center": float("inf")}, {"name": ""},
        {"name": "x" * 201}, {"name": 3}, {"name": "\ud800"}, {"kind": "vector"}, {"role": "spy"},
        {"categories": [1]}, {"labels": ["a"]}, {"tracked": 1}, {"lowest_code": 1.5}, {"edges": 3},
        {"edges": [float(i) for i in range(5000)]}, {"unknown": 1},
    ],
)  # fmt: skip
def test_a_malformed_stream_is_refused(schema, change):
    plain = schema.to_dict()
    plain["streams"][0] = {**plain["streams"][0], **change}
    with pytest.raises(MalformedSketch):
        Schema.from_dict(plain)


@pytest.mark.parametrize(
    "plain",
    [None, [], {}, {"version": 1}, {"version": "1", "streams": []}, {"version": 1, "streams": []},
     {"version": 0, "streams": []}, {"version": 1, "streams": "abc"}, {"version": 1, "streams": [1]},
     {"version": 1, "streams": [{}]}],
)  # fmt: skip
def test_a_malformed_schema_is_refused(plain):
    with pytest.raises(MalformedSketch):
        Schema.from_dict(plain)


def test_a_newer_schema_says_that_the_reader_is_too_old():
    with pytest.raises(UnsupportedVersion, match="upgrade the reader"):
        Schema.from_dict({"version": 99, "streams": []})


def test_two_streams_of_one_name_are_refused():
    stream = Stream("a", StreamKind.NUMERIC, Role.INPUT)
    with pytest.raises(MalformedSketch, match="same name"):
        Schema([stream, stream])


def test_bins_have_names_for_people(schema):
    assert schema.streams[5].bin_label(1) == "b"
    assert schema.streams[5].bin_label(5) == "other"
    assert schema.streams[1].bin_label(0) == "-128"
    assert schema.streams[0].bin_label(0).startswith("[-inf, ")
    assert schema.streams[0].bin_label(15).endswith(", inf)")
