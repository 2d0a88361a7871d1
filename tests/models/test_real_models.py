"""Published models: each is guarded, or refused with a clear reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from driftpost_models.build import build_bundle
from driftpost_models.bundle import Bundle
from driftpost_models.errors import ModelRefused
from driftpost_models.image_files import ImageScale
from driftpost_models.isolated import IsolatedRuntime
from driftpost_models.runtime import load_model
from realdata import REALDATA, needs_realdata

pytestmark = needs_realdata

MODELS = REALDATA / "models"
KWS = REALDATA / "data" / "kws01"
CIFAR = REALDATA / "data" / "cifar10_jpg" / "dev"
BOARD = REALDATA / "ref" / "mlperf_tiny" / "v1.3_NUCLEO_L4R5ZI-P" / "kws_results.json"

REFUSED = {
    "tflite_micro/person_detect.tflite": (r"quantization is not valid: .*Was 3\. It was", "convert it again"),
    "coral/mobilenet_v1_0.25_128_quant_edgetpu.tflite": ("Edge TPU", "before the Edge TPU compiler"),
}

_FILES = (
    sorted(path for path in MODELS.rglob("*") if path.suffix in (".onnx", ".tflite"))
    if MODELS.is_dir()
    else []
)
_NAMES = [path.relative_to(MODELS).as_posix() for path in _FILES]

# Shapes that free dimensions take, and scalars that may not be anything.
_FREE = {"silero_vad/silero_vad_16k_op15.onnx": {"input": (1, 512), "state": (2, 1, 128), "sr": 16000}}


def _rows(name: str, runtime, rng: np.random.Generator) -> dict[str, np.ndarray]:
    made = {}
    for spec in runtime.inputs:
        given = _FREE.get(name, {}).get(spec.name)
        if isinstance(given, int):
            made[spec.name] = np.array(given, spec.dtype)
            continue
        shape = given or [d or 1 for d in spec.shape]
        if spec.dtype.kind == "f":
            made[spec.name] = rng.normal(0, 0.1, shape).astype(spec.dtype)
        else:
            info = np.iinfo(spec.dtype)
            made[spec.name] = rng.integers(info.min, info.max, shape, endpoint=True).astype(spec.dtype)
    return made


@pytest.mark.parametrize("name", _NAMES)
def test_every_published_model_runs_in_a_child_or_is_refused_clearly(name: str) -> None:
    if name in REFUSED:
        reason, remedy = REFUSED[name]
        for load in (load_model, IsolatedRuntime):
            with pytest.raises(ModelRefused, match=reason) as refused:
                load(MODELS / name)
            assert remedy in refused.value.remedy
        return
    rng = np.random.default_rng(0)
    here, child = load_model(MODELS / name), IsolatedRuntime(MODELS / name, threads=2)
    assert (child.inputs, child.outputs, child.version) == (here.inputs, here.outputs, here.version)
    for _ in range(3):
        inputs = _rows(name, here, rng)
        a, b = here.run(inputs), child.run(inputs)
        for spec in here.outputs:
            assert a[spec.name].dtype == spec.dtype
            np.testing.assert_array_equal(a[spec.name], b[spec.name])
    here.close()
    child.close()


@pytest.fixture(scope="module")
def board() -> dict[str, np.ndarray]:
    return {
        entry["file"]: np.array(entry["infer"]["results"]) for entry in json.loads(BOARD.read_text("utf-8"))
    }


def _kws(load, name: str, feed) -> tuple[np.ndarray, list[Path]]:
    runtime = load(MODELS / name)
    source, target = runtime.inputs[0], runtime.outputs[0]
    files = sorted(KWS.glob("*.bin"))
    answers = []
    for file in files:
        codes = np.fromfile(file, np.int8)
        fed = feed(codes).reshape([d or 1 for d in source.shape]).astype(source.dtype)
        answers.append(target.real(runtime.run({source.name: fed})[target.name])[0])
    runtime.close()
    return np.stack(answers), files


def _true(files: list[Path]) -> np.ndarray:
    return np.array([int(file.stem.rsplit("_", 1)[1]) for file in files])


@pytest.mark.parametrize("load", [load_model, IsolatedRuntime])
def test_the_int8_keyword_model_answers_as_the_board_did(load, board) -> None:
    answers, files = _kws(load, "mlperf_tiny/kws_ref_model.tflite", lambda codes: codes)
    expected = np.stack([board[file.name] for file in files])
    assert len(files) == 500
    # The board prints three digits of steps of 1/256.
    assert np.abs(answers - expected).max() <= 0.001
    assert (answers.argmax(axis=1) == _true(files)).mean() >= 0.90


def test_the_onnx_keyword_model_agrees_in_natural_units(board) -> None:
    answers, files = _kws(
        load_model,
        "mlperf_tiny_onnx/kws_ref_model.onnx",
        lambda codes: (codes.astype(np.float32) - 83) * 0.5847029,
    )
    expected = np.stack([board[file.name] for file in files])
    assert (answers.argmax(axis=1) == _true(files)).mean() >= 0.89
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.90


def test_a_streaming_model_needs_a_fresh_interpreter_to_repeat_itself(tmp_path: Path) -> None:
    """Its state lives in the interpreter: golden calls are for models that were never called before."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "r.npy", np.clip(rng.normal(-60, 40, (300, 3, 40)), -128, 127).astype(np.int8))
    built = build_bundle(MODELS / "micro_wake_word" / "okay_nabu.tflite", tmp_path / "r.npy", tmp_path / "b")
    assert not any("same answers twice" in note for note in built.notes)
    bundle = Bundle.open(tmp_path / "b", None)
    fresh = load_model(bundle.model_bytes)
    assert bundle.self_test(fresh).worst_difference == 0
    fresh.close()


