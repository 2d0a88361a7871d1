"""Building a bundle from a model and reference data."""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from driftpost_models.baseline import Baseline, Progress, build_baseline
from driftpost_models.bundle import Bundle, Signature
from driftpost_models.errors import InferenceFailed, ModelRefused, ReferenceRefused, RuntimeCrashed
from driftpost_models.feeder import Feeder, spread
from driftpost_models.float_answers import with_float_answers
from driftpost_models.golden import GOLDEN_ROWS, Golden, replay, tolerances
from driftpost_models.image_files import ImageScale
from driftpost_models.isolated import IsolatedRuntime
from driftpost_models.open_baseline import build_open_baseline, example_only, random_rows
from driftpost_models.policy import Policy, parse_policy
from driftpost_models.probes.config import ProbesConfig, parse_probes
from driftpost_models.reference import Reference
from driftpost_models.reference_files import ReferenceOptions, load_reference
from driftpost_models.runtime import Array, Runtime, model_kind, read_model
from driftpost_models.signing import PrivateKey, fingerprint
from driftpost_models.strict_table import StrictTable, read_toml
from driftpost_models.tap import tapped
from driftpost_models.twin import Tolerance, scores_of
from driftpost_sketches.drift.budget import Budget

DEADLINE_S = 60.0
"""Seconds for one call of the model on the machine that builds; slower than this is no edge model."""


@dataclass(frozen=True)
class Built:
    """A built bundle and what there is to say about it.

    Attributes:
        bundle: as written, with its id.
        path: where.
        size: bytes of the file.
        accuracy: on the reference; None without labels.
        notes: what the owner should know, in sentences.
        short: streams for which the reference is too short for the budget, in sentences.
    """

    bundle: Bundle
    path: Path
    size: int
    accuracy: float | None
    notes: tuple[str, ...]
    short: tuple[str, ...]


def build_bundle(
    model: Path,
    reference: Path | None,
    out: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    labels: str | None = None,
    classes: Sequence[str] = (),
    config: Path | None = None,
    image_scale: ImageScale | None = None,
    time: str | None = None,
    start: str | None = None,
    row_seconds: float | None = None,
    budget: str | None = None,
    smallest_effect: float | None = None,
    window_seconds: float | None = None,
    author: str | None = None,
    key: PrivateKey | None = None,
    now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.timezone.utc),
    float_model: Path | None = None,
    float_tolerance: Tolerance | None = None,
    tap: bool = False,
    progress: Progress | None = None,
) -> Built:
    """Build a bundle and write it.

    The model runs in child processes throughout: one that ends its process can not take the builder with it.

    Args:
        model: the .onnx or .tflite file.
        reference: .npz, .npy, .csv, or a folder of images or of raw tensors; rows in time order. None makes a
            bundle whose devices learn their own normal before they watch.
        out: the file to write.
        name: the model's name; the file's by default.
        version: the model's version; the first digits of its hash by default.
        labels: a file with labels, or the name of a column or array of the reference.
        classes: class names in the order of the scores.
        config: a TOML file with `[probes]` and `[policy]`.
        image_scale: what black and white of image files are fed as.
        time: column or array of the reference with the time of each row.
        start: time of the first row where there is no such column.
        row_seconds: seconds between rows, with `start`.
        budget: overrides the policy's.
        smallest_effect: overrides the policy's, in reference standard deviations.
        window_seconds: overrides the policy's.
        author: who builds; the operating system's user by default.
        key: signs the bundle.
        now: the builder's clock.
        float_model: a float build of the same model; its agreement with `model` is measured on the reference,
            and its answers to the golden inputs go into the bundle.
        float_tolerance: how far the two may be apart.
        tap: make the penultimate layer an output of the model as it is bundled (`driftpost_models.tap`).
        progress: told how far the work is.

    Raises:
        ModelRefused: the model can not be guarded, or does not answer as its float twin does.
        ReferenceRefused: the reference can not be read or does not fit.
        ConfigError: a wish does not fit.
        OSError: the bundle can not be written.
    """
    content = tapped(read_model(model)) if tap else read_model(model)
    kind = model_kind(content)
    table = StrictTable({} if config is None else read_toml(config))
    policy = _policy(table, budget, smallest_effect, window_seconds)
    runtime = IsolatedRuntime(content, kind=kind, deadline_s=DEADLINE_S)
    try:
        wishes = _wishes(table, runtime)
        options = ReferenceOptions(
            labels=labels,
            classes=tuple(classes),
            image_scale=image_scale,
            columns={name: w.names for name, w in wishes.inputs.items() if w.names},
            layouts={name: w.layout for name, w in wishes.inputs.items() if w.layout},
            time=time,
            start=start,
            row_seconds=row_seconds,
            local=policy.season is not None and policy.season.local,
        )
        data = (
            random_rows(runtime.inputs)
            if reference is None
            else load_reference(reference, runtime.inputs, options)
        )
        if reference is None or example_only(data, policy):
            baseline = build_open_baseline(runtime, data, policy=policy, config=wishes, classes=classes)
        else:
            baseline = build_baseline(
                runtime, data, policy=policy, config=wishes, classes=classes, progress=progress
            )
        inputs, outputs, facts = runtime.inputs, runtime.outputs, (runtime.version, runtime.provider)
    except (InferenceFailed, RuntimeCrashed) as error:
        raise ModelRefused(
            f"The model fails on the reference: {error}.",
            "Run it outside driftpost to see why; a model that ends its process is not fit for a device.",
        ) from error
    finally:
        runtime.close()
    golden, golden_notes = _golden(content, kind, data)
    golden = dataclasses.replace(golden, scores=scores_of(outputs, baseline.probes.probes))
    float_facts = None
    if float_model is not None:
        if reference is None:
            raise ReferenceRefused("a float model is compared on a reference; give one as well")

        def fresh() -> Runtime:
            return IsolatedRuntime(content, kind=kind, deadline_s=DEADLINE_S)

        float_content = read_model(float_model)
        tolerance = float_tolerance or Tolerance()
        golden, found = with_float_answers(golden, fresh, float_content, data)
        note = tolerance.check(found)
        golden_notes += (note,) if note else ()
        float_facts = {
            "file": float_model.name,
            "sha256": hashlib.sha256(float_content).hexdigest(),
            **found.to_dict(),
            "least_agreement": tolerance.agreement,
            "most_distance": tolerance.distance,
        }
    created = now().astimezone(datetime.timezone.utc).isoformat(timespec="seconds")
    digest = hashlib.sha256(content).hexdigest()
    bundle = Bundle(
        id="",
        name=name or model.stem,
        version=version or digest[:8],
        created=created,
        model_bytes=content,
        model_kind=kind,
        inputs=inputs,
        outputs=outputs,
        probes=baseline.probes,
        derived=baseline.derived,
        calibration=baseline.calibration,
        policy=policy,
        limits=baseline.limits,
        golden=golden,
        classes=baseline.classes,
        performance=baseline.performance,
        provenance={
            "model": {"file": model.name, "sha256": digest, "bytes": len(content), "kind": kind},
            "reference": {
                "file": "" if reference is None else reference.name,
                "source": data.source,
                "sha256": data.sha256,
                "rows": data.rows,
                "labelled": data.labels is not None,
                "preprocessing": list(data.preprocessing),
                "times": None if data.times is None else [_utc(data.times[0]), _utc(data.times[-1])],
            },
            "float_model": float_facts,
            "states": dict(baseline.states),
            "tools": _tools(*facts),
            "author": author or _user(),
            "created": created,
        },
    )
    identity = bundle.write(out, key)
    signature = None if key is None else Signature(fingerprint(key), verified=True)
    bundle = dataclasses.replace(bundle, id=identity, signature=signature)
    return Built(
        bundle=bundle,
        path=out,
        size=out.stat().st_size,
        accuracy=baseline.accuracy,
        notes=(*baseline.notes, *golden_notes),
        short=_short(baseline, policy),
    )


