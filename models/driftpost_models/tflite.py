"""TFLite models through LiteRT, or through tflite-runtime where that is what is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from driftpost_models.errors import InferenceFailed, ModelRefused
from driftpost_models.runtime import Array, TensorSpec, check_inputs

# LiteRT first: tflite-runtime ended at 2.14, needs numpy 1 and is slower on current int8 models.
_PACKAGES = (
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite-runtime"),
)

# What the native library raises, by its whim and version.
_LOAD_ERRORS = (ValueError, RuntimeError, TypeError, AttributeError, ImportError, SystemError)

_SMALLEST_FILE = 32
"""Bytes. A flatbuffer with its root table and identifier can't be shorter."""


def _package() -> tuple[Any, str]:
    """The interpreter's module in the first package that imports, with the package's name and version."""
    problems = []
    for module, package in _PACKAGES:
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            problems.append(f"{package}: {error}")
            continue
        return found, f"{package} {importlib.metadata.version(package)}"
    raise ModelRefused(
        f"The model is TFLite, but no runtime for it can be imported ({'; '.join(problems)}).",
        "Install one: pip install 'driftpost[tflite]'.",
    )


def _first_problem(text: str) -> str:
    """The first of several sentences that the interpreter has put together without a space between them."""
    return re.split(r"\.(?=[A-Z]|$|[a-z_]+ must)", text, maxsplit=1)[0][:200]


def _refusal(message: str) -> ModelRefused:
    """What the interpreter's refusal means for a person."""
    text = " ".join(message.split())
    custom = re.search(r"unresolved custom op: ([\w-]+)", text)
    if custom and "edgetpu" in custom[1]:
        return ModelRefused(
            f"The model was compiled for an Edge TPU (custom operator {custom[1]}).",
            "Give the model from before the Edge TPU compiler (the file without `_edgetpu` in its name).",
        )
    if custom:
        return ModelRefused(
            f"The model needs the custom operator {custom[1]}, which this runtime does not have.",
            "Convert it with built-in operators only.",
        )
    if "Select TensorFlow op" in text or "Flex" in text:
        return ModelRefused(
            f"The model needs TensorFlow's own operators: {text}",
            "Convert it without SELECT_TF_OPS, so that built-in operators suffice.",
        )
    if "quantized_dimension" in text:
        return ModelRefused(
            f"The model's quantization is not valid: {_first_problem(text)}.",
            "It was made by an old converter; convert it again from its source with a current one. "
            "No current runtime takes it as it is.",
        )
    if "Didn't find op for builtin opcode" in text or "version" in text.lower():
        return ModelRefused(
            f"The model is newer than this runtime: {text}",
            "Update ai-edge-litert, or convert for older operators.",
        )
    if "numpy" in text.lower() or "ARRAY_API" in text:
        return ModelRefused(
            f"tflite-runtime does not work with this numpy: {text}",
            "Install the successor: pip install 'driftpost[tflite]', or keep numpy below 2.",
        )
    return ModelRefused(
        f"The TFLite interpreter can not load the model: {text}",
        "The file is damaged or was not converted completely: compare its SHA-256 with the source, "
        "or convert it again.",
    )


def _prepared(package: Any, content: bytes, threads: int, **options: Any) -> Any:
    interpreter = package.Interpreter(model_content=content, num_threads=threads, **options)
    interpreter.allocate_tensors()
    return interpreter


