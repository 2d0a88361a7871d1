"""A replay from files to findings: what a device would have said about recorded data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from driftpost_models.bundle import Bundle
from driftpost_models.errors import ConfigError, TableRefused
from driftpost_models.image_files import ImageScale
from driftpost_models.open_baseline import nothing_known
from driftpost_models.policy import DEFAULT_BUDGET, DEFAULT_SMALLEST_EFFECT
from driftpost_models.replay.columns import Encoder, Progress, Wishes, learn
from driftpost_models.replay.commission import LEAST_ROWS, Commissioned, FirstRows, commissioned, site_watch
from driftpost_models.replay.derive import Clock, derive
from driftpost_models.replay.labelled import LABEL_SHARE, Labelling, LabelWatch
from driftpost_models.replay.live_order import LiveOrder
from driftpost_models.replay.model_rows import Times, feed_model
from driftpost_models.replay.setup import Setup
from driftpost_models.replay.tables import open_table
from driftpost_models.replay.trace import Trace
from driftpost_models.replay.truth import Truth
from driftpost_models.replay.watch import MAX_LOG_E, Finding, Watch
from driftpost_sketches.commissioning.watch import SiteWatch
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.chain import Chain
from driftpost_sketches.drift.reference_notes import FEW_INDEPENDENT, LONG_MEMORY
from driftpost_sketches.errors import CalibrationError, SketchError
from driftpost_sketches.labels.concept import STREAM as ERROR_RATE
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.schema import Schema

DEFAULT_WINDOW_ROWS = 100
"""Rows: short against what a person would wait for, long enough that a window holds every usual value."""

DEFAULT_ROW_SECONDS = 1.0


@dataclass(frozen=True)
class Replay:
    """What came of it.

    Attributes:
        rows: of the live data.
        windows: they made.
        window_rows: rows of a window.
        row_seconds: seconds between rows.
        budget: false alarms allowed.
        log_threshold: natural logarithm of the evidence that an alarm takes.
        calibration: of the reference.
        findings: in the order in which they were raised.
        notes: what a person should know, in sentences.
        trace: the course; None where it was not asked for.
        labelling: what labels, and answers without labels, tell; None without a labelled reference.
        commissioned: what the device learnt of its own normal; None where it was not asked to.
    """

    rows: int
    windows: int
    window_rows: int
    row_seconds: float
    budget: Budget
    log_threshold: float
    calibration: Calibration
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    trace: Trace | None
    labelling: Labelling | None = None
    commissioned: Commissioned | None = None


def replay_table(
    reference: Path, live: Path, setup: Setup, wishes: Wishes, tell: Progress | None = None
) -> Replay:
    """Learn a reference and replay live rows against it, each column as a stream.

    The reference is held in memory; live rows are read in blocks, so their number does not matter.

    Args:
        reference: table of rows when all was well, in time order.
        live: table of rows to watch, in time order.
        setup: how to replay.
        wishes: what the user said about columns.
        tell: told how far the work is.

    Raises:
        TableRefused: a file can not be read, or they do not fit together.
        ConfigError: a setting is impossible.
    """
    tell = tell or (lambda _step, _done, _all: None)
    budget = _budget(setup.budget or DEFAULT_BUDGET)
    reference_table, live_table = open_table(reference), open_table(live)
    learned = learn(reference_table, live_table, wishes, tell)
    effect = DEFAULT_SMALLEST_EFFECT if setup.smallest_effect is None else setup.smallest_effect
    clock = Clock.of(setup, learned, reference_table)
    try:
        derived = derive(setup, learned, clock)
        calibration = Calibration.fit(
            derived.schema,
            derived.values,
            smallest_effect=effect,
            ceiling=derived.ceiling,
            joint=True,
            progress=lambda done, total: tell("calibrating", done, total),
        )
    except CalibrationError as error:
        raise TableRefused(reference, f"can not carry a calibration: {error}") from error
    window_rows = setup.window_rows or DEFAULT_WINDOW_ROWS
    row_seconds = setup.row_seconds or DEFAULT_ROW_SECONDS
    notes = [
        *learned.notes,
        *clock.notes,
        *derived.notes,
        *_about_time(setup.row_seconds, learned.row_seconds),
    ]
    trace = Trace() if setup.trace else None
    truth = Truth.of(learned, reference_table, live_table, wishes)
    record = None if truth is None else truth.record(derived.schema, derived.values, wishes)
    labelled, threshold = _label_watch(
        record, calibration, budget, window_rows * row_seconds, effect, () if truth is None else truth.names
    )
    site = _site(setup, calibration, (), threshold, effect, labelled)
    watch = Watch(calibration, threshold, window_rows, trace, labelled, site=site)
    encoder, order = Encoder(live_table, learned.columns), LiveOrder(clock.column or learned.clock)
    for block in live_table.blocks():
        order.look(block)
        seconds = clock.live(live_table, block) if derived.plan.needs_time else None
        labels = None if truth is None else truth.live(block)
        watch.feed(derived.plan.apply(encoder.encode(block), seconds), None, labels)
        tell("replaying", block.done, live_table.size)
    watch.finish()
    if not watch.rows:
        raise TableRefused(live, "has a header but no rows")
    return _result(
        watch,
        calibration,
        budget=budget,
        window_rows=window_rows,
        row_seconds=row_seconds,
        notes=[*notes, *order.notes(), *(() if truth is None else truth.notes(record)), *encoder.notes()],
        trace=trace,
        labelling=None if labelled is None else labelled.result(watch.drifting),
        commissioned=None if site is None else commissioned(site, setup.commission or 0),
    )


def replay_commissioned(live: Path, setup: Setup, wishes: Wishes, tell: Progress | None = None) -> Replay:
    """Replay live rows without any reference: the first ones teach what is normal, the others are watched.

    Args:
        live: table of rows in time order.
        setup: how to replay; `commission` says from how many rows to learn.
        wishes: what the user said about columns.
        tell: told how far the work is.

    Raises:
        TableRefused: the file can not be read.
        ConfigError: a setting is impossible.
    """
    tell = tell or (lambda _step, _done, _all: None)
    budget = _budget(setup.budget or DEFAULT_BUDGET)
    rows = setup.commission or LEAST_ROWS
    table = open_table(live)
    learned = learn(FirstRows(table, rows), table, wishes, tell)
    effect = DEFAULT_SMALLEST_EFFECT if setup.smallest_effect is None else setup.smallest_effect
    nothing = nothing_known(Schema([dataclasses.replace(s, tracked=False) for s in learned.schema.streams]))
    window_rows = setup.window_rows or DEFAULT_WINDOW_ROWS
    row_seconds = setup.row_seconds or DEFAULT_ROW_SECONDS
    threshold = budget.log_threshold(window_rows * row_seconds)
    names = [stream.name for stream in learned.schema.streams]
    site = site_watch(nothing, names, rows, threshold, effect=effect, interpret=None)
    watch = Watch(nothing, threshold, window_rows, site=site)
    encoder = Encoder(table, learned.columns)
    for block in table.blocks():
        watch.feed(encoder.encode(block))
        tell("replaying", block.done, table.size)
    watch.finish()
    return _result(
        watch,
        site.site or nothing,
        budget=budget,
        window_rows=window_rows,
        row_seconds=row_seconds,
        notes=[*learned.notes, *_about_time(setup.row_seconds, learned.row_seconds), *encoder.notes()],
        trace=None,
        labelling=None,
        commissioned=commissioned(site, rows),
    )


def replay_bundle(
    bundle: Bundle,
    live: Path,
    setup: Setup,
    *,
    labels: str | None = None,
    time: str | None = None,
    image_scale: ImageScale | None = None,
    tell: Progress | None = None,
) -> Replay:
    """Replay raw inputs through a bundle's model and probes, with its calibration and policy.

    Args:
        bundle: opened.
        live: raw inputs in time order: .npz, .npy, .csv, or a folder.
        setup: how to replay; what is None is the bundle's.
        labels: a column or array of the recording that is no input.
        time: a column or array of the recording with the time of each row.
        image_scale: what black and white of image files are fed as.
        tell: told how far the work is.

    Raises:
        ReferenceRefused: the recording can not be read, or does not fit the model.
        ModelRefused: the model fails on it.
        ConfigError: a setting is impossible.
    """
    policy = bundle.policy
    budget = _budget(setup.budget or policy.budget)
    window_rows, row_seconds = _windows(setup, policy.window_seconds)
    calibration = bundle.calibration
    if setup.smallest_effect is not None:
        effects = np.full_like(calibration.smallest_effect, setup.smallest_effect)
        calibration = dataclasses.replace(calibration, smallest_effect=effects)
    notes = [
        f"windows of {window_rows:,} rows, a row each {row_seconds:g} s (the policy's window is "
        f"{policy.window_seconds:g} s; --row-seconds and --window change this)"
    ]
    trace = Trace() if setup.trace else None
    record = bundle.performance
    effect = policy.effect(ERROR_RATE) if setup.smallest_effect is None else setup.smallest_effect
    labelled, threshold = _label_watch(
        record, calibration, budget, window_rows * row_seconds, effect, bundle.classes
    )
    site = _site(
        setup, calibration, bundle.unknown_streams, threshold,
        policy.smallest_effect if setup.smallest_effect is None else setup.smallest_effect, labelled,
    )  # fmt: skip
    watch = Watch(calibration, threshold, window_rows, trace, labelled, site=site)
    data = feed_model(
        bundle, live, watch, labels=labels, image_scale=image_scale,
        times=Times(time, setup.start, row_seconds),
        tell=tell or (lambda _step, _done, _all: None),
    )  # fmt: skip
    watch.finish()
    notes += [*data.preprocessing, *data.notes]
    if bundle.derived.needs_time and data.times is None:
        notes.append(
            "the times of the recording are not known, so nothing is said about streams that go by the "
            "clock: give --time COLUMN, or --start"
        )
    if record is None and labels is not None:
        notes.append(
            f"{labels}: left out. The bundle was built without labels, so there is no error rate to compare "
            "with: build it with --labels"
        )
    notes.append("the guard's checks of single inferences (verdicts) and latencies are not replayed")
    return _result(
        watch,
        calibration,
        budget=budget,
        window_rows=window_rows,
        row_seconds=row_seconds,
        notes=notes,
        trace=trace,
        labelling=None if labelled is None else labelled.result(watch.drifting),
        commissioned=None if site is None else commissioned(site, setup.commission or 0),
    )


def _site(  # noqa: PLR0917 - both replays call it alike
    setup: Setup,
    calibration: Calibration,
    unknown: Sequence[str],
    threshold: float,
    effect: float,
    labelled: LabelWatch | None,
) -> SiteWatch | None:
    """What learns a normal of the device's own, where that was asked for."""
    if setup.commission is None:
        return None
    interpret = labelled.mix.interpret if labelled is not None and labelled.mix is not None else None
    return site_watch(calibration, unknown, setup.commission, threshold, effect=effect, interpret=interpret)


