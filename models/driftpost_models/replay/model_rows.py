"""Recorded inputs through a bundle's model and probes, as an agent would run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from driftpost_models.build import DEADLINE_S
from driftpost_models.bundle import Bundle
from driftpost_models.errors import InferenceFailed, ModelRefused, RuntimeCrashed
from driftpost_models.feeder import Feeder
from driftpost_models.image_files import ImageScale
from driftpost_models.isolated import IsolatedRuntime
from driftpost_models.probes.categorical_columns import CategoricalColumns
from driftpost_models.probes.numeric_columns import NumericColumns
from driftpost_models.reference import Reference
from driftpost_models.reference_files import ReferenceOptions, load_reference
from driftpost_models.replay.columns import Progress
from driftpost_models.replay.watch import Watch


@dataclass(frozen=True)
class Times:
    """Where the times of recorded rows come from.

    Attributes:
        column: of a table that has them.
        start: time of the first row, where no column has them.
        row_seconds: seconds between rows then.
    """

    column: str | None = None
    start: str | None = None
    row_seconds: float | None = None


BLOCK_ROWS = 256
"""Rows read at a time; windows are often smaller."""


def feed_model(
    bundle: Bundle,
    path: Path,
    watch: Watch,
    *,
    labels: str | None,
    image_scale: ImageScale | None,
    times: Times,
    tell: Progress,
) -> Reference:
    """Run every row through the model, in a process of its own, and the probes' streams through `watch`.

    Args:
        bundle: model and probes.
        path: raw inputs, as `driftpost bundle build` takes them.
        watch: the detectors.
        labels: a column or array of the recording that is no input; None without one.
        image_scale: what black and white of image files are fed as.
        times: of the rows.
        tell: told how far the work is.

    Returns:
        what was read.

    Raises:
        ReferenceRefused: the recording can not be read, or does not fit the model.
        ModelRefused: the model fails on it.
    """
    runtime = IsolatedRuntime(bundle.model_bytes, kind=bundle.model_kind, deadline_s=DEADLINE_S)
    try:
        options = ReferenceOptions(
            labels=labels, classes=bundle.classes, image_scale=image_scale, columns=_columns(bundle),
            time=times.column, start=times.start, row_seconds=times.row_seconds if times.start else None,
            local=bundle.derived.season is not None and bundle.derived.season.local,
        )  # fmt: skip
        data = load_reference(path, runtime.inputs, options)
        feeder = Feeder(runtime, list(data.read(0, 1)))
        probes = bundle.probes.copy()
        row = 0
        while row < data.rows:
            stop = min(row + min(watch.room, BLOCK_ROWS), data.rows)
            values, codes = probes.extract(feeder.block(data.read(row, stop)))
            seconds = None if data.times is None else data.times[row:stop]
            truth = None if data.labels is None else data.labels[row:stop]
            watch.feed(bundle.derived.apply(values, seconds), codes, truth)
            row = stop
            tell("running the model", row, data.rows)
    except (InferenceFailed, RuntimeCrashed) as error:
        raise ModelRefused(
            f"The model fails on {path.name}, at or after row {watch.rows:,}: {error}.",
            "On a device such rows count as missing; mend them or leave them out to replay the others.",
        ) from error
    finally:
        runtime.close()
    return data


def _columns(bundle: Bundle) -> dict[str, tuple[str, ...]]:
    """Columns of a table by input, where the probes read them one by one."""
    found: dict[str, dict[int, str]] = {}
    for probe in bundle.probes.probes:
        if isinstance(probe, (NumericColumns, CategoricalColumns)) and probe.side == "input":
            found.setdefault(probe.tensor.name, {}).update(zip(probe.indices, probe.names, strict=True))
    sizes = {spec.name: _size(spec.row_shape) for spec in bundle.inputs}
    return {
        name: tuple(names[i] for i in range(len(names)))
        for name, names in found.items()
        if len(names) == sizes.get(name) and sorted(names) == list(range(len(names)))
    }


def _size(shape: Sequence[int | None]) -> int:
    size = 1
    for dimension in shape:
        size *= dimension or 1
    return size
