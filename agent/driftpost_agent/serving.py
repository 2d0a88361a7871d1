"""The model that is being served: bundle and guard, replaced as one when another bundle is activated."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from driftpost_agent.errors import LabelRefused, RequestRefused
from driftpost_agent.guard import Guard
from driftpost_agent.inference_protocol import datatype_of, wire_shape
from driftpost_agent.label_checks import Label
from driftpost_agent.verdict import GuardedResult, Reason
from driftpost_models.bundle import Bundle
from driftpost_models.runtime import Runtime

# Seconds that calls under way get to end when the model is replaced.
DRAIN_S = 5.0

# How the protocol names our runtimes; ONNX is in its list, TFLite follows the same pattern.
_PLATFORMS = {"onnx": "onnx_onnxv1", "tflite": "tflite_tflitev3"}
# What the model was not even asked about is the client's mistake; what it failed on is ours.
_CLIENTS_FAULT = frozenset({Reason.SHAPE, Reason.DTYPE})


class Serving:
    """One guarded model behind the server; calls are counted so that none loses its model half-way."""

    def __init__(self, bundle: Bundle, guard: Guard) -> None:
        self.bundle = bundle
        self.guard = guard
        self._calls = 0
        self._closing = False
        self._changed = threading.Condition()
        self._metadata = _metadata(bundle, guard.runtime)

    @property
    def metadata(self) -> dict[str, Any]:
        """The model's metadata in the protocol's words."""
        return self._metadata

    def infer(self, inputs: Mapping[str, NDArray[Any]], inference_id: str) -> GuardedResult:
        """One guarded call.

        Raises:
            RequestRefused: the tensors do not fit (400), or the model failed and nothing else answers (503).
        """
        with self._changed:
            if self._closing:
                raise RequestRefused("another model is being activated; try again", 503)
            self._calls += 1
        try:
            result = self.guard.run(inputs, inference_id)
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()
        if result.detail and not result.outputs:
            client = _CLIENTS_FAULT.intersection(result.verdict.reasons)
            raise RequestRefused(result.detail, 400 if client else 503)
        return result

    def label(self, pairs: Sequence[tuple[str, Label | list[Label]]]) -> dict[str, int]:
        """Compare labels with remembered answers.

        Args:
            pairs: (inference's id, true class or classes).

        Returns:
            How many inferences were known, and how many were not.

        Raises:
            RequestRefused: a label is no class; those before it count.
        """
        known = 0
        try:
            for name, labels in pairs:
                known += self.guard.label(name, labels)
        except LabelRefused as error:
            raise RequestRefused(str(error)) from error
        return {"known": known, "unknown": len(pairs) - known}

    def drain(self, timeout_s: float = DRAIN_S) -> bool:
        """Take no more calls and wait for those under way; whether all ended."""
        with self._changed:
            self._closing = True
            return self._changed.wait_for(lambda: self._calls == 0, timeout_s)


def _metadata(bundle: Bundle, runtime: Runtime) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "versions": [bundle.version],
        "platform": _PLATFORMS.get(runtime.kind, runtime.kind),
        "inputs": [
            {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": _free_batch(spec)}
            for spec in runtime.inputs
        ],
        "outputs": [
            {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": _free_batch(spec)}
            for spec in runtime.outputs
        ],
    }


def _free_batch(spec: Any) -> list[int]:
    """The shape; a batch fixed at one row is free, as the guard calls such a model row by row."""
    shape = wire_shape(spec.shape)
    return [-1, *shape[1:]] if spec.batched else shape
