"""The laws of every kind of probe: a new file in the package is tested here without being named."""

from __future__ import annotations

import json
import warnings
from dataclasses import fields, replace

import msgpack
import numpy as np
import pytest

from driftpost_models.errors import ProbeError
from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Probe
from driftpost_models.probes.probe_set import ProbeSet
from driftpost_models.probes.registry import load_probe, probe_kinds
from driftpost_models.runtime import TensorSpec
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind

ROWS = 24

FLOAT = np.dtype(np.float32)
INT8 = np.dtype(np.int8)

# One configuration for each kind, over float and over quantized tensors.
EXAMPLES: dict[str, list[dict[str, object]]] = {
    "categorical_columns": [
        {"tensor": TensorSpec("x", (1, 4), FLOAT), "side": "input", "indices": (1, 3), "names": ("a", "b")}
    ],
    "classification": [
        {"tensor": TensorSpec("y", (1, 5), FLOAT), "prefix": "", "scores": "logits", "classes": ()},
        {
            "tensor": TensorSpec("y", (1, 5), INT8, 1 / 256, -128),
            "prefix": "",
            "scores": "probabilities",
            "classes": (),
        },
        {
            "tensor": TensorSpec("y", (1, 1), FLOAT),
            "prefix": "p.",
            "scores": "binary",
            "classes": ("no", "yes"),
        },
    ],
    "codes": [
        {"tensor": TensorSpec("x", (1, 4, 5), INT8, 0.1, 3), "side": "input", "name": "c"},
        {"tensor": TensorSpec("y", (1, 90, 90), np.dtype(np.uint8)), "side": "output", "name": "c"},
    ],
    "embedding": [
        {
            "tensor": TensorSpec("y", (1, 9), FLOAT),
            "side": "output",
            "prefix": "",
            "elements": 9,
            "count": 4,
            "seed": 1,
        },
        {
            "tensor": TensorSpec("x", (1, 9), INT8, 2.0, 1),
            "side": "input",
            "prefix": "",
            "elements": 9,
            "count": 2,
            "seed": 1,
        },
    ],
    "image": [
        {
            "tensor": TensorSpec("x", (1, 12, 10, 3), FLOAT),
            "side": "input",
            "prefix": "",
            "layout": "nhwc",
            "low": 0.0,
            "high": 1.0,
        },
        {
            "tensor": TensorSpec("x", (1, 1, 200, 120), INT8, 1.0, 0),
            "side": "input",
            "prefix": "",
            "layout": "nchw",
            "low": -128.0,
            "high": 127.0,
        },
        {
            "tensor": TensorSpec("y", (1, 9, 9), np.dtype(np.uint8)),
            "side": "output",
            "prefix": "mask.",
            "layout": "hw",
            "low": 0.0,
            "high": 255.0,
        },
    ],
    "latency": [{}],
    "limits": [
        {"tensor": TensorSpec("x", (1, 20), INT8, 0.1, 3), "side": "input", "name": "s"},
        {"tensor": TensorSpec("y", (1, 20), np.dtype(np.int16), 0.1, 0), "side": "output", "name": "s"},
    ],
    "numeric_columns": [
        {
            "tensor": TensorSpec("x", (1, 4), FLOAT),
            "side": "input",
            "indices": (0, 2),
            "names": ("a", "b"),
            "units": ("", "V"),
        },
        {
            "tensor": TensorSpec("y", (1, 2, 2), INT8, 0.5, 1),
            "side": "output",
            "indices": (3,),
            "names": ("a",),
            "units": ("",),
        },
    ],
    "reconstruction": [
        {
            "original": TensorSpec("x", (1, 6), FLOAT),
            "tensor": TensorSpec("y", (1, 6), INT8, 0.1, 0),
            "prefix": "",
        }
    ],
    "regression": [{"tensor": TensorSpec("y", (1, 2), FLOAT), "names": ("a", "b"), "units": ("", "m")}],
    "signal": [
        {
            "tensor": TensorSpec("x", (1, 256), FLOAT),
            "side": "input",
            "prefix": "",
            "channels": 1,
            "bands": 5,
            "low": -1.0,
            "high": 1.0,
        },
        {
            "tensor": TensorSpec("x", (1, 64, 2), np.dtype(np.int16)),
            "side": "input",
            "prefix": "",
            "channels": 2,
            "bands": 3,
            "low": -32768.0,
            "high": 32767.0,
        },
    ],
    "spectrogram": [
        {
            "tensor": TensorSpec("x", (1, 49, 10, 1), INT8, 0.5, 83),
            "side": "input",
            "prefix": "",
            "features": 10,
        },
        {"tensor": TensorSpec("x", (1, 1, 40), FLOAT), "side": "input", "prefix": "", "features": 40},
    ],
    "summary": [
        {"tensor": TensorSpec("y", (1, 2, 3, 4), FLOAT), "side": "output", "prefix": "y.", "watched": True},
        {
            "tensor": TensorSpec("x", (1, 7), np.dtype(np.int64)),
            "side": "input",
            "prefix": "",
            "watched": False,
        },
    ],
    "verdict": [{}],
}

