"""The bundle: everything that an agent needs to guard one model, in one signed file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from driftpost_models.bundle_file import Archive, Signature, read_archive, write_archive
from driftpost_models.errors import BundleMalformed, ConfigError, ProbeError
from driftpost_models.golden import Golden, SelfTest, replay
from driftpost_models.input_limits import InputLimits
from driftpost_models.policy import Policy
from driftpost_models.probes.classification import SCORES
from driftpost_models.probes.probe_set import ProbeSet
from driftpost_models.runtime import Array, Runtime, TensorSpec
from driftpost_models.signing import PrivateKey, PublicKey
from driftpost_sketches.derived.plan import DerivedPlan
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.errors import SketchError
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.schema import Schema, StreamKind

__all__ = ["Bundle", "Golden", "InputLimits", "SelfTest", "Signature", "describe"]

_KINDS = ("onnx", "tflite")

MAX_DESCRIBED = 16 << 10
"""Bytes of the performance record in a description, which must fit a message with schema and baseline."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        id: hex SHA-256 of its manifest; empty before it is written.
        name: the model's name.
        version: the model's version, as the owner calls it.
        created: when it was built, ISO 8601 in UTC, by the builder's clock.
        model_bytes: the model file.
        model_kind: `onnx` or `tflite`.
        inputs: what the model takes.
        outputs: what it returns.
        probes: what reads inferences; use `probes.copy()` for each sequence of them.
        derived: what is computed from their values: seasonal streams and slices; mostly nothing.
        calibration: what calibrates the detectors; holds the schema and the baseline sketch.
        policy: what the owner asks of the guard.
        limits: what the reference showed of each input.
        golden: calls and answers for the self-test.
        classes: class names, empty where unknown.
        performance: what labelled reference rows tell of the model; None without labels.
        provenance: hashes, versions, who and when, in plain types.
        signature: who vouches for it; None for an unsigned bundle.
    """

    id: str
    name: str
    version: str
    created: str
    model_bytes: bytes
    model_kind: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    probes: ProbeSet
    derived: DerivedPlan
    calibration: Calibration
    policy: Policy
    limits: Mapping[str, InputLimits]
    golden: Golden
    classes: tuple[str, ...]
    performance: PerformanceRecord | None
    provenance: Mapping[str, object]
    signature: Signature | None = None

    @property
    def schema(self) -> Schema:
        """The streams."""
        return self.calibration.schema

    @property
    def confusion(self) -> npt.NDArray[np.int64] | None:
        """`int64[classes, classes]` on the reference, rows are true classes; None without labels, or of more
        classes than are told apart."""
        if self.performance is None or not self.performance.labels.classes:
            return None
        return self.performance.labels.confusion

    @property
    def unknown_streams(self) -> tuple[str, ...]:
        """Names of streams that a device has to learn, because the bundle was built without a reference."""
        wanted = {draft.name for draft in self.probes.drafts if draft.tracked}
        return tuple(s.name for s in self.schema.streams if s.name in wanted and not s.tracked)

    @property
    def model_sha256(self) -> str:
        """Hex SHA-256 of the model file."""
        model = self.provenance.get("model")
        return str(model.get("sha256", "")) if isinstance(model, Mapping) else ""

    @classmethod
    def open(cls, path: Path, trusted: Sequence[PublicKey] | None) -> Bundle:
        """Open a bundle and check all of it.

        Args:
            path: the file.
            trusted: keys one of which must have signed it; None says that an unsigned bundle is fine.

        Raises:
            BundleMalformed: no bundle, damaged, or tampered with.
            BundleTooNew: of a newer format.
            BundleUntrusted: not signed by a trusted key.
        """
        archive = read_archive(Path(path), trusted)
        try:
            return _from_archive(archive)
        except (KeyError, TypeError, ValueError, SketchError, ProbeError, ConfigError) as error:
            raise BundleMalformed(f"{Path(path).name}: {error}") from error

    def write(self, path: Path, key: PrivateKey | None) -> str:
        """Write the bundle, signed where there is a key; returns its id.

        Raises:
            OSError: the file can not be written.
        """
        header = {"name": self.name, "version": self.version, "created": self.created}
        return write_archive(path, header, _members(self), key)

    def self_test(self, runtime: Runtime) -> SelfTest:
        """Replay the golden inputs.

        Args:
            runtime: this bundle's model, freshly loaded: streaming models carry state from call to call.
        """
        return replay(self.golden, runtime)


def describe(bundle: Bundle) -> dict[str, object]:
    """What the aggregator has to know to read a bundle's windows, in plain types.

    `Schema.from_dict` and `Window.from_bytes` of the sketches read its parts back; no model is needed.
    """
    calibration = bundle.calibration
    names = calibration.tracked_names
    return {
        "bundle": bundle.id,
        "name": bundle.name,
        "version": bundle.version,
        "model_sha256": bundle.model_sha256,
        "schema": bundle.schema.to_dict(),
        "baseline": calibration.baseline.to_bytes(),
        "tau": {name: float(calibration.tau(name)) for name in names},
        "n_ref": {name: float(calibration.n_ref(name)) for name in names},
        "smallest_effect": {name: float(calibration.effect(name)) for name in names},
        "window_s": float(bundle.policy.window_seconds),
        "budget": bundle.policy.budget,
        "classes": list(bundle.classes),
        "performance": _described(bundle),
        "joint": b"" if calibration.joint is None else calibration.joint.to_bytes(),
        "provenance": dict(bundle.provenance),
    }


def _described(bundle: Bundle) -> bytes:
    """The performance record within what a description has room for; nothing without one."""
    record = bundle.performance
    if record is None:
        return b""
    whole = record.to_bytes()
    return whole if len(whole) <= MAX_DESCRIBED else record.short(bundle.schema).to_bytes()


def _dump(plain: object) -> bytes:
    return json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False).encode()


def _members(bundle: Bundle) -> dict[str, bytes]:
    members = {
        f"model.{bundle.model_kind}": bundle.model_bytes,
        "tensors.json": _dump(
            {
                "inputs": [spec.to_dict() for spec in bundle.inputs],
                "outputs": [spec.to_dict() for spec in bundle.outputs],
                "limits": {name: limits.to_dict() for name, limits in bundle.limits.items()},
            }
        ),
        "probes.json": _dump(bundle.probes.to_dict()),
        "derived.json": _dump(bundle.derived.to_dict()),
        "schema.json": _dump(bundle.schema.to_dict()),
        "calibration.bin": bundle.calibration.to_bytes(),
        "policy.toml": bundle.policy.to_toml().encode(),
        "classes.json": _dump({"classes": list(bundle.classes)}),
        "provenance.json": _dump(dict(bundle.provenance)),
    }
    if bundle.performance is not None:
        members["performance.bin"] = bundle.performance.to_bytes()
    members.update(_golden_members(bundle.golden))
    return members


def _golden_members(golden: Golden) -> dict[str, bytes]:
    members = {}
    index: dict[str, object] = {"tolerance": dict(golden.tolerance)}
    index["scores"] = dict(golden.scores)
    sides = ("inputs", golden.inputs), ("outputs", golden.outputs), ("float_outputs", golden.float_outputs)
    for side, arrays in sides:
        entries = []
        for position, (name, array) in enumerate(arrays.items()):
            # Tensor names may hold anything; member names are ours.
            member = f"golden/{side}-{position}.raw"
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            members[member] = np.ascontiguousarray(little).tobytes()
            entries.append(
                {"name": name, "dtype": little.dtype.str, "shape": list(array.shape), "member": member}
            )
        index[side] = entries
    members["golden.json"] = _dump(index)
    return members


def _from_archive(archive: Archive) -> Bundle:
    manifest, members = archive.manifest, archive.members
    kinds = [kind for kind in _KINDS if f"model.{kind}" in members]
    if len(kinds) != 1:
        raise BundleMalformed("it holds no model, or more than one")
    tensors = _object(members, "tensors.json")
    calibration = Calibration.from_bytes(_member(members, "calibration.bin"))
    schema = Schema.from_dict(_object(members, "schema.json"))
    probes = ProbeSet.from_dict(_object(members, "probes.json"))
    if schema != calibration.schema:
        raise BundleMalformed("the schema is not the one that the calibration belongs to")
    derived = DerivedPlan.from_dict(_object(members, "derived.json"))
    given, made = schema.streams[: len(probes.drafts)], schema.streams[len(probes.drafts) :]
    if [(d.name, d.kind) for d in probes.drafts] != [(s.name, s.kind) for s in given]:
        raise BundleMalformed("the probes do not deliver the streams of the schema")
    columns = tuple(s.name for s in given if s.kind is not StreamKind.CODES)
    partial = tuple(s.name for s in made if s.partial)
    if derived.columns != columns or derived.names != partial or len(partial) != len(made):
        raise BundleMalformed("the derived streams are not those of the schema")
    classes = _object(members, "classes.json")
    limits = tensors["limits"]
    if not isinstance(limits, dict):
        raise BundleMalformed("tensors.json: limits must be a table")
    return Bundle(
        id=archive.id,
        name=_text(manifest, "name"),
        version=_text(manifest, "version"),
        created=_text(manifest, "created"),
        model_bytes=members[f"model.{kinds[0]}"],
        model_kind=kinds[0],
        inputs=_specs(tensors, "inputs"),
        outputs=_specs(tensors, "outputs"),
        probes=probes,
        derived=derived,
        calibration=calibration,
        policy=Policy.from_toml(_member(members, "policy.toml").decode()),
        limits={name: InputLimits.from_dict(plain) for name, plain in limits.items()},
        golden=_golden(members),
        classes=tuple(str(name) for name in _list(classes, "classes")),
        performance=_performance(members, schema),
        provenance=_object(members, "provenance.json"),
        signature=archive.signature,
    )


def _performance(members: Mapping[str, bytes], schema: Schema) -> PerformanceRecord | None:
    if "performance.bin" not in members:
        return None
    record = PerformanceRecord.from_bytes(members["performance.bin"])
    record.check(schema)
    return record


def _member(members: Mapping[str, bytes], name: str) -> bytes:
    if name not in members:
        raise BundleMalformed(f"it lacks {name!r}")
    return members[name]


def _object(members: Mapping[str, bytes], name: str) -> dict[str, object]:
    plain = json.loads(_member(members, name))
    if not isinstance(plain, dict):
        raise BundleMalformed(f"{name} is not a JSON object")
    return plain


def _text(plain: Mapping[str, object], key: str) -> str:
    value = plain[key]
    if not isinstance(value, str) or len(value) > 200:
        raise BundleMalformed(f"{key!r} must be a text of at most 200 characters")
    return value


def _list(plain: Mapping[str, object], key: str) -> list[object]:
    value = plain[key]
    if not isinstance(value, list):
        raise BundleMalformed(f"{key!r} must be a list")
    return value


def _specs(tensors: Mapping[str, object], key: str) -> tuple[TensorSpec, ...]:
    specs = []
    for item in _list(tensors, key):
        if not isinstance(item, dict):
            raise BundleMalformed(f"tensors.json: {key} must be a list of tables")
        specs.append(TensorSpec.from_dict(item))
    return tuple(specs)


def _golden(members: Mapping[str, bytes]) -> Golden:
    index = _object(members, "golden.json")
    tolerance = index["tolerance"]
    if not isinstance(tolerance, dict) or not all(
        isinstance(v, (int, float)) and math.isfinite(v) and v > 0 for v in tolerance.values()
    ):
        raise BundleMalformed("golden.json: tolerances must be positive numbers")
    sides: dict[str, dict[str, Array]] = {}
    for side in ("inputs", "outputs", "float_outputs"):
        arrays: dict[str, Array] = {}
        for entry in _list(index, side):
            if not isinstance(entry, dict):
                raise BundleMalformed("golden.json: not a list of tables")
            shape = entry["shape"]
            if not isinstance(shape, list) or not all(type(d) is int and d >= 0 for d in shape) or not shape:
                raise BundleMalformed("golden.json: not a shape")
            dtype = np.dtype(str(entry["dtype"]))
            raw = _member(members, str(entry["member"]))
            if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != len(raw):
                raise BundleMalformed("golden.json: a tensor is not as long as its shape says")
            arrays[str(entry["name"])] = np.frombuffer(raw, dtype).reshape(shape)
        sides[side] = arrays
    calls = {len(array) for arrays in sides.values() for array in arrays.values()}
    if len(calls) != 1 or set(sides["outputs"]) != set(tolerance):
        raise BundleMalformed("golden.json: inputs, outputs and tolerances do not belong together")
    scores, twins = index["scores"], sides["float_outputs"]
    if not isinstance(scores, dict) or not all(kind in SCORES for kind in scores.values()):
        raise BundleMalformed("golden.json: scores must say what outputs hold")
    if not {*scores, *twins} <= set(sides["outputs"]):
        raise BundleMalformed("golden.json: scores, or a float model's answers, of no output")
    if any(a.dtype != np.float32 or a.shape != sides["outputs"][n].shape for n, a in twins.items()):
        raise BundleMalformed("golden.json: a float model's answers must be float32, shaped as the outputs")
    tolerated = {name: float(v) for name, v in tolerance.items()}
    return Golden(sides["inputs"], sides["outputs"], tolerated, scores, twins)
