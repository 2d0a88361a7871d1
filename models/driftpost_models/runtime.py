"""The contract behind which every model runtime stands, and the door through which models come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import InputMismatch, ModelRefused
from driftpost_models.providers import PREFERRED

Array = npt.NDArray[np.generic]

MAX_MODEL_BYTES = 512 * 1024 * 1024
"""Bytes. Above what a Pi's memory holds beside the interpreter's arena; protobuf itself ends at 2 GiB."""

MAX_RANK = 8
"""Dimensions. ONNX Runtime and TFLite kernels stop at 5 to 8; more is a damaged file."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: the tensor's name in the model.
        shape: dimensions with the batch; None where any length is taken.
        dtype: the numpy dtype that is fed or returned.
        scale: real value of one quantization step, or None where the tensor is not quantized per tensor.
            A float tensor may have one: it is the grid onto which the model rounds it next.
        zero_point: the code of real zero; None where `scale` is None.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[np.generic]
    scale: float | None = None
    zero_point: int | None = None

    @property
    def quantized(self) -> bool:
        """Whether values are codes that mean `(code - zero_point) * scale`."""
        return self.scale is not None and self.dtype.kind in "iu"

    @property
    def batched(self) -> bool:
        """Whether the first dimension counts rows: rank 2 or more, and it is 1 or free."""
        return len(self.shape) > 1 and self.shape[0] in (1, None)

    @property
    def row_shape(self) -> tuple[int | None, ...]:
        """Dimensions of one row: without the batch where there is one."""
        return self.shape[1:] if self.batched else self.shape

    def real(self, values: Array) -> npt.NDArray[np.floating]:
        """Natural units of raw values: dequantized float32, or the values as floats.

        Args:
            values: array of any shape in this tensor's dtype.
        """
        real: npt.NDArray[np.floating]
        if self.quantized:
            zero, scale = np.float32(self.zero_point or 0), np.float32(self.scale or 1)
            real = (values.astype(np.float32) - zero) * scale
        elif values.dtype.itemsize <= 2 or values.dtype == np.float32:
            real = values.astype(np.float32, copy=False)
        else:
            real = values.astype(np.float64, copy=False)
        return real

    def limits(self) -> tuple[float, float] | None:
        """Lowest and highest real value that the tensor can hold, None where that is unbounded."""
        if self.dtype.kind not in "iu" or self.dtype.itemsize > 2:
            return None
        info = np.iinfo(self.dtype.str)
        if not self.quantized:
            return float(info.min), float(info.max)
        assert self.scale is not None
        zero = self.zero_point or 0
        return (info.min - zero) * self.scale, (info.max - zero) * self.scale

    def describe(self) -> str:
        """Readable form, such as `float32[?,490]`."""
        dims = ",".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.dtype.name}[{dims}]"

    def check(self, value: Array) -> None:
        """Refuse a tensor that the model can not take.

        Raises:
            InputMismatch: wrong dtype, rank or length.
        """
        if value.dtype != self.dtype:
            raise InputMismatch(self.name, "dtype", self.describe(), value.dtype.name)
        shape = value.shape
        if len(shape) != len(self.shape) or any(
            want is not None and want != got for want, got in zip(self.shape, shape, strict=True)
        ):
            got = f"{value.dtype.name}[{','.join(map(str, shape))}]"
            raise InputMismatch(self.name, "shape", self.describe(), got)

    def rows(self, value: Array) -> Array:
        """View a tensor of one call as rows, first axis counting them."""
        return value if self.batched else value[np.newaxis]

    def to_dict(self) -> dict[str, object]:
        """Plain types, for JSON and msgpack."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "scale": self.scale,
            "zero_point": self.zero_point,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, object]) -> TensorSpec:
        """Inverse of `to_dict`.

        Raises:
            ValueError: a field is missing or not of its type.
        """
        name, shape, dtype = plain.get("name"), plain.get("shape"), plain.get("dtype")
        scale, zero_point = plain.get("scale"), plain.get("zero_point")
        if not isinstance(name, str) or not isinstance(dtype, str) or not isinstance(shape, (list, tuple)):
            raise ValueError("a tensor needs a name, a dtype and a shape")
        if len(shape) > MAX_RANK or not all(d is None or (type(d) is int and d >= 0) for d in shape):
            raise ValueError(f"tensor {name!r}: not a shape: {shape!r}")
        if scale is not None and not isinstance(scale, (int, float)):
            raise ValueError(f"tensor {name!r}: not a scale: {scale!r}")
        if zero_point is not None and type(zero_point) is not int:
            raise ValueError(f"tensor {name!r}: not a zero point: {zero_point!r}")
        try:
            parsed = np.dtype(dtype)
        except TypeError as error:
            raise ValueError(f"tensor {name!r}: not a dtype: {dtype!r}") from error
        if parsed.kind not in "biuf":
            raise ValueError(f"tensor {name!r}: not a numeric dtype: {dtype!r}")
        return cls(name, tuple(shape), parsed, None if scale is None else float(scale), zero_point)


class Runtime(Protocol):
    """A loaded model.

    Attributes:
        kind: `onnx` or `tflite`.
        version: name and version of the runtime's package, such as `onnxruntime 1.20.0`.
        provider: what computes, such as `CPUExecutionProvider` or `XNNPACK`.
        inputs: what `run` takes.
        outputs: what `run` returns.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102 - described by the class
    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def provider(self) -> str: ...  # noqa: D102
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...  # noqa: D102
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...  # noqa: D102

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call of the model; safe to call from several threads.

        Args:
            inputs: every input by name, in exactly its dtype.

        Raises:
            InputMismatch: a tensor is missing, unknown or does not fit.
            InferenceFailed: the runtime reported an error.
        """
        ...

    def close(self) -> None:
        """Give the model's memory back; a second call does nothing."""
        ...


