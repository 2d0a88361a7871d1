"""The plot of a replay: each stream that alarmed against its reference, and the evidence over time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from driftpost_models.replay.replay import Replay
from driftpost_models.replay.tables import Numbers
from driftpost_models.replay.trace import Point
from driftpost_models.replay.watch import Finding
from driftpost_sketches.drift.alarm import evidence_in_words
from driftpost_sketches.schema import Stream, StreamKind
from driftpost_sketches.window import StreamSummary

MAX_PANELS = 8
"""Streams drawn; the others are named in the title of the plot."""

_WIDTH, _PANEL, _EVIDENCE = 11.0, 1.75, 2.1  # inches
_DPI = 130
_BAND = (0.01, 0.99)
_ROOM = 1.0  # ranges of band and line that rows beyond them may take on either side
_LONGEST_NAME = 40
# Colours that a colour-blind reader can tell apart, and that survive grey print (Okabe and Ito 2008).
_BLUE, _SKY, _RED, _GREEN, _GREY = "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#8a8a8a"
_LOWEST = -2.0  # powers of ten below which evidence is drawn as none
_LN10 = math.log(10.0)


@dataclass(frozen=True)
class _Course:
    """One stream as a line over time."""

    middle: Numbers
    low: Numbers | None
    high: Numbers | None
    usual: float
    band: tuple[float, float] | None
    title: str


def draw(replay: Replay, path: Path) -> None:
    """Write the plot as a PNG.

    Args:
        replay: made with a trace.
        path: the file.

    Raises:
        ValueError: the replay has no trace.
        OSError: the file can not be written.
    """
    if replay.trace is None:
        raise ValueError("a replay without a trace can not be drawn")
    points = replay.trace.points
    by_stream: dict[str, list[Finding]] = {finding.stream: [] for finding in replay.findings}
    for finding in replay.findings:
        for name, _ in finding.streams:
            by_stream.setdefault(name, []).append(finding)
    schema = replay.calibration.schema
    names = [name for name in by_stream if name in schema][:MAX_PANELS]
    labelled = replay.labelling is not None and len(replay.labelling.course) > 0
    heights = [_PANEL] * (len(names) + labelled) + [_EVIDENCE]
    # Drawn without pyplot: no global state, no display.
    figure = Figure(figsize=(_WIDTH, sum(heights) + 1.2), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    # A step's value holds for its whole window, up to where the next one begins.
    rows = np.array([p.start for p in points] + [replay.rows], dtype=np.float64)
    for place, name in enumerate(names):
        _stream(panels[place], replay, name, rows, by_stream[name], legend=place == 0)
    if labelled:
        _errors(panels[len(names)], replay)
    _evidence(panels[-1], replay, rows)
    figure.suptitle(
        _title(replay, sum(name in schema for name in by_stream) - len(names)), fontsize=11, x=0.01, ha="left"
    )
    figure.savefig(path, format="png")


def _title(replay: Replay, left_out: int) -> str:
    count = len(replay.findings)
    said = "no finding" if not count else f"{count} finding{'s' * (count > 1)}"
    more = f"; {left_out} more streams named in them are not drawn" if left_out > 0 else ""
    return (
        f"{replay.rows:,} rows against a reference of {replay.calibration.baseline.rows:,}: {said} "
        f"at a budget of {replay.budget}{more}"
    )


def _stream(
    axes: Axes, replay: Replay, name: str, rows: Numbers, findings: list[Finding], *, legend: bool
) -> None:
    schema = replay.calibration.schema
    index = schema.index(name)
    assert replay.trace is not None
    course = _course(replay, schema.streams[index], index, replay.trace.points, findings[0])
    if course.band is not None:
        axes.axhspan(*course.band, color=_GREEN, alpha=0.13, lw=0, label="98% of reference rows")
    axes.axhline(course.usual, color=_GREEN, lw=1.2, ls="--", label="reference")
    if course.low is not None and course.high is not None:
        axes.fill_between(
            rows, _held(course.low), _held(course.high), step="post", color=_SKY, alpha=0.3, lw=0,
            label="lowest to highest row",
        )  # fmt: skip
    axes.step(rows, _held(course.middle), where="post", color=_BLUE, lw=1.3, label="live, by window")
    for number, finding in enumerate(findings):
        first = number == 0
        end = replay.rows if finding.cleared_row is None else finding.cleared_row
        axes.axvspan(finding.row, end, color=_RED, alpha=0.06, lw=0)
        axes.axvline(
            finding.onset_row, color=_RED, lw=1.1, ls=":", label="estimated onset" if first else None
        )
        axes.axvline(finding.row, color=_RED, lw=1.5, label="alarm" if first else None)
    axes.set_title(
        f"{course.title}: " + ", ".join(_said(finding, name) for finding in findings[:3])
        + (f" and {len(findings) - 3} more" if len(findings) > 3 else ""),
        fontsize=9.5, loc="left",
    )  # fmt: skip
    _tidy(axes)
    if course.band is not None:
        _focus(axes, np.append(course.middle, [*course.band, course.usual]), course)
    if legend:
        axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.005, 0.5), frameon=False)


def _focus(axes: Axes, shown: Numbers, course: _Course) -> None:
    """Keep single wild rows from flattening everything else: the axis follows band and line."""
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    room = _ROOM * (high - low)
    if course.low is not None and course.high is not None and room > 0:
        lowest, highest = float(np.nanmin(course.low)), float(np.nanmax(course.high))
        bottom = max(low - room, min(lowest, low) - 0.05 * room)
        axes.set_ylim(bottom, min(high + room, max(highest, high) + 0.05 * room))


def _said(finding: Finding, stream: str) -> str:
    if finding.stream != stream:
        return f"with {finding.stream} at row {finding.row:,}"
    way = {"up": " up", "down": " down"}.get(finding.direction, "")
    return f"{finding.kind.replace('_', ' ')}{way} at row {finding.row:,} (since {finding.onset_row:,})"


def _course(replay: Replay, stream: Stream, index: int, points: list[Point], finding: Finding) -> _Course:
    schema, baseline = replay.calibration.schema, replay.calibration.baseline
    name = stream.name if len(stream.name) <= _LONGEST_NAME else stream.name[: _LONGEST_NAME - 3] + "..."
    live = [p.window.summary(schema, index) for p in points]
    normal = baseline.summary(schema, index)
    if finding.kind == "missing":
        absent = np.array([_absent(s) for s in live])
        usual = _absent(normal)
        return _Course(absent, None, None, usual, None, f"{name}, share of missing rows")
    if stream.kind is StreamKind.CATEGORICAL:
        since = [s for p, s in zip(points, live, strict=True) if p.start >= finding.onset_row] or live[-1:]
        counts = np.sum([s.counts for s in since], axis=0)
        change = np.abs(counts / max(counts.sum(), 1) - normal.share)
        shown = len(change) - 1 if finding.kind == "new_category" else int(np.argmax(change))
        shares = np.array([s.share[shown] for s in live])
        label = stream.bin_label(shown)
        return _Course(shares, None, None, float(normal.share[shown]), None, f"{name}, share of {label!r}")
    middle = np.array([s.mean for s in live])
    low, high = (np.array([getattr(s, side) for s in live]) for side in ("low", "high"))
    # Means are of values clipped for the sketch's sake; where all lie beyond the clip, they are known better.
    middle = np.clip(middle, low, high)
    unit = f" [{stream.unit}]" if stream.unit else ""
    return _Course(
        middle, low, high, normal.mean, _band(stream, normal.share, normal.low, normal.high), name + unit
    )


def _absent(summary: StreamSummary) -> float:
    """Share of a stream's rows that have no value."""
    absent = summary.missing + summary.nonfinite
    return absent / max(summary.n + absent, 1)


