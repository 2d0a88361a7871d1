"""ONNX models through ONNX Runtime."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from driftpost_models.errors import InferenceFailed, ModelRefused
from driftpost_models.onnx_graph import OnnxGraph, read_graph
from driftpost_models.providers import PREFERRED, PROVIDERS, Attempt, attempts
from driftpost_models.runtime import Array, TensorSpec, check_inputs

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(uint32)": np.uint32,
    "tensor(int32)": np.int32,
    "tensor(uint64)": np.uint64,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}

# Characters of an accelerator's own words that are kept.
_WHY_CHARS = 300
_QUIET = 3  # ONNX Runtime's severity "error": its warnings about graph optimisation are not for our users.

# Without this ONNX Runtime prints to stdout and tries a broken model twice.
_NO_FALLBACK: dict[str, Any] = {"enable_fallback": 0}


def _refusal(message: str) -> ModelRefused:
    """What ONNX Runtime's refusal means for a person."""
    text = " ".join(message.split())
    if re.search(r"IR version|opset \d+ is under development|max supported", text, re.IGNORECASE):
        return ModelRefused(
            f"This ONNX Runtime is older than the model: {text}",
            "Update onnxruntime, or export the model with a lower opset.",
        )
    if re.search(
        r"NOT_IMPLEMENTED|No Op registered|is not a registered function/op|Could not find an implementation",
        text,
    ):
        return ModelRefused(
            f"The model uses an operator that this ONNX Runtime does not have: {text}",
            "Export it with standard operators only, or update onnxruntime.",
        )
    if "external data" in text.lower() or "external_data" in text.lower():
        return _external_data()
    return ModelRefused(
        f"ONNX Runtime can not load the model: {text}",
        "The file is damaged or its graph is not valid: compare its SHA-256 with the source, "
        "and run `onnx.checker.check_model` where it was exported.",
    )


def _external_data() -> ModelRefused:
    return ModelRefused(
        "The model keeps its weights in other files (external data).",
        "Save it as one file: onnx.save_model(model, path, save_as_external_data=False).",
    )


