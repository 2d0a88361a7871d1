"""Streams of a model, then and now, in words: what tables on several pages show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from driftpost_aggregator.web.charts.distribution import category_names
from driftpost_aggregator.web.effects import beyond_chance
from driftpost_aggregator.web.links import stream_address
from driftpost_aggregator.web.models import Model
from driftpost_aggregator.web.queries.incidents import Contribution, Incident
from driftpost_aggregator.web.queries.series import merged
from driftpost_aggregator.web.words import (
    DASH,
    MINUS,
    TIMES,
    detail,
    number,
    percent,
    rounded,
    shift,
    signed,
    unit,
)
from driftpost_sketches.drift.effect import Effect, effect_of
from driftpost_sketches.schema import Stream, StreamKind
from driftpost_sketches.window import StreamSummary, Window

# "Now" is the newest merged windows, this many: recent, yet enough rows to judge by.
NOW_BUCKETS = 12
# A shift smaller than this says less than the spread, reference sd.
_VISIBLE = 0.05
# Spreads within this factor look the same to a person.
_SAME_SPREAD = 1.25


@dataclass(frozen=True)
class StreamLine:
    """One stream in a table.

    Attributes:
        name, role, unit, tracked: Of the stream.
        then, now: Where it was and is, in words.
        change: In words, in its unit and in reference standard deviations.
        size: Of the change beyond chance, reference standard deviations; what tables sort by.
        missing: Share of rows without a value now.
        rows: Values now.
        link: Page of the stream, from the same scope.
    """

    name: str
    role: str
    unit: str
    tracked: bool
    then: str
    now: str
    change: str
    size: float
    missing: float
    rows: int
    link: str


def stream_table(model: Model, windows: Sequence[Window], scope: str, key: str) -> list[StreamLine]:
    """All streams of a model, the most changed of the watched ones first.

    Args:
        model: Whose streams.
        windows: What "now" is made of.
        scope: fleet, cohort or device, for the links.
        key: Which one.
    """
    now = merged(windows)
    if now is None:
        now = Window.empty(model.schema)
    lines = []
    for index, stream in enumerate(model.schema.streams):
        effect = effect_of(model.schema, model.baseline, now, index)
        then_summary, now_summary = (
            model.baseline.summary(model.schema, index),
            now.summary(model.schema, index),
        )
        total = now_summary.n + now_summary.missing + now_summary.nonfinite
        lines.append(
            StreamLine(
                name=stream.name,
                role=stream.role.value,
                unit=stream.unit,
                tracked=stream.tracked,
                then=_where(stream, then_summary),
                now=_where(stream, now_summary),
                change=change_words(stream, effect, then_summary, now_summary),
                size=beyond_chance(model, effect, index, now),
                missing=(total - now_summary.n) / total if total else 0.0,
                rows=now_summary.n,
                link=stream_address(model.bundle, stream.name, scope, key),
            )
        )
    return sorted(lines, key=lambda line: (not line.tracked, -line.size))


def _where(stream: Stream, summary: StreamSummary) -> str:
    if not summary.n:
        return DASH
    if stream.kind is StreamKind.CATEGORICAL:
        top = int(summary.share.argmax())
        return f"{category_names(stream)[top]}: {percent(float(summary.share[top]))}"
    mean, std = rounded(summary.mean, summary.std), rounded(summary.std, summary.std)
    return f"{mean} ± {std}{_unit(stream.unit)}" if summary.std > 0 else f"{mean}{_unit(stream.unit)}"


def _unit(name: str) -> str:
    return f" {unit(name)}" if name else ""


def change_words(stream: Stream, effect: Effect, then: StreamSummary, now: StreamSummary) -> str:
    """A change as a person says it: ``+3.1 °C (+0.8 sd)``, ``digit 7: +12 % of rows``."""
    if not now.n or not then.n:
        return DASH
    if stream.kind is StreamKind.CATEGORICAL:
        return f"{category_names(stream)[effect.largest_bin]}: {points(effect.share_change)}"
    natural = now.mean - then.mean
    # Codes have no place in `Effect.sd_shift`, but a mean all the same; numbers say what the evidence says.
    spread = then.std if then.std > 0 else stream.scale
    size = effect.sd_shift if stream.kind is StreamKind.NUMERIC else natural / spread
    name = stream.unit if stream.kind is StreamKind.NUMERIC else "codes"
    # A reference of one constant has no digits of its own to round to.
    said = rounded(natural, spread, sign=True) if then.std > 0 else signed(natural)
    words = f"{said}{_unit(name)} ({shift(size)})"
    ratio = now.std / then.std if then.std > 0 else 1.0
    return words if 1 / _SAME_SPREAD < ratio < _SAME_SPREAD else f"{words}, {spread_words(ratio)}"


def spread_words(ratio: float) -> str:
    """How much wider or narrower the values lie than before."""
    return f"spread {TIMES}{number(ratio, 2)}"


def points(change: float) -> str:
    """A change of a share: ``+12 % of rows``."""
    shown = f"{100 * change:+.1f}".replace("-", MINUS).removesuffix(".0")
    return f"{shown if shown.strip('+' + MINUS) != '0' else '0'} % of rows"


def contribution_words(model: Model | None, incident: Incident, part: Contribution) -> str:
    """What an incident did to a stream, as a person says it."""
    if part == incident.streams[0] and detail(incident.detail):
        return detail(incident.detail)
    stream = None
    if model is not None:
        stream = next((one for one in model.schema.streams if one.name == part.stream), None)
    if stream is not None and stream.kind is not StreamKind.NUMERIC:
        return points(part.effect)
    if abs(part.effect) < _VISIBLE:
        changed = not 1 / _SAME_SPREAD < part.spread < _SAME_SPREAD
        return spread_words(part.spread) if changed else shift(part.effect)
    if not part.unit:
        return shift(part.effect)
    natural = rounded(part.effect_natural, abs(part.effect_natural / part.effect), sign=True)
    return f"{natural}{_unit(part.unit)} ({shift(part.effect)})"