def _label_watch(  # noqa: PLR0917 - both replays call it alike
    record: PerformanceRecord | None,
    calibration: Calibration,
    budget: Budget,
    window_s: float,
    effect: float,
    names: tuple[str, ...],
) -> tuple[LabelWatch | None, float]:
    """What watches labels, where the reference has some; and the threshold that is left for streams."""
    if record is None:
        return None, budget.log_threshold(window_s)
    threshold = budget.share(LABEL_SHARE).log_threshold(window_s)
    watch = LabelWatch(record, calibration, threshold, effect, names)
    return watch, budget.share(1.0 - LABEL_SHARE).log_threshold(window_s)


def _budget(words: str) -> Budget:
    try:
        return Budget.parse(words)
    except SketchError as error:
        raise ConfigError("--budget", str(error)) from error


def _windows(setup: Setup, policy_seconds: float) -> tuple[int, float]:
    """Rows of a window and seconds between rows: what is not given follows from the policy's window."""
    if setup.window_rows is None:
        row_seconds = setup.row_seconds or DEFAULT_ROW_SECONDS
        return max(1, round(policy_seconds / row_seconds)), row_seconds
    return setup.window_rows, setup.row_seconds or policy_seconds / setup.window_rows


def _about_time(given: float | None, found: float | None) -> list[str]:
    if given is None:
        text = f"a row each {DEFAULT_ROW_SECONDS:g} s is assumed, and the threshold follows from it"
        if found:
            text += f"; the times in the reference suggest --row-seconds {found:g}"
        return [text]
    if found and not 0.5 <= found / given <= 2.0:
        return [f"--row-seconds is {given:g}, but the times in the reference suggest {found:g}"]
    return []


