"""Running a model and its float build side by side, for the golden calls and for a measure of agreement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import InferenceFailed, ModelRefused, RuntimeCrashed
from driftpost_models.feeder import Feeder, spread
from driftpost_models.golden import Golden
from driftpost_models.isolated import IsolatedRuntime
from driftpost_models.reference import Reference
from driftpost_models.runtime import Runtime, model_kind
from driftpost_models.twin import Agreement, Twin, agreement

TWIN_ROWS = 256
"""Rows of the reference that both builds answer. The standard error of an agreement of 95 % is 1.4 % then."""

DEADLINE_S = 60.0
"""Seconds for one call of the float model on the machine that builds."""

FloatArray = npt.NDArray[np.float64]


def with_float_answers(
    golden: Golden, start: Callable[[], Runtime], float_content: bytes, data: Reference
) -> tuple[Golden, Agreement]:
    """The golden calls with a float build's answers, and how far both agree over the reference.

    Args:
        golden: of the guarded model.
        start: the guarded model, freshly started.
        float_content: the float build's file.
        data: the reference.

    Raises:
        ModelRefused: the float build can not be loaded, fails, or is no build of this model.
    """
    given = list(data.read(0, 1))
    try:
        with _side_by_side(start, float_content) as (model, twin):
            found = _measure(model, twin, data, golden.scores)
        # Golden calls begin with models that were never called, as on a device.
        with _side_by_side(start, float_content) as (model, twin):
            other = Twin(model, twin, given)
            answers = [
                other.answer({name: array[call] for name, array in golden.inputs.items()})
                for call in range(golden.calls)
            ]
    except (InferenceFailed, RuntimeCrashed) as error:
        raise ModelRefused(
            f"The float model fails on the reference: {error}.", "Run it outside driftpost to see why."
        ) from error
    shaped = {
        name: np.stack([row[name] for row in answers]).astype(np.float32).reshape(golden.outputs[name].shape)
        for name in answers[0]
    }
    return dataclasses.replace(golden, float_outputs=shaped), found


@contextmanager
def _side_by_side(start: Callable[[], Runtime], float_content: bytes) -> Iterator[tuple[Runtime, Runtime]]:
    with ExitStack() as stack:
        model = stack.enter_context(closing(start()))
        kind = model_kind(float_content)
        twin = stack.enter_context(closing(IsolatedRuntime(float_content, kind=kind, deadline_s=DEADLINE_S)))
        yield model, twin


def _measure(model: Runtime, twin: Runtime, data: Reference, scores: Mapping[str, str]) -> Agreement:
    """Agreement over rows of the reference, which both fresh models are given in order."""
    given = list(data.read(0, 1))
    other, feeder = Twin(model, twin, given), Feeder(model, given)
    ours: dict[str, list[FloatArray]] = {}
    twins: dict[str, list[FloatArray]] = {}
    for row in spread(data.rows, TWIN_ROWS):
        fed, answers, _ = feeder.call(data.read(int(row), int(row) + 1), 0)
        for name, real in other.answer(fed).items():
            twins.setdefault(name, []).append(real)
        for spec in model.outputs:
            ours.setdefault(spec.name, []).append(spec.real(answers[spec.name]).astype(np.float64))
    stacked = [{name: np.stack(side[name]) for name in twins} for side in (ours, twins)]
    return agreement(model.outputs, scores, *stacked)
