"""Building a baseline: the reference goes through the model, the probes read it, the detectors learn it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import ConfigError, ReferenceRefused
from driftpost_models.feeder import Feeder, blocks, spread
from driftpost_models.input_limits import InputLimits, LimitsObserver
from driftpost_models.policy import Policy
from driftpost_models.probes.choose import choose_probes
from driftpost_models.probes.classification import Classification
from driftpost_models.probes.config import ProbesConfig
from driftpost_models.probes.probe import StreamDraft
from driftpost_models.probes.probe_set import ProbeSet
from driftpost_models.reasons import Reason
from driftpost_models.reference import Reference
from driftpost_models.runtime import Runtime
from driftpost_sketches.derived.fit import Derived, fit_derived
from driftpost_sketches.derived.phase import STREAM
from driftpost_sketches.derived.plan import DerivedPlan
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.errors import CalibrationError
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.labels.concept import STREAM as ERROR_RATE
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.schema import CODE_BINS, Schema, Stream, StreamKind
from driftpost_sketches.window import Window

SAMPLE_ROWS = 256
"""Rows that the choice of probes looks at, spread over the whole reference."""

BLOCK_VALUES = 1 << 22
"""Elements of one block: 16 MB of float32, whatever the size of a row."""

MOST_BLOCK_ROWS = 1024

Progress = Callable[[str, int, int], None]
"""Called with the step's name, what is done and what there is to do."""


@dataclass(frozen=True)
class Baseline:
    """What the reference taught.

    Attributes:
        probes: what reads inferences.
        schema: the streams with their bins, derived ones after those of the probes.
        derived: computes the derived ones.
        calibration: what calibrates the detectors.
        limits: what the reference showed of each input, by name.
        classes: class names, empty where unknown.
        performance: what labels tell of the model; None without labels, or where it is no classifier.
        states: inputs that are fed back, with the output that feeds them.
        notes: what the owner should know.
    """

    probes: ProbeSet
    schema: Schema
    derived: DerivedPlan
    calibration: Calibration
    limits: Mapping[str, InputLimits]
    classes: tuple[str, ...]
    performance: PerformanceRecord | None
    states: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def accuracy(self) -> float | None:
        """Share of labelled rows that were answered rightly."""
        return None if self.performance is None else self.performance.accuracy


def build_baseline(
    runtime: Runtime,
    reference: Reference,
    *,
    policy: Policy,
    config: ProbesConfig | None = None,
    classes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Baseline:
    """Run the reference through the model in time order and learn from it.

    Args:
        runtime: the model, fresh.
        reference: rows in time order.
        policy: gives season, slices, the smallest effects and the least confidence.
        config: the owner's wishes about probes.
        classes: class names.
        progress: told how far the work is.

    Raises:
        ReferenceRefused: the reference does not feed the model, or can not carry a calibration.
        ConfigError: a wish does not fit.
        InferenceFailed, RuntimeCrashed: the model failed on a row.
    """
    tell = progress or (lambda _step, _done, _all: None)
    names = tuple(classes) or reference.classes
    feeder = Feeder(runtime, list(reference.read(0, 1)))
    sample = feeder.block(_take(reference, spread(reference.rows, SAMPLE_ROWS)))
    choice = choose_probes(
        runtime.inputs,
        runtime.outputs,
        sample,
        config,
        classes=names,
        labelled=reference.labels is not None,
        columns=reference.columns,
    )
    probes = choice.probes
    observers = {
        spec.name: LimitsObserver(spec, sample.inputs[spec.name])
        for spec in runtime.inputs
        if spec.name not in feeder.states
    }
    feeder.reset()
    values, codes = _run(feeder, reference, probes, observers, tell)
    _mark_unsure(values, probes, policy)
    schema = Schema([_stream(draft, values, probes) for draft in probes.drafts])
    derived = _derive(schema, values, reference, policy)
    schema = derived.schema
    calibration = _calibrate(derived, policy, tell)
    calibration = dataclasses.replace(
        calibration,
        baseline=calibration.baseline.merge(_code_window(schema, codes)) if codes else calibration.baseline,
    )
    names, performance = _performance(reference, probes, derived, names)
    return Baseline(
        probes=probes,
        schema=schema,
        derived=derived.plan,
        calibration=calibration,
        limits={name: observer.limits() for name, observer in observers.items()},
        classes=names,
        performance=performance,
        states=dict(feeder.states),
        notes=(
            *reference.notes,
            *choice.notes,
            *derived.notes,
            *_constants(calibration),
            *calibration.notes,
            *_said(performance),
        ),
    )


def _said(performance: PerformanceRecord | None) -> tuple[str, ...]:
    return () if performance is None else performance.notes


def _take(reference: Reference, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.generic]]:
    read = [reference.read(int(row), int(row) + 1) for row in rows]
    return {name: np.concatenate([one[name] for one in read]) for name in read[0]}


