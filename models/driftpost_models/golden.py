"""Golden inputs and outputs: what the model answered at build time, to compare on other hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from driftpost_models.errors import InferenceFailed, InputMismatch, RuntimeCrashed
from driftpost_models.runtime import Array, Runtime, TensorSpec

GOLDEN_ROWS = 12
"""Calls. Enough to meet several classes, few enough to run at every start of an agent."""

TOLERATED_SHARE = 0.1
"""Of the range of an output over the golden calls. Kernels of other processors and versions round and fuse
differently: tflite-runtime 2.14 and LiteRT 2.3 differ by up to 0.09 in the probabilities that an int8 keyword
model gives to 500 real inputs. A wrong scale, layout or weight moves answers by much of their range."""

TOLERATED_STEPS = 3
"""Quantization steps of an output: one for each of the last layers' roundings."""


@dataclass(frozen=True)
class Golden:
    """Calls and their answers, in the order in which a fresh model must be given them.

    Attributes:
        inputs: by tensor name, `[calls, ...]` with the batch dimension as fed.
        outputs: likewise as answered.
        tolerance: by output name, the largest difference in natural units that is the same answer.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    tolerance: Mapping[str, float]

    @property
    def calls(self) -> int:
        """Number of calls."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class SelfTest:
    """Result of replaying the golden inputs.

    Attributes:
        ok: whether every answer lies within its tolerance.
        worst_difference: largest difference, in units of its output's tolerance.
        text: one sentence for a person.
    """

    ok: bool
    worst_difference: float
    text: str


def tolerances(outputs: Sequence[TensorSpec], answers: Mapping[str, Array]) -> dict[str, float]:
    """Largest difference of each output that still is the same answer, in natural units."""
    allowed = {}
    for spec in outputs:
        real = spec.real(answers[spec.name]).astype(np.float64)
        finite = real[np.isfinite(real)]
        span = float(finite.max() - finite.min()) if finite.size else 0.0
        step = spec.scale or 0.0
        # A constant output still needs room for the last digit.
        floor = 1e-5 * max(1.0, float(np.abs(finite).max())) if finite.size else 1e-5
        allowed[spec.name] = max(TOLERATED_SHARE * span, TOLERATED_STEPS * step, floor)
    return allowed


def replay(golden: Golden, runtime: Runtime) -> SelfTest:
    """Give a fresh model the golden inputs and compare its answers.

    Args:
        golden: the calls.
        runtime: the model, not called before: a streaming model carries state from call to call.
    """
    specs = {spec.name: spec for spec in runtime.outputs}
    if set(specs) != set(golden.outputs):
        return SelfTest(
            False,
            np.inf,
            f"the model returns {', '.join(sorted(specs))}, not {', '.join(sorted(golden.outputs))}",
        )
    worst, where = 0.0, ""
    for call in range(golden.calls):
        try:
            answers = runtime.run({name: array[call] for name, array in golden.inputs.items()})
        except (InferenceFailed, InputMismatch, RuntimeCrashed) as error:
            return SelfTest(False, np.inf, f"golden call {call + 1} of {golden.calls} failed: {error}")
        for name, expected in golden.outputs.items():
            difference = _difference(specs[name], answers[name], expected[call]) / golden.tolerance[name]
            if difference > worst:
                worst, where = difference, f"output {name!r} of golden call {call + 1}"
    if worst > 1.0:
        return SelfTest(
            False,
            worst,
            f"{where} differs from the bundle by {worst:.3g} times its tolerance: "
            "this runtime or processor does not compute what the builder's did",
        )
    same = "exactly" if worst == 0 else f"within {worst:.0%} of the tolerance"
    return SelfTest(True, worst, f"all {golden.calls} golden calls answered as in the bundle, {same}")


def _difference(spec: TensorSpec, got: Array, expected: Array) -> float:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return np.inf
    if got.tobytes() == expected.tobytes():
        return 0.0
    a, b = spec.real(got).astype(np.float64), spec.real(expected).astype(np.float64)
    differ = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not differ.any():
        return 0.0
    gap = np.abs(a[differ] - b[differ])
    return float(gap.max()) if np.isfinite(gap).all() else np.inf