@runtime_checkable
class SingleCalls(Protocol):
    """A runtime with a short way for models of one input and one output."""

    def single_call(self) -> Callable[[Array], Array]:
        """A function that takes an input that fits and returns the output; raises as `Runtime.run` does."""
        ...


def single_call(runtime: Runtime) -> Callable[[Array], Array]:
    """The shortest way to call a model of one input and one output with an input that is known to fit.

    Returns:
        A function of the input that returns the output; it raises what `Runtime.run` raises.
    """
    if isinstance(runtime, SingleCalls):
        return runtime.single_call()
    given, answer, run = runtime.inputs[0].name, runtime.outputs[0].name, runtime.run
    return lambda tensor: run({given: tensor})[answer]


def check_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Refuse inputs that do not fit the signature.

    Raises:
        InputMismatch: naming the first tensor that is missing, unknown or does not fit.
    """
    for spec in specs:
        value = inputs.get(spec.name)
        if value is None:
            raise InputMismatch(spec.name, "missing", spec.describe(), "nothing")
        spec.check(value)
    if len(inputs) != len(specs):
        known = {spec.name for spec in specs}
        extra = next(name for name in inputs if name not in known)
        raise InputMismatch(extra, "unknown", "inputs " + ", ".join(sorted(known)), repr(extra))


# First bytes of files that people try: what they are, and how to come from there.
_FOREIGN = (
    (
        b"PK\x03\x04",
        "a zip archive (PyTorch, Keras or a saved bundle)",
        "Export the model to ONNX or TFLite first.",
    ),
    (b"\x89HDF", "an HDF5 file (Keras)", "Convert it with tf.lite.TFLiteConverter or tf2onnx first."),
    (b"\x80", "a Python pickle", "Export the model to ONNX first; pickles are never loaded."),
    (b"GGUF", "a GGUF language model", "driftpost guards ONNX and TFLite models."),
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself", "Fetch it with `git lfs pull`."),
    (b"<", "a web page or XML, not a model", "The download probably failed; fetch the file again."),
)


def model_kind(content: bytes) -> str:
    """Tell ONNX from TFLite by content.

    Returns:
        `onnx` or `tflite`.

    Raises:
        ModelRefused: the bytes are neither.
    """
    from driftpost_models.onnx_graph import looks_like_onnx  # noqa: PLC0415 - only bundle builders parse

    if not content:
        raise ModelRefused("The model file is empty.", "Fetch or export it again.")
    if content[4:8] == b"TFL3":
        return "tflite"
    for magic, what, remedy in _FOREIGN:
        if content.startswith(magic):
            raise ModelRefused(f"The file is {what}.", remedy)
    if looks_like_onnx(content):
        return "onnx"
    raise ModelRefused(
        "The file is neither an ONNX nor a TFLite model, or it is damaged.",
        "Check the path and compare its SHA-256 with the one where it came from.",
    )


def read_model(source: Path | bytes) -> bytes:
    """The model's bytes, refused when missing or too large.

    Raises:
        ModelRefused: no such file, unreadable, or above `MAX_MODEL_BYTES`.
    """
    if isinstance(source, bytes):
        size = len(source)
    else:
        try:
            size = source.stat().st_size
        except OSError as error:
            raise ModelRefused(
                f"The model file {source} can not be read: {error.strerror}.",
                "Check the path and permissions.",
            ) from error
        if source.is_dir():
            raise ModelRefused(f"{source} is a folder.", "Give the .onnx or .tflite file itself.")
    if size > MAX_MODEL_BYTES:
        raise ModelRefused(
            f"The model has {size / 2**20:.0f} MiB; at most {MAX_MODEL_BYTES / 2**20:.0f} MiB are guarded.",
            "Quantize or split it: an edge device would not hold it beside its own work.",
        )
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise ModelRefused(
            f"The model file {source} can not be read: {error.strerror}.", "Check the path and permissions."
        ) from error


def load_model(
    source: Path | bytes,
    *,
    kind: str | None = None,
    threads: int = 1,
    providers: Sequence[str] = PREFERRED,
    cache: Path | None = None,
) -> Runtime:
    """Load a model into this process.

    Args:
        source: path of the model, or its bytes.
        kind: `onnx` or `tflite`; told from the content when None.
        threads: threads that one call may use.
        providers: what may compute an ONNX model, the preferred first; see `driftpost_models.providers`.
        cache: folder for engines that an accelerator compiles.

    Raises:
        ModelRefused: with the reason and the remedy.
    """
    if threads < 1:
        raise ValueError("threads must be at least 1")
    content = read_model(source)
    found = model_kind(content)
    if kind is not None and kind != found:
        raise ModelRefused(
            f"The model was said to be {kind}, but its content is {found}.", "Correct the kind or the file."
        )
    # Imported here so that a device needs only the runtime that it uses.
    if found == "onnx":
        from driftpost_models.onnx import OnnxRuntime  # noqa: PLC0415

        return OnnxRuntime(content, threads=threads, providers=providers, cache=cache)
    from driftpost_models.tflite import TfliteRuntime  # noqa: PLC0415

    return TfliteRuntime(content, threads=threads)
