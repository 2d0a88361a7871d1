"""The latest windows of a device beside the baseline: a line per stream, with its course."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from driftpost_agent.sparkline import sparkline
from driftpost_sketches.drift.effect import effect_of
from driftpost_sketches.schema import Schema, StreamKind
from driftpost_sketches.window import StreamSummary, Window

# The course's scale: this many of the reference's standard deviations to each side of its mean.
SCALE_SD = 3.0
# A change of a stream that is no number is a share of rows; the course shows it up to here.
SCALE_SHARE = 0.5
# A change from here on is coloured although no finding stands: sd, or share of rows.
NOTABLE_SD, NOTABLE_SHARE = 1.0, 0.2
MAX_NAME_CHARS = 28


@dataclass(frozen=True)
class Line:
    """One stream.

    Attributes:
        name, unit, kind: of the stream.
        course: what the sparkline shows, the latest last: shift in reference sd, or share of rows that moved.
        now, baseline: mean of the merged windows and of the reference; NaN where it has none.
        change: the same over all windows merged.
        rows, missing: over all windows merged.
        standing: whether a standing finding names it.
    """

    name: str
    unit: str
    kind: str
    course: tuple[float, ...]
    now: float
    baseline: float
    change: float
    rows: int
    missing: int
    standing: bool

    @property
    def numeric(self) -> bool:
        """Whether changes are counted in standard deviations."""
        return self.kind == StreamKind.NUMERIC.value

    def to_plain(self) -> dict[str, Any]:
        """For `--json`; what is not known is null."""
        return {
            "stream": self.name,
            "unit": self.unit,
            "kind": self.kind,
            "course": [_known(value) for value in self.course],
            "now": _known(self.now),
            "baseline": _known(self.baseline),
            "change": _known(self.change),
            "change_in": "reference sd" if self.numeric else "share of rows",
            "rows": self.rows,
            "missing": self.missing,
            "finding": self.standing,
        }


def window_lines(
    schema: Schema,
    baseline: Window,
    windows: Sequence[Window],
    *,
    standing: Collection[str] = (),
    pattern: str = "*",
) -> list[Line]:
    """A line for each stream whose name matches.

    Args:
        schema: of the windows.
        baseline: of the bundle.
        windows: the oldest first, at least one.
        standing: streams that a standing finding names.
        pattern: as a shell would match names.
    """
    merged = windows[0]
    for window in windows[1:]:
        merged = merged.merge(window)
    lines = []
    for index, stream in enumerate(schema.streams):
        if not fnmatch.fnmatchcase(stream.name, pattern):
            continue
        reference, latest = baseline.summary(schema, index), merged.summary(schema, index)
        lines.append(
            Line(
                name=stream.name,
                unit=stream.unit,
                kind=stream.kind.value,
                course=tuple(_change(schema, baseline, window, index) for window in windows),
                now=latest.mean,
                baseline=reference.mean,
                change=_change(schema, baseline, merged, index),
                rows=latest.n,
                missing=latest.missing + latest.nonfinite,
                standing=stream.name in standing,
            )
        )
    return lines


def _change(schema: Schema, baseline: Window, window: Window, index: int) -> float:
    reference, now = baseline.summary(schema, index), window.summary(schema, index)
    if not now.n or not reference.n:
        return math.nan
    if schema.streams[index].kind is StreamKind.NUMERIC:
        return effect_of(schema, baseline, window, index).sd_shift
    return _moved(reference, now)


def _moved(reference: StreamSummary, now: StreamSummary) -> float:
    """Share of rows that would have to be another category for the two to be alike."""
    return float(np.abs(now.share - reference.share).sum() / 2)


def render(lines: Sequence[Line], title: str) -> str:
    """The table; colours are stripped by click where the terminal has none."""
    return "\n".join(_rendered(lines, title))


def _rendered(lines: Sequence[Line], title: str) -> Iterator[str]:
    yield title
    if not lines:
        yield "no stream has that name"
        return
    width = min(MAX_NAME_CHARS, max(len(line.name) for line in lines))
    course = max(len("course"), *(len(line.course) for line in lines))
    yield click.style(
        f"{'stream':<{width}}  {'course':<{course}}  {'now':>10}  {'baseline':>10}  {'change':>9}  missing",
        bold=True,
    )
    for line in lines:
        if line.numeric:
            drawn, change = sparkline(line.course, -SCALE_SD, SCALE_SD), f"{line.change:+.2f} sd"
            notable = abs(line.change) >= NOTABLE_SD
        else:
            drawn, change = sparkline(line.course, 0.0, SCALE_SHARE), f"{line.change:.0%}"
            notable = line.change >= NOTABLE_SHARE
        if math.isnan(line.change):
            change = "-"
        colour = "red" if line.standing else "yellow" if notable else None
        text = (
            f"{_cut(line.name, width):<{width}}  {drawn:<{course}}  {_number(line.now):>10}"
            f"  {_number(line.baseline):>10}  {change:>9}"
            f"  {line.missing if line.missing else ''!s:>7}"
        )
        yield click.style(text.rstrip(), fg=colour) + ("  ! finding" if line.standing else "")
    yield (
        f"The course runs from -{SCALE_SD:g} to +{SCALE_SD:g} sd about the baseline's mean; of categories "
        f"and codes it is the share of rows that moved, 0 to {SCALE_SHARE:.0%}."
    )


def render_board(board: Mapping[str, Any]) -> str:
    """The board's own health, from the status document of a running agent."""
    lines = [click.style("board (a quarter of an hour each, the latest last)", bold=True)]
    for name, fact in board.items():
        course = [float(value) for value in fact["course"]]
        drawn = sparkline(course, min(course), max(course)) if course else ""
        unit = f" {fact['unit']}" if fact["unit"] else ""
        lines.append(f"{name:<14}{_number(float(fact['value'])):>10}{unit:<6}  {drawn}  {fact['meaning']}")
    return "\n".join(lines)


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _known(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