def _band(stream: Stream, share: Numbers, low: float, high: float) -> tuple[float, float]:
    """Where nearly all reference rows lie, from the bins of its sketch."""
    borders = np.clip(np.array([low, *stream.edges, high]), low, high)
    below = np.concatenate([[0.0], np.cumsum(share)])
    lower, upper = np.interp(_BAND, below, borders)
    return float(lower), float(upper)


def _errors(axes: Axes, replay: Replay) -> None:
    """Error rate by window, where there are labels, beside what is estimated without them."""
    found = replay.labelling
    assert found is not None
    starts = np.array([start for start, _, _ in found.course] + [replay.rows], dtype=np.float64)
    wrong = np.array([rate for _, rate, _ in found.course])
    guessed = 1.0 - np.array([accuracy for _, _, accuracy in found.course])
    axes.axhline(found.record.labels.error_rate, color=_GREEN, lw=1.2, ls="--", label="reference")
    if np.isfinite(guessed).any():
        axes.step(starts, _held(guessed), where="post", color=_SKY, lw=1.3, label="estimated without labels")
    if np.isfinite(wrong).any():
        axes.step(starts, _held(wrong), where="post", color=_BLUE, lw=1.3, label="by labels")
    for number, finding in enumerate(one for one in replay.findings if one.kind == "concept"):
        first = number == 0
        axes.axvline(
            finding.onset_row, color=_RED, lw=1.1, ls=":", label="estimated onset" if first else None
        )
        axes.axvline(finding.row, color=_RED, lw=1.5, label="alarm" if first else None)
    axes.set_title("share of answers that are wrong", fontsize=9.5, loc="left")
    _tidy(axes)
    axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.005, 0.5), frameon=False)