CASES = [
    pytest.param(kind, options, id=f"{kind}-{number}")
    for kind, examples in EXAMPLES.items()
    for number, options in enumerate(examples)
]


def _random(spec: TensorSpec, rows: int, rng: np.random.Generator) -> np.ndarray:
    shape = (rows, *[d or 1 for d in spec.row_shape])
    if spec.dtype.kind == "f":
        return rng.uniform(0, 1, shape).astype(spec.dtype)
    info = np.iinfo(spec.dtype)
    return rng.integers(max(info.min, -1000), min(info.max, 1000), shape, endpoint=True).astype(spec.dtype)


def _block(probe: Probe, rows: int = ROWS, seed: int = 0) -> Block:
    rng = np.random.default_rng(seed)
    inputs, outputs = {}, {}
    for field in fields(probe):
        value = getattr(probe, field.name)
        if isinstance(value, TensorSpec):
            (inputs if value.name == "x" else outputs)[value.name] = _random(value, rows, rng)
    return Block(inputs, outputs, rng.uniform(10, 20, rows), rng.integers(0, 3, rows))


def _part(block: Block, rows: slice) -> Block:
    return replace(
        block,
        inputs={k: v[rows] for k, v in block.inputs.items()},
        outputs={k: v[rows] for k, v in block.outputs.items()},
        latency_us=block.latency_us[rows],
        verdict=block.verdict[rows],
    )


def _scalars(probe: Probe) -> int:
    return sum(draft.kind is not StreamKind.CODES for draft in probe.streams())


def test_every_kind_has_an_example_here() -> None:
    assert set(EXAMPLES) == set(probe_kinds())


@pytest.mark.parametrize(("kind", "options"), CASES)
class TestLaws:
    def make(self, kind: str, options: dict[str, object]) -> Probe:
        return probe_kinds()[kind](**options)

    def test_it_delivers_a_column_for_each_stream_and_codes_by_name(self, kind, options) -> None:
        probe = self.make(kind, options)
        values, codes = probe.extract(_block(probe))
        names = [draft.name for draft in probe.streams()]
        assert len(set(names)) == len(names)
        assert values.shape == (ROWS, _scalars(probe))
        assert values.dtype == np.float64
        assert set(codes) == {d.name for d in probe.streams() if d.kind is StreamKind.CODES}
        assert np.isfinite(values[1:]).all()

    def test_two_blocks_in_turn_equal_one(self, kind, options) -> None:
        probe = self.make(kind, options)
        block = _block(probe)
        whole, codes = probe.extract(block)
        probe.reset()
        parts = [probe.extract(_part(block, rows)) for rows in (slice(0, 1), slice(1, 10), slice(10, ROWS))]
        np.testing.assert_allclose(np.concatenate([p[0] for p in parts]), whole, rtol=1e-9, atol=1e-9)
        for name, tensor in codes.items():
            np.testing.assert_array_equal(np.concatenate([p[1][name] for p in parts]), tensor)

    def test_a_reset_forgets_the_past(self, kind, options) -> None:
        probe = self.make(kind, options)
        block = _block(probe)
        first = probe.extract(block)[0]
        probe.extract(_block(probe, seed=1))
        probe.reset()
        np.testing.assert_array_equal(probe.extract(block)[0], first)

    def test_its_configuration_survives_json_and_msgpack(self, kind, options) -> None:
        probe = self.make(kind, options)
        for plain in (
            json.loads(json.dumps(probe.to_dict())),
            msgpack.unpackb(msgpack.packb(probe.to_dict())),
        ):
            copy = load_probe(plain)
            assert copy.to_dict() == probe.to_dict()
            np.testing.assert_array_equal(copy.extract(_block(probe))[0], probe.extract(_block(probe))[0])
            probe.reset()

    def test_a_block_without_its_tensors_is_missing_throughout(self, kind, options) -> None:
        probe = self.make(kind, options)
        empty = Block({}, {}, np.full(3, np.nan), np.zeros(3, np.int64))
        values, codes = probe.extract(empty)
        assert values.shape == (3, _scalars(probe))
        if kind != "verdict":
            assert np.isnan(values).all()
        assert all(tensor.size == 0 for tensor in codes.values())

    def test_not_a_number_is_missing_and_never_a_warning(self, kind, options) -> None:
        probe = self.make(kind, options)
        block = _block(probe)
        touched = False
        for arrays in (block.inputs, block.outputs):
            for array in arrays.values():
                if array.dtype.kind == "f":
                    array.reshape(ROWS, -1)[3] = np.nan
                    array.reshape(ROWS, -1)[7] = np.inf
                    touched = True
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values, _ = probe.extract(block)
        if touched and kind != "signal":
            assert not np.isfinite(values[3]).all()
        assert np.isfinite(values[12:]).all()

    def test_unknown_missing_and_wrong_fields_are_refused(self, kind, options) -> None:
        plain = self.make(kind, options).to_dict()
        with pytest.raises(ProbeError, match="unknown field"):
            load_probe({**plain, "colour": "blue"})
        for name in set(plain) - {"kind"}:
            with pytest.raises(ProbeError, match="missing"):
                load_probe({k: v for k, v in plain.items() if k != name})
            with pytest.raises(ProbeError):
                load_probe({**plain, name: {"a": object()}})


