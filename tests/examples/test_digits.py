import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from camera import record, to_model_input
from digits import IMAGES, MODELS, load_pool

LARGEST_MODEL = 200_000  # bytes
FRAMES = 3_000


@pytest.fixture(scope="module")
def frames() -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    pixels, labels = record(load_pool("test"), FRAMES, np.random.default_rng(11))
    return to_model_input(pixels), labels


def onnx_outputs(inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    session = onnxruntime.InferenceSession(MODELS["onnx"], providers=["CPUExecutionProvider"])
    rows = inputs.reshape(-1, 1, 1, 16, 16)
    return np.concatenate([session.run(["probabilities"], {"image": row})[0] for row in rows])


def tflite_outputs(inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    interpreter = Interpreter(str(MODELS["tflite"]), num_threads=1)
    run = interpreter.get_signature_runner()
    return np.concatenate([run(image=row[None])["probabilities"] for row in inputs])


@pytest.mark.parametrize("outputs", [onnx_outputs, tflite_outputs])
def test_each_shipped_build_reads_at_least_96_percent_of_digits_it_was_never_trained_on(outputs, frames):
    inputs, labels = frames
    answers = outputs(inputs)
    assert answers.dtype == np.int8
    assert (answers.argmax(axis=1) == labels).mean() >= 0.96


def test_both_builds_are_one_network(frames):
    inputs, _ = frames
    onnx, tflite = onnx_outputs(inputs[:1000]), tflite_outputs(inputs[:1000])
    assert (onnx.argmax(axis=1) == tflite.argmax(axis=1)).mean() >= 0.99
    difference = np.abs(onnx.astype(int) - tflite.astype(int))
    assert difference.mean() <= 1  # of 256 steps of probability


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_shipped_models_stay_small(kind):
    assert MODELS[kind].stat().st_size <= LARGEST_MODEL


def test_the_images_say_where_they_come_from():
    source = (IMAGES.parent / "SOURCE.md").read_text()
    assert "CC BY 4.0" in source
    assert "Optical Recognition of Handwritten Digits" in source


def test_reference_and_test_images_are_disjoint_and_hold_every_digit():
    reference, test = load_pool("reference"), load_pool("test")
    seen = {image.tobytes() for image in reference.images}
    assert not any(image.tobytes() in seen for image in test.images)
    for pool in (reference, test):
        assert pool.images.shape == (len(pool), 8, 8)
        assert pool.images.dtype == pool.labels.dtype == np.uint8
        assert pool.images.max() <= 16
        assert np.bincount(pool.labels, minlength=10).min() >= 40


def test_an_unknown_pool_is_an_error():
    with pytest.raises(KeyError, match="train_images"):
        load_pool("train")
