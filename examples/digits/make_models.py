"""Makes everything the digits demo ships: the images, and one trained network as int8 ONNX and int8 TFLite.

Run it in an environment of its own (`requirements-train.txt`); driftpost itself needs neither TensorFlow nor
scikit-learn:

    python -m venv .venv-train
    .venv-train/bin/pip install -r examples/digits/requirements-train.txt
    .venv-train/bin/python examples/digits/make_models.py

Steps: split the handwriting into three disjoint stratified sets; train a small CNN on simulated camera frames
of the first; quantize the same weights for both runtimes, calibrated on frames of the training set only;
measure both files on frames of the set that the demo feeds.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime would report to its maker; read at import

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from camera import SIDE, expose, record, to_model_input
from digits import HERE, Pool

SEED = 20_240_607
TRAIN, REFERENCE = 800, 500  # images; the remaining 497 are the test set
EPOCHS = 60
BATCH = 64
CALIBRATION_FRAMES = 1_000
EVALUATION_FRAMES = 5_000
INPUT, OUTPUT = "image", "probabilities"
OPSET = 17
IR_VERSION = 8  # read by every onnxruntime since 1.12

Weights = dict[str, NDArray[np.float32]]


def split() -> dict[str, Pool]:
    """The bundled digits as three disjoint pools, each with every digit in the source's proportions."""
    source = load_digits()
    images, labels = source.images.astype(np.uint8), source.target.astype(np.uint8)
    train, rest = train_test_split(
        np.arange(len(labels)), train_size=TRAIN, stratify=labels, random_state=SEED
    )
    reference, test = train_test_split(rest, train_size=REFERENCE, stratify=labels[rest], random_state=SEED)
    return {
        name: Pool(images[rows], labels[rows])
        for name, rows in (("train", train), ("reference", reference), ("test", test))
    }


def save_images(pools: dict[str, Pool], path: Path) -> None:
    """Write the two pools that the demo needs; the training set stays out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        reference_images=pools["reference"].images,
        reference_labels=pools["reference"].labels,
        test_images=pools["test"].images,
        test_labels=pools["test"].labels,
    )


def shift(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Move each image by up to one cell each way: hands do not centre figures as the source's tool did."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    moved = np.empty_like(images)
    for index, (down, right) in enumerate(rng.integers(0, 3, (len(images), 2))):
        moved[index] = padded[index, down : down + 8, right : right + 8]
    return moved


def train(pool: Pool) -> Any:
    """Fit the network in Keras on newly simulated frames each epoch."""
    tf.keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    layers = tf.keras.layers
    network = tf.keras.Sequential(
        [
            layers.Input((SIDE, SIDE, 1), batch_size=None, name=INPUT),
            layers.Conv2D(12, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(2),
            layers.Conv2D(24, 3, padding="same", activation="relu", name="conv2"),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv3"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax", name="dense"),
        ]
    )
    steps = EPOCHS * -(-len(pool) // BATCH)
    network.compile(
        optimizer=tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        loss="sparse_categorical_crossentropy",
    )
    rng = np.random.default_rng(SEED)
    for _ in range(EPOCHS):
        frames = expose(shift(pool.images, rng), rng)
        network.fit(frames[..., None] / 255.0, pool.labels, batch_size=BATCH, verbose=0)
    return network


def calibration_frames(pool: Pool) -> Iterator[NDArray[np.float32]]:
    """Frames ``float32[1, 16, 16, 1]`` that fix the ranges of activations.

    One all-black and one all-white frame come first: they pin the input's scale to 1/255 and its zero point
    to -128, so that a pixel is its own code in both runtimes.
    """
    for level in (0.0, 1.0):
        yield np.full((1, SIDE, SIDE, 1), level, np.float32)
    for frame in record(pool, CALIBRATION_FRAMES, np.random.default_rng(SEED + 1))[0]:
        yield (frame[None, ..., None] / 255.0).astype(np.float32)


def to_tflite(network: Any, pool: Pool) -> bytes:
    """Full-int8 TFLite, inputs and outputs too, with the same tensor names as the ONNX build."""
    image = tf.keras.Input(batch_shape=(1, SIDE, SIDE, 1), name=INPUT)
    named = tf.keras.Model({INPUT: image}, {OUTPUT: network(image, training=False)})
    converter = tf.lite.TFLiteConverter.from_keras_model(named)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([frame] for frame in calibration_frames(pool))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def to_float_onnx(network: Any) -> onnx.ModelProto:
    """The trained weights as an ONNX graph; it takes frames channels first, as ONNX convolutions do."""
    weights: Weights = {}
    for name in ("conv1", "conv2", "conv3"):
        kernel, bias = network.get_layer(name).get_weights()
        weights[f"{name}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        weights[f"{name}.bias"] = bias
    kernel, bias = network.get_layer("dense").get_weights()
    # Keras flattens rows, columns, channels; the graph flattens channels first.
    cells = SIDE // 4
    weights["dense.weight"] = np.ascontiguousarray(
        kernel.reshape(cells, cells, -1, 10).transpose(2, 0, 1, 3).reshape(-1, 10)
    )
    weights["dense.bias"] = bias

    nodes: list[onnx.NodeProto] = []
    value = INPUT
    for name, pooled in (("conv1", True), ("conv2", True), ("conv3", False)):
        nodes += [
            helper.make_node(
                "Conv",
                [value, f"{name}.weight", f"{name}.bias"],
                [name],
                name=name,
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
            ),
            helper.make_node("Relu", [name], [f"{name}.relu"]),
        ]
        value = f"{name}.relu"
        if pooled:
            nodes.append(
                helper.make_node("MaxPool", [value], [f"{name}.pool"], kernel_shape=[2, 2], strides=[2, 2])
            )
            value = f"{name}.pool"
    nodes += [
        helper.make_node("Flatten", [value], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense.weight", "dense.bias"], ["logits"], name="dense"),
        helper.make_node("Softmax", ["logits"], [OUTPUT], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="driftpost",
    )
    onnx.checker.check_model(model)
    return model


class Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Calibration frames as onnxruntime's quantizer asks for them."""

    def __init__(self, pool: Pool) -> None:
        self._frames = calibration_frames(pool)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next frame by input name, or None after the last."""
        frame = next(self._frames, None)
        return None if frame is None else {INPUT: frame.reshape(1, 1, SIDE, SIDE)}


def with_int8_ends(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the first QuantizeLinear and the last DequantizeLinear: int8 in and out, as in TFLite."""
    graph, nodes = model.graph, list(model.graph.node)
    first = next(node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] == INPUT)
    last = next(node for node in nodes if node.op_type == "DequantizeLinear" and node.output[0] == OUTPUT)
    quantized_in, quantized_out = first.output[0], last.input[0]
    graph.node.remove(first)
    graph.node.remove(last)
    renamed = {quantized_in: INPUT, quantized_out: OUTPUT}
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.INT8
    onnx.checker.check_model(model)
    return model


