"""An int8 model beside its float build: measured when the bundle is built, and told on the device."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper
from PIL import Image

from driftpost_models.build import Built, build_bundle
from driftpost_models.bundle import Bundle
from driftpost_models.cli import bundle as command
from driftpost_models.errors import BundleMalformed, ModelRefused, ReferenceRefused
from driftpost_models.golden import float_agreement, replay
from driftpost_models.report import built_text, inspect_text
from driftpost_models.runtime import Array, TensorSpec, load_model
from driftpost_models.twin import Agreement, Tolerance, agreement
from models import onnx_files
from realdata import REALDATA, needs_realdata

MODELS = REALDATA / "models"


def _save(path: Path, rows: Array) -> Path:
    np.save(path, rows)
    return path


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = sorted((REALDATA / "data" / "kws01").glob("*.bin"))[::2]
    rows = np.stack([np.frombuffer(file.read_bytes(), np.int8).reshape(49, 10, 1) for file in files])
    return _save(tmp_path_factory.mktemp("kws") / "spoken.npy", rows)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = sorted((REALDATA / "data" / "cifar10_jpg" / "dev").rglob("*.jpg"))[::4]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB"), np.int16) for file in files])
    return _save(tmp_path_factory.mktemp("cifar") / "pictures.npy", (pixels - 128).astype(np.int8))


def _speech(folder: Path, reference: Path, **more: Tolerance) -> Built:
    folder.mkdir(parents=True, exist_ok=True)
    return build_bundle(
        MODELS / "mlperf_tiny" / "kws_ref_model.tflite",
        reference,
        folder / "kws.bundle",
        float_model=MODELS / "mlperf_tiny" / "kws_ref_model_float32.tflite",
        float_tolerance=more.get("tolerance"),
    )


@needs_realdata
class TestRealModels:
    def test_a_keyword_model_agrees_with_its_float_build_and_the_report_says_how_far(
        self, tmp_path: Path, spoken: Path
    ) -> None:
        built = _speech(tmp_path, spoken)
        facts = built.bundle.provenance["float_model"]
        assert isinstance(facts, dict)
        found = Agreement.from_dict(facts)
        assert found.share is not None
        assert 0.95 < found.share <= 1.0
        assert 0.0 < found.distance < 0.05
        assert (facts["least_agreement"], facts["most_distance"]) == (0.9, 0.1)
        assert not any("float" in note for note in built.notes)
        opened = Bundle.open(built.path, None)
        for text in (built_text(built), inspect_text(opened)):
            assert "kws_ref_model_float32.tflite: " in text
            assert "get the same best class" in text
        golden = float_agreement(opened.golden, opened.outputs)
        assert golden is not None
        assert golden.rows == 12
        assert golden.same is not None
        assert golden.same >= 11

    @pytest.mark.parametrize(
        "twin", ["mlperf_tiny/pretrainedResnet.tflite", "mlperf_tiny_onnx/pretrainedResnet.onnx"]
    )
    def test_a_picture_model_is_compared_with_a_twin_of_another_format_and_layout(
        self, tmp_path: Path, pictures: Path, twin: str
    ) -> None:
        built = build_bundle(
            MODELS / "mlperf_tiny" / "pretrainedResnet_quant.tflite",
            pictures,
            tmp_path / "resnet.bundle",
            float_model=MODELS / twin,
        )
        facts = built.bundle.provenance["float_model"]
        assert isinstance(facts, dict)
        share = Agreement.from_dict(facts).share
        assert share is not None
        assert 0.9 <= share < 0.99  # both are 86 % right, on other pictures

    def test_a_twin_that_takes_another_scale_is_refused_unless_that_is_stated(
        self, tmp_path: Path, pictures: Path
    ) -> None:
        """The float graph with a forgotten division by 255 in front: no error anywhere but here."""
        model = onnx.load(MODELS / "mlperf_tiny_onnx" / "pretrainedResnet.onnx")
        taken = model.graph.input[0].name
        for node in model.graph.node:
            node.input[:] = [f"{taken}_divided" if name == taken else name for name in node.input]
        model.graph.initializer.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "divisor"))
        model.graph.node.insert(0, helper.make_node("Mul", [taken, "divisor"], [f"{taken}_divided"]))
        onnx.save(model, tmp_path / "divided.onnx")
        quantized = MODELS / "mlperf_tiny" / "pretrainedResnet_quant.tflite"
        with pytest.raises(ModelRefused, match=r"does not answer as its float twin does.*at least 90%"):
            build_bundle(quantized, pictures, tmp_path / "b", float_model=tmp_path / "divided.onnx")
        built = build_bundle(
            quantized,
            pictures,
            tmp_path / "b",
            float_model=tmp_path / "divided.onnx",
            float_tolerance=Tolerance(0.0, 1.0),
        )
        assert built.bundle.provenance["float_model"]["same"] < 100  # type: ignore[index]  # plain JSON

    def test_a_device_whose_kernels_went_wrong_hears_where_its_answers_went(
        self, tmp_path: Path, spoken: Path
    ) -> None:
        bundle = _speech(tmp_path, spoken).bundle
        other = load_model((MODELS / "mlperf_tiny" / "kws_ref_model.tflite").read_bytes())
        assert replay(bundle.golden, other).ok
        other.close()
        # What a wrong kernel gives: another class on three calls, by as little as the tolerance allows.
        (name,) = bundle.golden.outputs
        moved = {name: np.roll(bundle.golden.outputs[name], 1, axis=-1)}
        broken = dataclasses.replace(bundle.golden, outputs=moved, float_outputs=bundle.golden.float_outputs)
        runtime = load_model(bundle.model_bytes)
        test = replay(broken, runtime)
        runtime.close()
        assert not test.ok
        assert test.differing == 1.0
        assert "12 of 12 golden calls get another best class" in test.text
        assert "that of the float model (the builder's 0)" in test.text


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = np.random.default_rng(3).normal(0, 1, (400, 3)).astype(np.float32)
    return _save(tmp_path_factory.mktemp("rows") / "rows.npy", values)


def _pair(folder: Path, ours: bytes, theirs: bytes) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ours.onnx").write_bytes(ours)
    (folder / "theirs.onnx").write_bytes(theirs)
    return folder / "ours.onnx", folder / "theirs.onnx"


def test_logits_and_probabilities_of_one_model_agree(tmp_path: Path, rows: Path) -> None:
    ours, theirs = _pair(tmp_path, onnx_files.classifier(3, 4), onnx_files.classifier(3, 4, softmax=False))
    facts = build_bundle(ours, rows, tmp_path / "b", float_model=theirs).bundle.provenance["float_model"]
    assert isinstance(facts, dict)
    assert (facts["same"], facts["rows"]) == (256, 256)
    assert facts["distance"] < 1e-6


def test_another_model_is_refused_and_the_file_is_not_written(tmp_path: Path, rows: Path) -> None:
    ours, theirs = _pair(tmp_path, onnx_files.classifier(3, 4), onnx_files.classifier(3, 4, seed=8))
    with pytest.raises(ModelRefused, match="does not answer as its float twin"):
        build_bundle(ours, rows, tmp_path / "b", float_model=theirs)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (onnx_files.classifier(5, 4), r"its input 'x' is float32\[\?,5\], not float32\[\?,3\]"),
        (onnx_files.classifier(3, 2), r"its output 'y' is float32\[\?,2\], not float32\[\?,4\]"),
    ],
)
def test_a_model_of_another_signature_is_no_twin(
    tmp_path: Path, rows: Path, theirs: bytes, said: str
) -> None:
    ours, other = _pair(tmp_path, onnx_files.classifier(3, 4), theirs)
    with pytest.raises(ModelRefused, match=said):
        build_bundle(ours, rows, tmp_path / "b", float_model=other)


def test_a_float_model_needs_a_reference(tmp_path: Path) -> None:
    ours, theirs = _pair(tmp_path, onnx_files.classifier(3, 4), onnx_files.classifier(3, 4))
    with pytest.raises(ReferenceRefused, match="compared on a reference"):
        build_bundle(ours, None, tmp_path / "b", float_model=theirs)
    said = CliRunner().invoke(
        command,
        ["build", "--model", str(ours), "--out", str(tmp_path / "b"), "--float-model", str(theirs)],
    )
    assert said.exit_code == 2
    assert "give --reference as well" in said.output


def test_the_command_line_states_the_agreement_and_takes_another_tolerance(
    tmp_path: Path, rows: Path
) -> None:
    ours, theirs = _pair(tmp_path, onnx_files.classifier(3, 4), onnx_files.classifier(3, 4, seed=8))
    line = ["build", "--model", str(ours), "--reference", str(rows), "--out", str(tmp_path / "b")]
    refused = CliRunner().invoke(command, [*line, "--float-model", str(theirs)])
    assert refused.exit_code == 1
    assert "--float-agreement and --float-distance" in refused.output
    loose = ["--float-agreement", "0", "--float-distance", "1"]
    taken = CliRunner().invoke(command, [*line, "--float-model", str(theirs), *loose])
    assert taken.exit_code == 0, taken.output
    assert "theirs.onnx: " in taken.output


class TestTolerance:
    def test_what_chance_allows_warns_and_what_it_does_not_refuses(self) -> None:
        tolerance = Tolerance(0.9, 0.1)
        assert tolerance.check(Agreement(256, 240, 0.02, 0.002)) == ""
        assert "barely agrees" in tolerance.check(Agreement(256, 225, 0.02, 0.002))
        assert "barely agrees" in tolerance.check(Agreement(256, 240, 0.11, 0.02))
        for found in (Agreement(256, 180, 0.02, 0.002), Agreement(256, 240, 0.2, 0.01)):
            with pytest.raises(ModelRefused, match="are allowed"):
                tolerance.check(found)

    def test_plain_types_come_back_and_nonsense_does_not(self) -> None:
        found = Agreement(256, 240, 0.02, 0.002)
        assert Agreement.from_dict(found.to_dict()) == found
        for change in ({"rows": 0}, {"same": "all"}, {"distance": None}):
            with pytest.raises(ValueError, match="needs its"):
                Agreement.from_dict({**found.to_dict(), **change})


def test_numbers_that_are_no_scores_are_compared_in_parts_of_their_range() -> None:
    spec = TensorSpec("y", (1, 2), np.dtype(np.float32))
    theirs = np.random.default_rng(0).uniform(0, 10, (50, 1, 2))
    found = agreement([spec], {}, {"y": theirs + 0.5}, {"y": theirs})
    assert found.same is None
    assert found.distance == pytest.approx(0.05, abs=0.005)
    ours = theirs.copy()
    ours[:25] = np.nan
    assert agreement([spec], {}, {"y": ours}, {"y": theirs}).distance == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"scores": {"y": "votes"}},
        {"scores": {"z": "logits"}},
        {"scores": []},
        {
            "float_outputs": [
                {"name": "y", "dtype": "<f8", "shape": [12, 1, 4], "member": "golden/outputs-0.raw"}
            ]
        },
        {
            "float_outputs": [
                {"name": "z", "dtype": "<f4", "shape": [12, 1, 4], "member": "golden/outputs-0.raw"}
            ]
        },
        {
            "float_outputs": [
                {"name": "y", "dtype": "<f4", "shape": [12, 4], "member": "golden/outputs-0.raw"}
            ]
        },
        {"float_outputs": [{"name": "y", "dtype": "<f4", "shape": [12, 1, 4], "member": "golden/none.raw"}]},
    ],
)
def test_malformed_answers_of_a_float_model_are_refused(
    tmp_path: Path, rows: Path, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from driftpost_models import bundle as module

    ours, theirs = _pair(tmp_path, onnx_files.classifier(3, 4), onnx_files.classifier(3, 4))
    built = build_bundle(ours, rows, tmp_path / "b", float_model=theirs).bundle
    whole = module._golden_members

    def edited(golden: module.Golden) -> dict[str, bytes]:
        members = whole(golden)
        plain = module.json.loads(members["golden.json"])
        members["golden.json"] = module.json.dumps({**plain, **change}).encode()
        return members

    monkeypatch.setattr(module, "_golden_members", edited)
    built.write(tmp_path / "edited", None)
    with pytest.raises(BundleMalformed):
        Bundle.open(tmp_path / "edited", None)