def _policy(
    table: StrictTable, budget: str | None, smallest_effect: float | None, window_seconds: float | None
) -> Policy:
    part = table.table("policy")
    policy = Policy() if part is None else parse_policy(part)
    changes: dict[str, object] = {}
    if budget is not None:
        changes["budget"] = budget
    if smallest_effect is not None:
        changes["smallest_effect"] = smallest_effect
    if window_seconds is not None:
        changes["window_seconds"] = window_seconds
    return policy.with_(**changes)


def _wishes(table: StrictTable, runtime: Runtime) -> ProbesConfig:
    part = table.table("probes")
    wishes = ProbesConfig() if part is None else parse_probes(part, runtime.inputs, runtime.outputs)
    table.done()
    return wishes


def _golden(content: bytes, kind: str, data: Reference) -> tuple[Golden, tuple[str, ...]]:
    """Golden calls from a model that was never called before, checked by a second one."""
    fed: dict[str, list[Array]] = {}
    answered: dict[str, list[Array]] = {}
    runtime = IsolatedRuntime(content, kind=kind, deadline_s=DEADLINE_S)
    try:
        feeder = Feeder(runtime, list(data.read(0, 1)))
        for row in spread(data.rows, GOLDEN_ROWS):
            inputs, outputs, _ = feeder.call(data.read(int(row), int(row) + 1), 0)
            for name, value in inputs.items():
                fed.setdefault(name, []).append(value)
            for name, value in outputs.items():
                answered.setdefault(name, []).append(value)
        specs = runtime.outputs
    finally:
        runtime.close()
    answers = {name: np.stack(values) for name, values in answered.items()}
    golden = Golden(
        {name: np.stack(values) for name, values in fed.items()}, answers, tolerances(specs, answers)
    )
    second = IsolatedRuntime(content, kind=kind, deadline_s=DEADLINE_S)
    try:
        test = replay(golden, second)
    finally:
        second.close()
    if test.ok:
        return golden, ()
    return golden, (f"the model does not give the same answers twice ({test.text}); its self-test will fail",)


def _short(baseline: Baseline, policy: Policy) -> tuple[str, ...]:
    return tuple(baseline.calibration.short_for(Budget.parse(policy.budget), policy.window_seconds))


def _tools(runtime: str, provider: str) -> dict[str, str]:
    return {
        "driftpost": _version("driftpost"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "runtime": runtime,
        "provider": provider,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _utc(seconds: float) -> str:
    """A point in time as the season's clock shows it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a checkout that was never installed


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"  # containers run as numbers without names
