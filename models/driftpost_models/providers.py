"""Which of ONNX Runtime's execution providers compute a model: accelerators, where they are, or the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PROVIDERS: dict[str, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Short names that a setting may give, and ONNX Runtime's own."""

PREFERRED: tuple[str, ...] = ("tensorrt", "cuda", "cpu")
"""Fastest first: TensorRT compiles the graph for this very board, CUDA runs it as it is."""

Attempt = list[tuple[str, dict[str, str]]]


def attempts(wanted: Sequence[str], available: Sequence[str], cache: Path | None = None) -> list[Attempt]:
    """What to start a session with, one list after the other until one starts.

    Each list ends with the CPU, which takes the operators that an accelerator does not have. An accelerator
    that is built in but does not start (no device, no driver, too little memory) is left out of the next.

    Args:
        wanted: short names in the order of preference.
        available: ONNX Runtime's names of what this build has.
        cache: folder for compiled engines; building one takes a Jetson minutes.

    Raises:
        ValueError: a name is not known.
    """
    unknown = [name for name in wanted if name not in PROVIDERS]
    if unknown:
        raise ValueError(f"no provider is called {unknown[0]!r}; there are {', '.join(PROVIDERS)}")
    accelerators = [
        (PROVIDERS[name], _options(name, cache))
        for name in dict.fromkeys(wanted)
        if name != "cpu" and PROVIDERS[name] in available
    ]
    if "cpu" in wanted:
        # What stands behind the CPU would never be asked.
        before = {PROVIDERS[name] for name in wanted[: list(wanted).index("cpu")]}
        accelerators = [entry for entry in accelerators if entry[0] in before]
    cpu: Attempt = [(PROVIDERS["cpu"], {})]
    return [accelerators[start:] + cpu for start in range(len(accelerators) + 1)]


def _options(name: str, cache: Path | None) -> dict[str, str]:
    if name == "tensorrt" and cache is not None:
        return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
    return {}