def _result(
    watch: Watch,
    calibration: Calibration,
    *,
    budget: Budget,
    window_rows: int,
    row_seconds: float,
    notes: list[str],
    trace: Trace | None,
    labelling: Labelling | None,
    commissioned: Commissioned | None,
) -> Replay:
    window_s = window_rows * row_seconds
    by = calibration if commissioned is None or commissioned.site is None else commissioned.site
    notes += [] if commissioned is None else commissioned.notes
    notes += by.notes
    notes += by.short_for(budget, window_s)
    notes += _about_findings(watch.findings, by, window_rows)
    notes += watch.doubts
    if watch.rows < window_rows:
        notes.append(
            f"the {watch.rows:,} live rows do not fill one window of {window_rows:,}: it was closed early, "
            "and nothing can be said of when in it a change began (--window takes fewer rows)"
        )
    return Replay(
        rows=watch.rows,
        windows=watch.windows,
        window_rows=window_rows,
        row_seconds=row_seconds,
        budget=budget,
        log_threshold=budget.log_threshold(window_s),
        calibration=calibration,
        findings=tuple(watch.findings),
        notes=tuple(dict.fromkeys(notes)),
        trace=trace,
        labelling=labelling,
        commissioned=commissioned,
    )


def _about_findings(findings: Sequence[Finding], calibration: Calibration, window_rows: int) -> list[str]:
    """What to keep in mind when reading them."""
    notes = []
    names = zip(calibration.tracked_names, calibration.chains, strict=True)
    doubtful = {name for name, chain in names if _slow(chain)}
    named = sorted({finding.stream for finding in findings} & doubtful)
    if named:
        notes.append(
            f"read the findings on {', '.join(named)} with care: a slow cycle of which the reference holds "
            "only a few turns looks like drift (--season tells a daily or weekly one apart, not a yearly one)"
        )
    if any(finding.onset_row < window_rows for finding in findings):
        notes.append(
            "the live data differ from the reference from their first window on: they begin after the "
            "change, or the reference does not show all of what is normal here"
        )
    if any(finding.log_e > MAX_LOG_E for finding in findings):
        notes.append(f"e_value is capped at exp({MAX_LOG_E:g}), about {math.exp(MAX_LOG_E):.0e}; see log_e")
    return notes


def _slow(chain: Chain) -> bool:
    """Whether a stream's memory is longer than its reference can show."""
    longer = float((chain.tau / chain.tau_chain).max(initial=1.0)) > LONG_MEMORY
    return longer or chain.rows / chain.correlation_rows < FEW_INDEPENDENT
