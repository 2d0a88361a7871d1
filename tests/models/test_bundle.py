from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import pytest

from driftpost_models.build import Built
from driftpost_models.bundle import Bundle, describe
from driftpost_models.bundle_file import write_archive
from driftpost_models.errors import BundleMalformed
from driftpost_models.golden import replay, tolerances
from driftpost_models.runtime import TensorSpec, load_model
from driftpost_models.signing import generate
from driftpost_sketches.schema import Schema
from driftpost_sketches.window import Window
from driftpost_sync.messages import DescribeBody
from models import onnx_files


@pytest.fixture
def opened(built: Built) -> Bundle:
    return Bundle.open(built.path, None)


def test_a_bundle_survives_its_file(built: Built, opened: Bundle) -> None:
    before = built.bundle
    assert opened.id == before.id
    assert len(opened.id) == 64
    assert (opened.name, opened.version, opened.created) == (before.name, before.version, before.created)
    assert (opened.model_bytes, opened.model_kind) == (before.model_bytes, "onnx")
    assert (opened.inputs, opened.outputs) == (before.inputs, before.outputs)
    assert opened.schema.id == before.schema.id
    assert opened.calibration.to_bytes() == before.calibration.to_bytes()
    assert opened.probes.to_dict() == before.probes.to_dict()
    assert opened.policy == before.policy
    assert opened.classes == ("dry", "wet")
    assert opened.provenance == before.provenance
    assert opened.signature is None
    np.testing.assert_array_equal(opened.confusion, before.confusion)
    assert opened.performance.to_bytes() == before.performance.to_bytes()
    for side in ("inputs", "outputs"):
        for name, array in getattr(before.golden, side).items():
            np.testing.assert_array_equal(getattr(opened.golden, side)[name], array)
    for name, limits in before.limits.items():
        assert opened.limits[name].to_dict() == limits.to_dict()


def test_a_signed_bundle_says_by_whom(built: Built, tmp_path: Path) -> None:
    key = generate()
    identity = built.bundle.write(tmp_path / "signed", key)
    signed = Bundle.open(tmp_path / "signed", [key.public_key()])
    assert signed.signature is not None
    assert signed.signature.verified
    assert signed.id == identity == built.bundle.id


def test_the_description_is_plain_and_needs_no_model_to_be_read(opened: Bundle) -> None:
    plain = msgpack.unpackb(msgpack.packb(describe(opened)))
    schema = Schema.from_dict(plain["schema"])
    baseline = Window.from_bytes(plain["baseline"])
    assert schema.id == opened.schema.id == baseline.schema_id
    assert baseline.rows == 400
    tracked = {schema.streams[i].name for i in schema.tracked_streams}
    for key in ("tau", "n_ref", "smallest_effect"):
        assert set(plain[key]) == tracked
        assert all(value > 0 for value in plain[key].values())
    assert plain["bundle"] == opened.id
    assert plain["model_sha256"] == opened.model_sha256
    assert len(plain["model_sha256"]) == 64
    assert plain["classes"] == ["dry", "wet"]
    assert plain["window_s"] == 300.0
    assert plain["budget"] == "1 per device-year"
    assert plain["provenance"]["author"] == "tests"


def test_the_wire_takes_the_description(opened: Bundle) -> None:
    body = DescribeBody.from_bytes(DescribeBody.from_plain(describe(opened)).to_bytes())
    assert body.bundle == opened.id
    assert Schema.from_dict(body.schema).id == opened.schema.id


def test_provenance_says_what_it_was_made_of_by_whom_and_when(opened: Bundle) -> None:
    provenance = opened.provenance
    assert provenance["model"]["file"] == "switch.onnx"
    assert provenance["reference"]["rows"] == 400
    assert provenance["reference"]["source"] == "csv"
    assert len(provenance["reference"]["sha256"]) == 64
    assert provenance["created"] == "2026-03-01T12:00:00+00:00"
    assert {"driftpost", "python", "numpy", "runtime", "provider", "machine"} <= set(provenance["tools"])
    assert provenance["tools"]["runtime"].startswith("onnxruntime ")