def _run(
    feeder: Feeder,
    reference: Reference,
    probes: ProbeSet,
    observers: Mapping[str, LimitsObserver],
    tell: Progress,
) -> tuple[npt.NDArray[np.float64], dict[str, npt.NDArray[np.int64]]]:
    """Value matrix of the whole reference, and counts of the codes of each codes stream."""
    elements = sum(array[0].size for array in reference.read(0, 1).values())
    size = int(np.clip(BLOCK_VALUES // max(elements, 1), 1, MOST_BLOCK_ROWS))
    columns = sum(draft.kind is not StreamKind.CODES for draft in probes.drafts)
    values = np.empty((reference.rows, columns))
    codes: dict[str, npt.NDArray[np.int64]] = {}
    for start, stop in blocks(reference.rows, size):
        block = feeder.block(reference.read(start, stop))
        for name, observer in observers.items():
            observer.update(block.inputs[name])
        values[start:stop], tensors = probes.extract(block)
        for name, tensor in tensors.items():
            raw = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
            codes[name] = codes.get(name, 0) + np.bincount(raw, minlength=CODE_BINS)
        tell("running the reference", stop, reference.rows)
    probes.reset()
    return values, codes


def _scalar_names(probes: ProbeSet) -> list[str]:
    return [draft.name for draft in probes.drafts if draft.kind is not StreamKind.CODES]


def _mark_unsure(values: npt.NDArray[np.float64], probes: ProbeSet, policy: Policy) -> None:
    """Give rows below the least confidence the verdict that the guard will give."""
    if policy.min_confidence is None:
        return
    names = _scalar_names(probes)
    for probe in probes.probes:
        if isinstance(probe, Classification):
            confidence = values[:, names.index(f"{probe.prefix}confidence")]
            values[confidence < policy.min_confidence, names.index("verdict")] = Reason.LOW_CONFIDENCE


def _stream(draft: StreamDraft, values: npt.NDArray[np.float64], probes: ProbeSet) -> Stream:
    """A draft with its bins: fixed ones, or those that fit the reference."""
    if draft.kind is StreamKind.CODES:
        return Stream(
            draft.name, draft.kind, draft.role, draft.unit, lowest_code=draft.lowest_code, tracked=False
        )
    column = values[:, _scalar_names(probes).index(draft.name)]
    if not np.isfinite(column).any():
        raise ReferenceRefused(
            f"the stream {draft.name!r} has no finite value in the whole reference: "
            "mend the data, or leave the tensor out of the probes"
        )
    if draft.categories:
        return Stream(
            draft.name,
            draft.kind,
            draft.role,
            draft.unit,
            categories=draft.categories,
            labels=draft.labels,
            tracked=draft.tracked,
        )
    try:
        if draft.kind is StreamKind.CATEGORICAL:
            labels = dict(enumerate(draft.labels))
            return fit_categorical(draft.name, column, draft.role, labels, tracked=draft.tracked)
        stream = fit_numeric(draft.name, column, draft.role, draft.unit, tracked=draft.tracked)
    except CalibrationError as error:
        raise ReferenceRefused(str(error)) from error
    return dataclasses.replace(stream, edges=draft.edges) if draft.edges else stream


def _derive(schema: Schema, values: npt.NDArray[np.float64], reference: Reference, policy: Policy) -> Derived:
    if policy.season is not None and not policy.season.by.startswith(STREAM) and reference.times is None:
        raise ReferenceRefused(
            f"a season by {policy.season.by} needs the times of the reference's rows: name their column with "
            "--time, or give --start and --row-seconds"
        )
    try:
        return fit_derived(
            schema, values, seconds=reference.times, season=policy.season, slices=policy.slices
        )
    except CalibrationError as error:
        raise ReferenceRefused(str(error)) from error


def _calibrate(derived: Derived, policy: Policy, tell: Progress) -> Calibration:
    schema, origins = derived.schema, derived.plan.origins
    tracked = {schema.streams[i].name for i in schema.tracked_streams}
    # What is asked for a stream holds for all that are made of it.
    known = tracked | {origins[name] for name in tracked if name in origins} | {ERROR_RATE}
    for name in policy.smallest_effects:
        if name not in known:
            raise ConfigError(
                f"policy.smallest_effects.{name}",
                f"no such tracked stream (there are: {', '.join(sorted(known))})",
            )
    effects = {name: policy.effect(origin) for name, origin in origins.items()}
    # The error rate's is for the test of labels, and no stream's.
    asked = {
        name: effect
        for name, effect in policy.smallest_effects.items()
        if name in tracked or name != ERROR_RATE
    }
    try:
        return Calibration.fit(
            schema,
            derived.values,
            smallest_effect={"*": policy.smallest_effect, **effects, **asked},
            ceiling=derived.ceiling,
            joint=policy.joint,
            progress=lambda done, total: tell("calibrating", done, total),
        )
    except CalibrationError as error:
        raise ReferenceRefused(str(error)) from error


def _constants(calibration: Calibration) -> list[str]:
    """A sentence for each watched number that the reference never saw move."""
    schema, said = calibration.schema, []
    for index in schema.tracked_streams:
        found = calibration.baseline.summary(schema, int(index))
        if found.kind is StreamKind.NUMERIC and found.n and found.low == found.high:
            name = schema.streams[int(index)].name
            said.append(f"{name}: constant in the reference ({found.low:g}); any other value is a change")
    return said


def _code_window(schema: Schema, codes: Mapping[str, npt.NDArray[np.int64]]) -> Window:
    """A window without rows that holds the counts of the codes streams."""
    window = Window.empty(schema)
    for name, raw in codes.items():
        index = schema.index(name)
        # Counted by the bytes' values; bins go from the lowest code up.
        lowest = schema.streams[index].lowest_code
        counts = np.roll(raw, -lowest) if lowest else raw
        begin = schema.offsets[index]
        window.counts[begin : begin + CODE_BINS] = counts
        present = np.flatnonzero(counts) + lowest
        if present.size:
            window.low[index], window.high[index] = present[0], present[-1]
    return window


def _performance(
    reference: Reference,
    probes: ProbeSet,
    derived: Derived,
    classes: tuple[str, ...],
) -> tuple[tuple[str, ...], PerformanceRecord | None]:
    """Class names, and what labels tell of the model where there are some."""
    found = next((probe for probe in probes.probes if isinstance(probe, Classification)), None)
    if found is None:
        return classes, None
    names = found.classes or classes
    if reference.labels is None:
        return names, None
    if reference.labels.max(initial=-1) >= found.count:
        raise ReferenceRefused(
            f"a label is {reference.labels.max()}, but the model has {found.count} classes, counted from 0"
        )
    return names, PerformanceRecord.fit(
        derived.schema,
        derived.values,
        reference.labels,
        answers=found.answers,
        confidence=f"{found.prefix}confidence",
        classes=found.count,
        names=names,
    )