class TfliteRuntime:
    """One model in a TFLite interpreter. Calls from several threads take turns.

    Streaming models keep their state between calls in the interpreter, and `reset_all_variables` does not
    reset it on LiteRT: whoever needs a known start loads the model again.
    """

    kind = "tflite"

    def __init__(self, content: bytes, *, threads: int = 1) -> None:
        if len(content) < _SMALLEST_FILE:
            raise _refusal("the file ends inside its header")
        package, self.version = _package()
        self.provider = "XNNPACK"
        try:
            interpreter = _prepared(package, content, threads)
        except _LOAD_ERRORS as error:
            if "XNNPACK" not in str(error):
                raise _refusal(str(error)) from error
            # The delegate refuses models that the plain kernels run, such as uint8 tensors with a scale of 0.
            self.provider = "plain kernels"
            plain = package.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            try:
                interpreter = _prepared(package, content, threads, experimental_op_resolver_type=plain)
            except _LOAD_ERRORS as second:
                raise _refusal(str(second)) from second
        self._interpreter: Any = interpreter
        # The interpreter does not copy the model: the bytes must live as long as it does.
        self._content = content
        self._lock = threading.Lock()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        names = _names(interpreter, inputs, outputs)
        self.inputs = tuple(_spec(d, name) for d, name in zip(inputs, names[0], strict=True))
        self.outputs = tuple(_spec(d, name) for d, name in zip(outputs, names[1], strict=True))
        self._input_indices = {name: int(d["index"]) for d, name in zip(inputs, names[0], strict=True)}
        self._output_indices = {name: int(d["index"]) for d, name in zip(outputs, names[1], strict=True)}
        self._shapes = {
            name: tuple(int(n) for n in d["shape"]) for d, name in zip(inputs, names[0], strict=True)
        }

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call of the model.

        Raises:
            InputMismatch: a tensor is missing, unknown or does not fit.
            InferenceFailed: the interpreter reported an error, or the runtime was closed.
        """
        check_inputs(self.inputs, inputs)
        with self._lock:
            interpreter = self._interpreter
            if interpreter is None:
                raise InferenceFailed("the model was closed")
            try:
                if any(self._shapes[name] != value.shape for name, value in inputs.items()):
                    self._resize(interpreter, inputs)
                for name, value in inputs.items():
                    interpreter.set_tensor(self._input_indices[name], value)
                interpreter.invoke()
                return {name: interpreter.get_tensor(index) for name, index in self._output_indices.items()}
            except (ValueError, RuntimeError) as error:
                raise InferenceFailed(f"TFLite: {' '.join(str(error).split())}") from error

    def _resize(self, interpreter: Any, inputs: Mapping[str, Array]) -> None:
        for name, value in inputs.items():
            interpreter.resize_tensor_input(self._input_indices[name], list(value.shape))
            # Forgotten first: if the new shape is refused, the next call resizes again.
            self._shapes[name] = ()
        interpreter.allocate_tensors()
        for name, value in inputs.items():
            self._shapes[name] = value.shape

    def close(self) -> None:
        """Give the model's memory back."""
        with self._lock:
            self._interpreter = None


def _names(
    interpreter: Any, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """Names that the model's author gave: its signature's, else its tensors' without decoration."""
    signatures = interpreter.get_signature_list()
    if "serving_default" in signatures or len(signatures) == 1:
        key = "serving_default" if "serving_default" in signatures else next(iter(signatures))
        runner = interpreter.get_signature_runner(key)
        taken = {int(d["index"]): str(name) for name, d in runner.get_input_details().items()}
        given = {int(d["index"]): str(name) for name, d in runner.get_output_details().items()}
        # A signature may stand for another subgraph, or name two outputs that are one tensor.
        if all(int(d["index"]) in taken for d in inputs) and all(int(d["index"]) in given for d in outputs):
            return (
                _unique([taken[int(d["index"])] for d in inputs]),
                _unique([given[int(d["index"])] for d in outputs]),
            )
    return _unique([_plain(str(d["name"])) for d in inputs]), _unique(
        [_plain(str(d["name"])) for d in outputs]
    )


def _plain(name: str) -> str:
    return name.removeprefix("serving_default_").removesuffix(":0")


def _unique(names: list[str]) -> list[str]:
    """Names made distinct: TFLite files may use one name twice, and may leave it empty."""
    seen: dict[str, int] = {}
    result = []
    for position, name in enumerate(names):
        base = name or f"tensor{position}"
        seen[base] = seen.get(base, 0) + 1
        result.append(base if seen[base] == 1 else f"{base}#{seen[base]}")
    return result


def _spec(detail: dict[str, Any], name: str) -> TensorSpec:
    dtype = np.dtype(detail["dtype"])
    if dtype.kind not in "biuf":
        raise ModelRefused(
            f"The tensor {name!r} holds {dtype}, not numbers.",
            "Move the step that handles it out of the model.",
        )
    signature = detail.get("shape_signature")
    dims = detail["shape"] if signature is None or len(signature) != len(detail["shape"]) else signature
    shape = tuple(None if int(d) < 0 else int(d) for d in dims)
    parameters = detail.get("quantization_parameters", {})
    scales = np.asarray(parameters.get("scales", ()), np.float64).ravel()
    zeros = np.asarray(parameters.get("zero_points", ()), np.int64).ravel()
    # A scale of 0 appears in real files and means nothing; per-channel scales never stand at a model's ends.
    if len(scales) != 1 or not np.isfinite(scales[0]) or scales[0] <= 0:
        return TensorSpec(name, shape, dtype)
    return TensorSpec(name, shape, dtype, float(scales[0]), int(zeros[0]) if len(zeros) else 0)