def test_a_bundle_of_the_keyword_model_from_raw_tensors(tmp_path: Path) -> None:
    built = build_bundle(
        MODELS / "mlperf_tiny" / "kws_ref_model.tflite", KWS, tmp_path / "b", labels=str(KWS / "y_labels.csv")
    )
    bundle = Bundle.open(tmp_path / "b", None)
    assert built.accuracy == pytest.approx(0.906)
    assert bundle.confusion.sum() == 500
    streams = {stream.name for stream in bundle.schema.streams}
    assert {
        "level",
        "feature0",
        "feature9",
        "class",
        "confidence",
        "input_1.codes",
        "input_1.at_limits",
    } <= streams
    runtime = IsolatedRuntime(bundle.model_bytes)
    test = bundle.self_test(runtime)
    runtime.close()
    assert test.ok
    assert built.size < 120_000


@pytest.mark.parametrize(
    ("name", "scale", "accuracy"),
    [
        ("mlperf_tiny/pretrainedResnet_quant.tflite", None, 0.75),
        ("mlperf_tiny_onnx/resnet.onnx", "0..255", 0.74),
        ("mlperf_tiny_onnx/resnet.onnx", "0..1", 0.09),
    ],
)
def test_a_bundle_of_resnet8_from_a_folder_of_jpegs(
    tmp_path: Path, name: str, scale: str | None, accuracy: float
) -> None:
    built = build_bundle(
        MODELS / name, CIFAR, tmp_path / "b", image_scale=None if scale is None else ImageScale.parse(scale)
    )
    assert built.accuracy == pytest.approx(accuracy, abs=0.03)
    bundle = built.bundle
    assert bundle.classes[:2] == ("airplane", "automobile")
    summary = bundle.calibration.baseline.summary(bundle.schema, bundle.schema.index("brightness"))
    assert summary.mean == pytest.approx(0.478, abs=0.01)
    assert built.size < 200_000


def test_explicit_state_and_a_scalar_input_are_guarded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "r.npz", input=rng.normal(0, 0.1, (200, 512)).astype(np.float32), sr=np.array(16000))
    built = build_bundle(
        MODELS / "silero_vad" / "silero_vad_16k_op15.onnx", tmp_path / "r.npz", tmp_path / "b"
    )
    assert built.bundle.provenance["states"] == {"state": "stateN"}
    tracked = built.bundle.calibration.tracked_names
    assert "rms" in tracked
    assert not [name for name in tracked if name.startswith("state")]
    runtime = IsolatedRuntime(built.bundle.model_bytes)
    assert built.bundle.self_test(runtime).ok
    runtime.close()
