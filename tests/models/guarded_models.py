"""Runs models guarded, each in a process of its own, and tells how that went: the table in `docs/models.md`.

    make table-models MODELS=folder

runs the files below a folder and the models that the tests make themselves, and writes the page's table anew.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from driftpost_agent.guard import Guard
from driftpost_models.build import build_bundle
from driftpost_models.bundle import Bundle
from driftpost_models.errors import ConfigError, ModelError
from driftpost_models.isolated import IsolatedRuntime
from driftpost_models.runtime import TensorSpec
from models import onnx_files, tflite_files

# Rows of the reference: enough for a baseline, too few for a sharp test, which is not what is shown here.
ROWS = 200
CALLS = 20

# What free dimensions take, and inputs that may not be anything.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "silero_vad/silero_vad_16k_op15.onnx": {"input": (1, 512), "state": (2, 1, 128), "sr": 16000},
    "made: two inputs and a scalar (ONNX)": {"k": 2},
}


@dataclass(frozen=True)
class Outcome:
    """How one model fared.

    Attributes:
        name: the file, or what was made.
        takes, gives: its tensors.
        streams: of its bundle; 0 where it was refused.
        calls: guarded calls, and `answered` of them.
        word: "guarded", "refused", "contained".
        detail: what computes it, or why not.
    """

    name: str
    takes: str = ""
    gives: str = ""
    streams: int = 0
    calls: int = 0
    answered: int = 0
    word: str = "guarded"
    detail: str = ""

    @property
    def row(self) -> str:
        """A row of the table."""
        calls = f"{self.answered} of {self.calls}" if self.calls else ""
        cells = (self.name, self.takes, self.gives, self.streams or "", calls, self.word, self.detail)
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


HEAD = (
    "| model | takes | gives | streams | answered | outcome | by what, or why |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)
# The table's place in the page.
BEGIN, END = "<!-- begin table -->\n", "<!-- end table -->\n"


def guarded(name: str, model: Path) -> Outcome:
    """Build a bundle of the model from made-up rows and guard some calls of it in a child process."""
    try:
        runtime = IsolatedRuntime(model)
    except ModelError as error:
        return Outcome(name, word="refused", detail=_sentence(error))
    takes, gives = (
        ", ".join(spec.describe() for spec in specs) for specs in (runtime.inputs, runtime.outputs)
    )
    try:
        rows = _rows(name, runtime.inputs, ROWS + CALLS)
        with tempfile.TemporaryDirectory(prefix="guarded-") as folder:
            reference, out = Path(folder) / "reference.npz", Path(folder) / "bundle"
            np.savez(reference, **{key: value[:ROWS] if value.ndim else value for key, value in rows.items()})
            build_bundle(model, reference, out)
            bundle = Bundle.open(out, None)
    except (ModelError, ConfigError) as error:
        runtime.close()
        return Outcome(name, takes, gives, word="refused", detail=_sentence(error))
    detail = f"{runtime.version.split()[0]}, {runtime.provider}"
    specs = {spec.name: spec for spec in runtime.inputs}
    answered = 0
    with Guard(bundle, runtime, threaded=False) as guard:
        states = dict(bundle.provenance.get("states", {}))
        held: dict[str, Any] = {
            key: np.zeros(
                SHAPES.get(name, {}).get(key) or [size or 1 for size in specs[key].shape], specs[key].dtype
            )
            for key in states
        }
        for call in range(ROWS, ROWS + CALLS):
            inputs = {key: _call(value, call, specs[key]) for key, value in rows.items()}
            inputs.update(held)
            result = guard.run(inputs)
            answered += bool(result.outputs)
            held = {
                taken: result.outputs[given] for taken, given in states.items() if given in result.outputs
            }
    return Outcome(name, takes, gives, len(bundle.schema), CALLS, answered, "guarded", detail)


def contained(name: str, content: bytes, do: Callable[[IsolatedRuntime], Mapping[str, Any]]) -> Outcome:
    """Guard a model that fails in a call, and see that the next one is answered."""
    runtime = IsolatedRuntime(content, deadline_s=0.5)
    with tempfile.TemporaryDirectory(prefix="guarded-") as folder:
        model, out = Path(folder) / "model", Path(folder) / "bundle"
        model.write_bytes(content)
        spec = runtime.inputs[0]
        np.savez(Path(folder) / "r.npz", **{spec.name: np.zeros((ROWS, *spec.shape), spec.dtype)})
        build_bundle(model, Path(folder) / "r.npz", out)
        bundle = Bundle.open(out, None)
    good = {spec.name: np.zeros([size or 1 for size in spec.shape], spec.dtype)}
    with Guard(bundle, runtime, threaded=False) as guard:
        first = guard.run(good)
        bad = guard.run(do(runtime))
        after = guard.run(good)
        answered = sum(bool(result.outputs) for result in (first, bad, after))
        reason = ", ".join(reason.label for reason in bad.verdict.reasons)
        detail = f"the call gets {reason}: {runtime.last_crash}; restarted {runtime.restarts} time"
    takes, gives = spec.describe(), runtime.outputs[0].describe()
    return Outcome(name, takes, gives, len(bundle.schema), 3, answered, "contained", detail)


def published(folder: Path) -> list[tuple[str, Path]]:
    """Every model below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".onnx", ".tflite"})
    return [(path.relative_to(folder).as_posix(), path) for path in files]


