"""A baseline of nothing: which streams there are, and that the device has to learn their bins itself.

The probes are chosen by a handful of example rows, or by random ones where there are none. They show shapes
and what the outputs mean; nothing of them is taken for normal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from driftpost_models.baseline import SAMPLE_ROWS, Baseline
from driftpost_models.errors import ReferenceRefused
from driftpost_models.feeder import Feeder
from driftpost_models.policy import Policy
from driftpost_models.probes.choose import choose_probes
from driftpost_models.probes.config import ProbesConfig
from driftpost_models.probes.probe import StreamDraft
from driftpost_models.reference import Reference
from driftpost_models.runtime import Array, Runtime, TensorSpec
from driftpost_sketches.derived.plan import DerivedPlan
from driftpost_sketches.drift.calibration import MIN_ROWS, Calibration
from driftpost_sketches.schema import Schema, Stream, StreamKind
from driftpost_sketches.window import Window

FREE_SIZE = 1
"""What stands for a dimension that the model leaves open."""

_SEED = 20_11


def example_only(reference: Reference, policy: Policy) -> bool:
    """Whether a reference is too short to be one, and the policy lets devices learn their own normal."""
    return policy.site.baseline and reference.rows < MIN_ROWS


def random_rows(inputs: Sequence[TensorSpec]) -> Reference:
    """Rows of every input that mean nothing: fractions for floats, every code for 8-bit integers."""
    rng = np.random.default_rng(_SEED)
    data: dict[str, Array] = {}
    for spec in inputs:
        shape = tuple(FREE_SIZE if size is None else int(size) for size in spec.shape[spec.batched :])
        if spec.dtype.kind == "f":
            values = rng.random((SAMPLE_ROWS, *shape)).astype(spec.dtype)
        elif spec.dtype.kind in "iu":
            low, high = (0, 255) if spec.dtype.kind == "u" else (-128, 127)
            values = rng.integers(low, high, (SAMPLE_ROWS, *shape), endpoint=True).astype(spec.dtype)
        else:
            values = np.zeros((SAMPLE_ROWS, *shape), dtype=spec.dtype)
        data[spec.name] = values
    digest = hashlib.sha256(b"".join(array.tobytes() for array in data.values())).hexdigest()
    return Reference(
        rows=SAMPLE_ROWS,
        read=lambda start, stop: {name: array[start:stop] for name, array in data.items()},
        sha256=digest,
        source="none",
        preprocessing=["random rows stand in for the reference that was not given"],
    )


def build_open_baseline(
    runtime: Runtime,
    example: Reference,
    *,
    policy: Policy,
    config: ProbesConfig | None = None,
    classes: Sequence[str] = (),
) -> Baseline:
    """Choose the streams that a device will learn.

    Args:
        runtime: the model, fresh.
        example: a few rows, or random ones.
        policy: says how long a device learns.
        config: the owner's wishes about probes.
        classes: class names.

    Raises:
        ReferenceRefused: the policy asks for what only a reference can give.
        ConfigError: a wish does not fit.
        InferenceFailed, RuntimeCrashed: the model failed on a row.
    """
    for name, wish in (("season", policy.season), ("slices", policy.slices)):
        if wish is not None:
            raise ReferenceRefused(f"policy.{name} is fitted on a reference; give one, or leave it out")
    feeder = Feeder(runtime, list(example.read(0, 1)))
    sample = feeder.block(example.read(0, min(example.rows, SAMPLE_ROWS)))
    choice = choose_probes(
        runtime.inputs,
        runtime.outputs,
        sample,
        config,
        classes=tuple(classes) or example.classes,
        labelled=False,
        columns=example.columns,
    )
    schema = Schema([_stream(draft) for draft in choice.probes.drafts])
    scalar = [s.name for s in schema.streams if s.kind is not StreamKind.CODES]
    return Baseline(
        probes=choice.probes,
        schema=schema,
        derived=DerivedPlan(tuple(scalar)),
        calibration=nothing_known(schema),
        limits={},
        classes=tuple(classes) or example.classes,
        performance=None,
        states=dict(feeder.states),
        notes=(
            *example.notes,
            *choice.notes,
            f"there is no reference: each device learns its own normal for {policy.site.plan} and watches "
            "nothing before; inputs out of range are not recognised",
        ),
    )


def nothing_known(schema: Schema) -> Calibration:
    """The calibration of a schema of which nothing is tracked."""
    none = np.zeros(0)
    return Calibration(
        schema=schema,
        chains=(),
        smallest_effect=none,
        ceiling=none,
        distinct=1,
        baseline=Window.empty(schema),
        notes=(),
    )


def _stream(draft: StreamDraft) -> Stream:
    """A stream as it stands before anybody has seen a value of it."""
    return Stream(
        draft.name,
        draft.kind,
        draft.role,
        draft.unit,
        edges=draft.edges,
        categories=draft.categories,
        labels=draft.labels if draft.categories else (),
        lowest_code=draft.lowest_code,
        tracked=False,
    )