def _evidence(axes: Axes, replay: Replay, rows: Numbers) -> None:
    assert replay.trace is not None
    points = replay.trace.points
    share = math.log(max(len(replay.calibration.tracked_names), 1))
    single = np.array([p.evidence - share for p in points]) / _LN10
    together = np.array([p.together for p in points]) / _LN10
    threshold = replay.log_threshold / _LN10
    for t in range(single.shape[1]):
        axes.step(
            rows, _held(np.clip(single[:, t], _LOWEST, None)), where="post", color=_GREY, lw=0.6, alpha=0.6,
            label="each stream" if t == 0 else None,
        )  # fmt: skip
    axes.step(
        rows, _held(np.clip(together, _LOWEST, None)), where="post", color=_BLUE, lw=1.3,
        label="all streams",
    )  # fmt: skip
    axes.axhline(threshold, color=_RED, lw=1.2, ls="--", label="threshold")
    for number, finding in enumerate(replay.findings):
        axes.axvline(finding.row, color=_RED, lw=0.9, alpha=0.5, label="alarm" if number == 0 else None)
    # A freeze ends at 10^500; the climb to the threshold is what one wants to see.
    axes.set_ylim(
        _LOWEST, min(max(1.35 * threshold, float(together.max(initial=0.0)) * 1.05), 2.5 * threshold)
    )
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"$10^{{{value:g}}}$"))
    axes.set_title(
        f"evidence of a change (alarm at {evidence_in_words(replay.log_threshold)[9:]}; an "
        "alarm takes the evidence it used)",
        fontsize=9.5, loc="left",
    )  # fmt: skip
    axes.set_xlabel(
        f"live row (windows of {replay.window_rows:,}, {replay.row_seconds:g} s a row)", fontsize=9
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(0, max(replay.rows, 1))
    _tidy(axes)
    axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.005, 0.5), frameon=False)


def _held(values: Numbers) -> Numbers:
    """One more value, so that the last step is drawn to its end."""
    return np.append(values, values[-1:])


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", lw=0.4, alpha=0.4)
    axes.margins(y=0.08)
