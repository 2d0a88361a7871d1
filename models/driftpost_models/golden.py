"""Golden inputs and outputs: what the model answered at build time, to compare on other hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import InferenceFailed, InputMismatch, RuntimeCrashed
from driftpost_models.runtime import Array, Runtime, TensorSpec
from driftpost_models.twin import Agreement, agreement, best_class

GOLDEN_ROWS = 12
"""Calls. Enough to meet several classes, few enough to run at every start of an agent."""

TOLERATED_SHARE = 0.1
"""Of the range of an output over the golden calls. Kernels of other processors and versions round and fuse
differently: tflite-runtime 2.14 and LiteRT 2.3 differ by up to 0.09 in the probabilities that an int8 keyword
model gives to 500 real inputs. A wrong scale, layout or weight moves answers by much of their range."""

TOLERATED_STEPS = 3
"""Quantization steps of an output: one for each of the last layers' roundings."""

TOLERATED_LOST = 2
"""Golden calls on which the bundle and the float model give one class and this device another. Where those
agree an answer is rarely so close that rounding decides it."""


@dataclass(frozen=True)
class Golden:
    """Calls and their answers, in the order in which a fresh model must be given them.

    Attributes:
        inputs: by tensor name, `[calls, ...]` with the batch dimension as fed.
        outputs: likewise as answered.
        tolerance: by output name, the largest difference in natural units that is the same answer.
        scores: outputs of class scores, with what they hold ("probabilities", "logits", "binary").
        float_outputs: what a float build of the model answered to the same calls, float32 in natural units,
            by the names of `outputs`; empty where the bundle was built without one.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    tolerance: Mapping[str, float]
    scores: Mapping[str, str] = field(default_factory=dict)
    float_outputs: Mapping[str, Array] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Number of calls."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class SelfTest:
    """Result of replaying the golden inputs.

    Attributes:
        ok: whether the model answers here as it did when the bundle was built.
        worst_difference: largest difference, in units of its output's tolerance.
        text: one sentence for a person.
        differing: share of the golden calls with an answer beyond its tolerance, or another best class; 1
            where the model gave no comparable answers.
    """

    ok: bool
    worst_difference: float
    text: str
    differing: float = 0.0


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
        text = f"the model returns {', '.join(sorted(specs))}, not {', '.join(sorted(golden.outputs))}"
        return SelfTest(False, np.inf, text, 1.0)
    worst, where = 0.0, ""
    beyond = np.zeros(golden.calls, dtype=bool)
    answered: dict[str, list[Array]] = {name: [] for name in golden.outputs}
    for call in range(golden.calls):
        try:
            answers = runtime.run({name: array[call] for name, array in golden.inputs.items()})
        except (InferenceFailed, InputMismatch, RuntimeCrashed) as error:
            text = f"golden call {call + 1} of {golden.calls} failed: {error}"
            return SelfTest(False, np.inf, text, 1.0)
        for name, expected in golden.outputs.items():
            difference = _difference(specs[name], answers[name], expected[call]) / golden.tolerance[name]
            beyond[call] |= difference > 1.0
            answered[name].append(answers[name])
            if difference > worst:
                worst, where = difference, f"output {name!r} of golden call {call + 1}"
    classes = _Classes.of(golden, specs, answered)
    lost = 0 if classes is None else classes.lost
    differing = float(beyond.mean()) if classes is None else float((beyond | classes.changed).mean())
    if worst > 1.0 or lost > TOLERATED_LOST:
        size = f"differs from the bundle by {worst:.3g} times its tolerance"
        if worst <= 1.0:
            size = "differs most, within its tolerance"
        told = "" if classes is None else f"; {classes.text}"
        text = f"{where} {size}{told}: this runtime or processor does not compute what the builder's did"
        return SelfTest(False, worst, text, differing)
    same = "exactly" if worst == 0 else f"within {worst:.0%} of the tolerance"
    text = f"all {golden.calls} golden calls answered as in the bundle, {same}"
    return SelfTest(True, worst, text, differing)


@dataclass(frozen=True)
class _Classes:
    """Best classes here, in the bundle and of the float model.

    Attributes:
        changed: bool[calls], another class than in the bundle.
        lost: calls on which bundle and float model agree, and this device does not; 0 without a float model.
        text: one clause.
    """

    changed: npt.NDArray[np.bool_]
    lost: int
    text: str

    @classmethod
    def of(
        cls, golden: Golden, specs: Mapping[str, TensorSpec], answered: Mapping[str, Sequence[Array]]
    ) -> _Classes | None:
        """None where no output holds class scores, or their shapes changed."""
        names = [name for name in golden.scores if name in specs]
        if not names or any(a.shape != answered[n][0].shape for n in names for a in answered[n]):
            return None
        here = {name: _real(specs[name], np.stack(answered[name])) for name in names}
        built = {name: _real(specs[name], golden.outputs[name]) for name in names}
        if any(here[name].shape != built[name].shape for name in names):
            return None
        best = {
            side: np.stack([best_class(specs[n], golden.scores[n], real[n]) for n in names])
            for side, real in (("here", here), ("built", built))
        }
        changed = (best["here"] != best["built"]).any(axis=0)
        text = f"{int(changed.sum())} of {golden.calls} golden calls get another best class"
        twins = {name: _twin(golden, name) for name in names if name in golden.float_outputs}
        if len(twins) < len(names):
            return cls(changed, 0, text)
        float_best = np.stack([best_class(specs[n], golden.scores[n], twins[n]) for n in names])
        agreed = (best["built"] == float_best).all(axis=0)
        now, then = (int((best[side] == float_best).all(axis=0).sum()) for side in ("here", "built"))
        text += f", {now} that of the float model (the builder's {then})"
        return cls(changed, int((agreed & changed).sum()), text)


def float_agreement(golden: Golden, outputs: Sequence[TensorSpec]) -> Agreement | None:
    """How far the bundle's golden answers agree with the float model's; None without one."""
    if not golden.float_outputs:
        return None
    built = {spec.name: _real(spec, golden.outputs[spec.name]) for spec in outputs}
    twins = {name: _twin(golden, name) for name in golden.float_outputs}
    return agreement(outputs, golden.scores, built, twins)


def _twin(golden: Golden, name: str) -> npt.NDArray[np.float64]:
    return golden.float_outputs[name].astype(np.float64)


def _real(spec: TensorSpec, values: Array) -> npt.NDArray[np.float64]:
    return spec.real(values).astype(np.float64)


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