def test_an_unknown_kind_asks_for_an_update() -> None:
    with pytest.raises(ProbeError, match="update driftpost"):
        load_probe({"kind": "telepathy"})
    for nonsense in (None, 3, [], {}, {"kind": 3}):
        with pytest.raises(ProbeError):
            load_probe(nonsense)


class TestProbeSet:
    def both(self) -> ProbeSet:
        return ProbeSet(
            [
                probe_kinds()["limits"](**EXAMPLES["limits"][0]),
                probe_kinds()["codes"](**EXAMPLES["codes"][1]),
                probe_kinds()["latency"](),
                probe_kinds()["verdict"](),
            ]
        )

    def block(self) -> Block:
        rng = np.random.default_rng(0)
        return Block(
            {"x": rng.integers(-128, 128, (4, 20)).astype(np.int8)},
            {"y": rng.integers(0, 256, (4, 90, 90)).astype(np.uint8)},
            np.array([1.0, 2.0, 3.0, np.nan]),
            np.array([0, 1, 9, 0]),
        )

    def test_rows_without_answer_or_input_are_missing_where_they_matter(self) -> None:
        block = self.block()
        block.received = np.array([True, False, True, True])
        block.answered = np.array([True, True, False, True])
        values, codes = self.both().extract(block)
        assert np.isnan(values[:, 0]).tolist() == [False, True, False, False]
        assert np.isnan(values[:, 1]).tolist() == [False, False, False, True]
        assert values[:, 2].tolist() == [0, 1, 9, 0]
        assert len(codes["c"]) == 3

    def test_codes_of_refused_rows_do_not_stop_the_sketches(self) -> None:
        probes = self.both()
        schema = Schema(
            [
                Stream("s", StreamKind.NUMERIC, Role.INPUT, edges=(0.5,)),
                Stream("c", StreamKind.CODES, Role.OUTPUT, tracked=False),
                Stream("latency_us", StreamKind.NUMERIC, Role.LATENCY, edges=(1.5,)),
                Stream("verdict", StreamKind.CATEGORICAL, Role.QUALITY, categories=(0, 1)),
            ]
        )
        accumulator = WindowAccumulator(schema)
        block = self.block()
        for answered in ([True] * 4, [True, False, True, False], [False] * 4):
            block.answered = np.array(answered)
            accumulator.update(*probes.extract(block))
        accumulator.update(*probes.extract(Block({}, {}, np.ones(2), np.ones(2, np.int64))))
        window, _ = accumulator.take()
        assert window.rows == 14
        codes = self.block().outputs["y"].reshape(4, -1).shape[1]
        per_row = len(probes.extract(self.block())[1]["c"][0])
        assert per_row < codes
        assert window.summary(schema, 1).n == 6 * per_row

    def test_an_empty_block_gives_an_empty_matrix(self) -> None:
        values, codes = self.both().extract(Block({}, {}, np.empty(0), np.empty(0, np.int64)))
        assert values.shape == (0, 3)
        assert codes == {}

    def test_two_streams_of_one_name_are_refused(self) -> None:
        limits = probe_kinds()["limits"](**EXAMPLES["limits"][0])
        with pytest.raises(ProbeError, match="two streams"):
            ProbeSet([limits, limits])

    def test_owners_may_untrack_and_name_units_of_streams_that_exist(self) -> None:
        probes = ProbeSet(self.both().probes, untracked=["s"], units={"latency_us": "microseconds"})
        drafts = {draft.name: draft for draft in probes.drafts}
        assert not drafts["s"].tracked
        assert drafts["latency_us"].unit == "microseconds"
        assert ProbeSet.from_dict(json.loads(json.dumps(probes.to_dict()))).drafts == probes.drafts
        with pytest.raises(ProbeError, match="no stream 't'"):
            ProbeSet(self.both().probes, untracked=["t"])

    def test_a_copy_has_a_memory_of_its_own(self) -> None:
        probes = ProbeSet([probe_kinds()["image"](**EXAMPLES["image"][0])])
        block = _block(probes.probes[0])
        probes.extract(block)
        change = [draft.name for draft in probes.drafts].index("frame_change")
        assert np.isnan(probes.copy().extract(block)[0][0, change])
        assert not np.isnan(probes.extract(block)[0][0, change])

    @pytest.mark.parametrize(
        "change",
        [
            {"version": 2},
            {"version": None},
            {"probes": {}},
            {"probes": [1]},
            {"probes": [{"kind": "verdict"}] * 600},
            {"untracked": "s"},
            {"units": ["s"]},
        ],
    )
    def test_malformed_sets_are_refused(self, change) -> None:
        with pytest.raises(ProbeError):
            ProbeSet.from_dict({**self.both().to_dict(), **change})
        with pytest.raises(ProbeError):
            ProbeSet.from_dict([])