def made() -> dict[str, bytes]:
    """Models of the tests' own, for what no published one has."""
    return {
        "made: int16 (TFLite)": tflite_files.quantized_adder("int16", 0.001, 0),
        "made: int8 in, int8 out, reshaped (ONNX)": onnx_files.quantized_ends(),
        "made: int32 identity (ONNX)": onnx_files.identity(TensorProto.INT32, ("batch", 4)),
        "made: float16 identity (ONNX)": onnx_files.identity(TensorProto.FLOAT16, ("batch", 4)),
        "made: two inputs and a scalar (ONNX)": onnx_files.two_inputs_and_a_scalar(),
        "made: two inputs (TFLite)": tflite_files.adder(),
        "made: explicit state (ONNX)": onnx_files.counter(),
        "made: dynamic batch (ONNX)": onnx_files.classifier(),
        "made: dynamic batch (TFLite)": tflite_files.quantized_adder("int8", 0.5, -1, free_batch=True),
        "made: texts (ONNX)": onnx_files.texts(),
        "made: a sequence as output (ONNX)": onnx_files.sequence_output(),
        "made: an unknown operator (ONNX)": onnx_files.unknown_operator(),
        "made: a custom operator (TFLite)": tflite_files.custom("mine"),
        "made: a newer format (ONNX)": onnx_files.too_new(),
        "made: cut short (ONNX)": onnx_files.classifier()[:-60],
        "made: no model at all": b"<html>not found</html>",
    }


def hangs() -> Outcome:
    """A call that never ends."""
    return contained(
        "made: hangs in a call (ONNX)", onnx_files.endless(), lambda _: {"x": np.ones(1, np.float32)}
    )


def aborts() -> Outcome:
    """A call in the middle of which the process is aborted."""

    def do(runtime: IsolatedRuntime) -> Mapping[str, Any]:
        pid = runtime.pid
        assert pid is not None
        threading.Timer(0.1, os.kill, (pid, signal.SIGABRT)).start()
        return {"x": np.ones(1, np.float32)}

    return contained("made: aborts in a call (ONNX)", onnx_files.endless(), do)


def all_outcomes(folder: Path | None) -> list[Outcome]:
    """The whole table."""
    outcomes = [guarded(name, path) for name, path in (published(folder) if folder else [])]
    with tempfile.TemporaryDirectory(prefix="made-") as scratch:
        for name, content in made().items():
            path = Path(scratch) / "model"
            path.write_bytes(content)
            outcomes.append(guarded(name, path))
    return [*outcomes, hangs(), aborts()]


def _rows(name: str, specs: tuple[TensorSpec, ...], count: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for spec in specs:
        given = SHAPES.get(name, {}).get(spec.name)
        if isinstance(given, int) or not spec.shape:
            found[spec.name] = np.array(1 if given is None else given, spec.dtype)
            continue
        shape = given or tuple(size or 1 for size in spec.shape)
        row = shape[1:] if spec.batched else shape
        if spec.dtype.kind == "f":
            found[spec.name] = rng.normal(0, 0.5, (count, *row)).astype(spec.dtype)
        elif spec.dtype.kind == "b":
            found[spec.name] = rng.random((count, *row)) < 0.5
        else:
            limits = np.iinfo(spec.dtype.str)
            low, high = max(limits.min, -20_000), min(limits.max, 20_000)
            codes = np.clip(rng.normal((low + high) / 2, (high - low) / 8, (count, *row)), low, high)
            found[spec.name] = codes.astype(spec.dtype)
    # What is carried from call to call is not recorded: every row of the reference begins anew.
    return {key: value for key, value in found.items() if not _state(name, key)} if _states(name) else found


def _states(name: str) -> bool:
    return "silero" in name or "explicit state" in name


def _state(name: str, key: str) -> bool:
    return key == "state"


def _call(value: Any, call: int, spec: TensorSpec) -> Any:
    if not value.ndim:
        return value
    return value[call][np.newaxis] if spec.batched else value[call]


def _sentence(error: Exception) -> str:
    # Where a runtime's own words name its source files, they differ from build to build.
    return re.sub(r"/\S+\.cc:\d+ \S+ ", "", " ".join(str(error).split()))[:200]


def main(arguments: list[str]) -> None:
    """Write the table of the models below the folder `arguments[1]` into the page `arguments[0]`."""
    started = time.monotonic()
    page, folder = Path(arguments[0]), Path(arguments[1])
    outcomes = all_outcomes(folder)
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join([HEAD, *(outcome.row for outcome in outcomes)]) + "\n"
    page.write_text(before + BEGIN + table + END + after, encoding="utf-8")
    sys.stderr.write(f"{len(outcomes)} models in {time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main(sys.argv[1:])