class OnnxRuntime:
    """One model in an ONNX Runtime session. Safe to call from several threads.

    Attributes:
        provider: what computes; operators that it does not have run on the CPU.
        declined: why an accelerator that this ONNX Runtime has is not used, "" if nothing was declined.

    Args:
        content: the model.
        threads: threads that one call may use on the CPU.
        providers: see `driftpost_models.providers`.
        cache: folder for compiled engines.

    Raises:
        ModelRefused: it can not be loaded.
    """

    kind = "onnx"

    def __init__(
        self,
        content: bytes,
        *,
        threads: int = 1,
        providers: Sequence[str] = PREFERRED,
        cache: Path | None = None,
    ) -> None:
        # Only sketches leave the device: since 1.29 ONNX Runtime reports models and machine to its maker.
        # It reads this once, when it is imported; turning it off by its API comes after the first report.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        try:
            import onnxruntime  # noqa: PLC0415 - only devices with ONNX models have it
            from onnxruntime.capi import onnxruntime_pybind11_state as native  # noqa: PLC0415
        except ImportError as error:
            raise ModelRefused(
                f"The model is ONNX, but onnxruntime can not be imported ({error}).",
                "Install it: pip install 'driftpost[onnx]'.",
            ) from error
        graph = self._read(content)
        self._errors: tuple[type[Exception], ...] = (
            RuntimeError,
            ValueError,
            *(
                kind
                for name in dir(native)
                if isinstance(kind := getattr(native, name), type) and issubclass(kind, Exception)
            ),
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        # Waiting threads that spin heat a fanless board for nothing.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.declined = ""
        tries = attempts(providers, onnxruntime.get_available_providers(), cache)
        if cache is not None and tries[0][0][0] == PROVIDERS["tensorrt"]:
            # TensorRT refuses a folder that is not there.
            cache.mkdir(parents=True, exist_ok=True)
        for number, attempt in enumerate(tries, 1):
            try:
                session = self._session_of(onnxruntime, content, options, attempt)
            except self._errors as error:
                if number == len(tries):
                    raise _refusal(str(error)) from error
                self._decline(attempt[0][0], str(error))
                continue
            break
        if session.get_providers()[0] != attempt[0][0]:
            # Some accelerators leave themselves out of the session instead of refusing it.
            self._decline(
                attempt[0][0], "it does not start here: is its driver installed and its device allowed?"
            )
        self._session: Any = session
        self.version = f"onnxruntime {onnxruntime.__version__}"
        self.provider: str = session.get_providers()[0]
        self.inputs = tuple(_spec(arg, graph, "input") for arg in session.get_inputs())
        self.outputs = tuple(_spec(arg, graph, "output") for arg in session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]

    def _decline(self, provider: str, why: str) -> None:
        text = f"{provider}: {' '.join(why.split())[:_WHY_CHARS]}"
        self.declined = f"{self.declined}; {text}" if self.declined else text

    @staticmethod
    def _session_of(onnxruntime: Any, content: bytes, options: Any, attempt: Attempt) -> Any:
        session = onnxruntime.InferenceSession(content, options, providers=attempt, **_NO_FALLBACK)
        if any(not isinstance(d, int) for i in session.get_inputs() for d in i.shape):
            # Plans and arenas are kept for every new input shape, for ever (onnxruntime#11118).
            options.enable_mem_pattern = False
            options.enable_cpu_mem_arena = False
            session = onnxruntime.InferenceSession(content, options, providers=attempt, **_NO_FALLBACK)
        return session

    @staticmethod
    def _read(content: bytes) -> OnnxGraph:
        try:
            graph = read_graph(content)
        except ValueError as error:
            raise ModelRefused(
                f"The ONNX file is damaged: it {error}.",
                "It was probably cut short: fetch it again and compare its SHA-256 with the source.",
            ) from error
        if graph.external_data:
            raise _external_data()
        return graph

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call of the model.

        Raises:
            InputMismatch: a tensor is missing, unknown or does not fit.
            InferenceFailed: ONNX Runtime reported an error, or the runtime was closed.
        """
        check_inputs(self.inputs, inputs)
        session = self._session
        if session is None:
            raise InferenceFailed("the model was closed")
        try:
            values = session.run(self._output_names, dict(inputs))
        except self._errors as error:
            raise InferenceFailed(f"ONNX Runtime: {' '.join(str(error).split())}") from error
        return dict(zip(self._output_names, values, strict=True))

    def single_call(self) -> Callable[[Array], Array]:
        """See `driftpost_models.runtime.SingleCalls`."""
        name, errors = self.inputs[0].name, self._errors
        names = self._output_names
        # Below the session's own checks of names, which are known to be right here, and its change of
        # providers, of which the CPU has none: in Python, those take half as long as the guard's whole path.
        below = self.provider == "CPUExecutionProvider"

        def call(tensor: Array) -> Array:
            nonlocal below
            session = self._session
            if session is None:
                raise InferenceFailed("the model was closed")
            answer: Array
            try:
                if below:
                    try:
                        answer = session._sess.run(names, {name: tensor}, None)[0]
                        return answer
                    except (AttributeError, TypeError):
                        # A later ONNX Runtime that is made otherwise: the public way from now on.
                        below = False
                answer = session.run(names, {name: tensor})[0]
            except errors as error:
                raise InferenceFailed(f"ONNX Runtime: {' '.join(str(error).split())}") from error
            return answer

        return call

    def close(self) -> None:
        """Give the model's memory back."""
        self._session = None


def _spec(arg: Any, graph: OnnxGraph, what: str) -> TensorSpec:
    dtype = _DTYPES.get(arg.type)
    if dtype is None:
        remedy = (
            "Export it with tensors only; for scikit-learn models convert with options={'zipmap': False}."
            if "seq" in arg.type or "map" in arg.type
            else "Move the step that handles it out of the model, and feed numbers."
        )
        raise ModelRefused(f"The {what} {arg.name!r} is {arg.type}, which has no numeric tensor.", remedy)
    shape = tuple(d if isinstance(d, int) and d >= 0 else None for d in arg.shape)
    grid = graph.grids.get(arg.name)
    if grid is None:
        return TensorSpec(arg.name, shape, np.dtype(dtype))
    return TensorSpec(arg.name, shape, np.dtype(dtype), grid.scale, grid.zero_point)