def to_onnx(network: Any, pool: Pool) -> bytes:
    """QDQ int8 ONNX with int8 input and output."""
    with tempfile.TemporaryDirectory() as folder:
        plain, quantized = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(to_float_onnx(network), plain)
        quantization.quantize_static(
            plain,
            quantized,
            Calibration(pool),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
        model = with_int8_ends(onnx.load(quantized))
    model.producer_name, model.producer_version = "driftpost", ""
    data: bytes = model.SerializeToString()
    return data


def run_onnx(model: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs ``int8[n, 10]`` of the ONNX build."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rows = inputs.reshape(-1, 1, 1, SIDE, SIDE)
    return np.concatenate([session.run([OUTPUT], {INPUT: row})[0] for row in rows])


def run_tflite(model: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs ``int8[n, 10]`` of the TFLite build."""
    interpreter = tf.lite.Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    feed, fetch = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    outputs = []
    for row in inputs:
        interpreter.set_tensor(feed, row[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(fetch))
    return np.concatenate(outputs)


def main() -> None:
    """Make, measure and write everything; print the measurements as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE, help="folder that gets data/ and models/")
    out: Path = parser.parse_args().out

    pools = split()
    save_images(pools, out / "data" / "digits.npz")
    network = train(pools["train"])
    builds = {"onnx": to_onnx(network, pools["train"]), "tflite": to_tflite(network, pools["train"])}

    frames, labels = record(pools["test"], EVALUATION_FRAMES, np.random.default_rng(SEED + 2))
    answers = {
        kind: run(builds[kind], to_model_input(frames)).argmax(axis=1)
        for kind, run in (("onnx", run_onnx), ("tflite", run_tflite))
    }
    (out / "models").mkdir(parents=True, exist_ok=True)
    report: dict[str, float] = {"agreement": float((answers["onnx"] == answers["tflite"]).mean())}
    for kind, model in builds.items():
        (out / "models" / f"digits_int8.{kind}").write_bytes(model)
        report[f"{kind}_accuracy"] = float((answers[kind] == labels).mean())
        report[f"{kind}_bytes"] = len(model)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