class TestSelfTest:
    def test_the_same_model_passes(self, opened: Bundle) -> None:
        runtime = load_model(opened.model_bytes)
        test = opened.self_test(runtime)
        runtime.close()
        assert test.ok
        assert test.worst_difference == 0
        assert "exactly" in test.text

    def test_another_model_fails_and_says_where(self, opened: Bundle) -> None:
        runtime = load_model(onnx_files.classifier(3, 2, seed=5))
        test = opened.self_test(runtime)
        runtime.close()
        assert not test.ok
        assert test.worst_difference > 1
        assert "output 'y'" in test.text

    def test_a_model_of_another_signature_fails(self, opened: Bundle) -> None:
        for content in (onnx_files.conv_images(), onnx_files.classifier(4, 2), onnx_files.classifier(3, 5)):
            runtime = load_model(content)
            assert not opened.self_test(runtime).ok
            runtime.close()

    def test_a_rounding_difference_passes(self, opened: Bundle) -> None:
        nudged = {name: array + np.float32(1e-6) for name, array in opened.golden.outputs.items()}
        golden = dataclasses.replace(opened.golden, outputs=nudged)
        runtime = load_model(opened.model_bytes)
        test = replay(golden, runtime)
        runtime.close()
        assert test.ok
        assert 0 < test.worst_difference < 1

    def test_not_a_number_equals_itself_only(self, opened: Bundle) -> None:
        broken = {name: np.full_like(array, np.nan) for name, array in opened.golden.outputs.items()}
        runtime = load_model(opened.model_bytes)
        assert not replay(dataclasses.replace(opened.golden, outputs=broken), runtime).ok
        runtime.close()

    def test_tolerances_follow_the_grid_and_the_range(self) -> None:
        quantized = TensorSpec("q", (1, 2), np.dtype(np.int8), 0.5, 0)
        plain = TensorSpec("f", (1, 2), np.dtype(np.float32))
        flat = TensorSpec("c", (1,), np.dtype(np.float32))
        found = tolerances(
            [quantized, plain, flat],
            {
                "q": np.array([[[1, 2]]], np.int8),
                "f": np.array([[[0.0, 100.0]]], np.float32),
                "c": np.full((3, 1), 7, np.float32),
            },
        )
        assert found["q"] == 1.5
        assert found["f"] == pytest.approx(10.0)
        assert 0 < found["c"] < 1e-3


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {
            name: archive.read(name)
            for name in archive.namelist()
            if name not in ("manifest.json", "signature.json")
        }


def _edited(name: str, change) -> object:
    def edit(members: dict[str, bytes]) -> None:
        plain = json.loads(members[name])
        change(plain)
        members[name] = json.dumps(plain).encode()

    return edit


TAMPERED = {
    "no model": lambda m: m.pop("model.onnx"),
    "two models": lambda m: m.update({"model.tflite": b""}),
    "no calibration": lambda m: m.pop("calibration.bin"),
    "broken calibration": lambda m: m.update({"calibration.bin": b"x" * 40}),
    "no schema": lambda m: m.pop("schema.json"),
    "schema of another model": _edited("schema.json", lambda p: p["streams"][0].update(unit="lux")),
    "probes of another model": _edited("probes.json", lambda p: p["probes"].pop(0)),
    "unknown probe": _edited("probes.json", lambda p: p["probes"][0].update(kind="telepathy")),
    "no probes": lambda m: m.update({"probes.json": b"[]"}),
    "policy is not TOML": lambda m: m.update({"policy.toml": b"="}),
    "policy is not text": lambda m: m.update({"policy.toml": b"\xff"}),
    "unknown policy": lambda m: m.update({"policy.toml": b"buget = 1"}),
    "tensors is a list": lambda m: m.update({"tensors.json": b"[]"}),
    "tensors without limits": _edited("tensors.json", lambda p: p.pop("limits")),
    "limits is a list": _edited("tensors.json", lambda p: p.update(limits=[])),
    "limits of two lengths": _edited("tensors.json", lambda p: p["limits"]["x"].update(low=[0.0])),
    "limits of texts": _edited("tensors.json", lambda p: p["limits"]["x"].update(low=["a"] * 3)),
    "inputs of texts": _edited("tensors.json", lambda p: p.update(inputs=["x"])),
    "golden is too short": lambda m: m.update({"golden/inputs-0.raw": b"123"}),
    "golden is missing": lambda m: m.pop("golden/inputs-0.raw"),
    "golden of objects": _edited("golden.json", lambda p: p["inputs"][0].update(dtype="O")),
    "golden of no dtype": _edited("golden.json", lambda p: p["inputs"][0].update(dtype="what")),
    "golden of negative shape": _edited("golden.json", lambda p: p["inputs"][0].update(shape=[-1])),
    "golden without shape": _edited("golden.json", lambda p: p["inputs"][0].update(shape=[])),
    "golden without tolerance": _edited("golden.json", lambda p: p.update(tolerance={})),
    "tolerance of zero": _edited("golden.json", lambda p: p.update(tolerance={"y": 0})),
    "classes of another kind": lambda m: m.update({"classes.json": b'{"classes": 3}'}),
    "provenance is a list": lambda m: m.update({"provenance.json": b"[]"}),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_bundle_whose_parts_do_not_belong_together_is_refused(
    built: Built, tmp_path: Path, name: str
) -> None:
    members = _members(built.path)
    TAMPERED[name](members)
    path = tmp_path / "x.bundle"
    write_archive(path, {"name": "n", "version": "1", "created": "c"}, members, None)
    with pytest.raises(BundleMalformed):
        Bundle.open(path, None)


@pytest.mark.parametrize(
    "header",
    [{}, {"name": 3, "version": "1", "created": "c"}, {"name": "n" * 300, "version": "1", "created": "c"}],
)
def test_a_bundle_without_a_proper_name_is_refused(built: Built, tmp_path: Path, header) -> None:
    write_archive(tmp_path / "x", header, _members(built.path), None)
    with pytest.raises(BundleMalformed):
        Bundle.open(tmp_path / "x", None)
