"""One stream's distribution, baseline against now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from driftpost_aggregator.web.charts.theme import PALETTES, Figure, Part, figure, label, nothing, title
from driftpost_aggregator.web.words import number, percent, unit
from driftpost_sketches.schema import Schema, Stream, StreamKind
from driftpost_sketches.window import StreamSummary, Window

# Bars of categories shown at most; the rest is one bar, so that labels stay readable.
MAX_CATEGORIES = 24
# The open bins at both ends are drawn at most this many times as wide as all others together.
_OPEN_BIN_SPANS = 1.0
# With a bin this many times denser than ordinary ones, every bin is drawn equally wide: by their true
# widths one spike would flatten all else.
_SPIKE = 4.0
# Ticks under bins of equal width: as many numbers as a small chart has room for.
_BIN_TICKS = 5

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def drawn_edges(stream: Stream, several: Sequence[StreamSummary]) -> Floats:
    """float64[bins + 1]: the edges with an end given to both open bins.

    The ends are the smallest and largest values seen, but not further out than a few times the neighbouring
    bin: one wild value must not squeeze the picture.
    """
    edges = np.asarray(stream.edges, dtype=np.float64)
    inner = float(edges[-1] - edges[0]) or abs(stream.scale) or 1.0
    lows = [one.low for one in several if math.isfinite(one.low)]
    highs = [one.high for one in several if math.isfinite(one.high)]
    low = max(min(lows, default=edges[0]), edges[0] - _OPEN_BIN_SPANS * inner)
    high = min(max(highs, default=edges[-1]), edges[-1] + _OPEN_BIN_SPANS * inner)
    # An open bin that nobody used keeps a little width, so that it is there to be pointed at.
    least = inner / (edges.size + 1) / 2
    return np.concatenate(([min(low, edges[0] - least)], edges, [max(high, edges[-1] + least)]))


@dataclass(frozen=True)
class _Side:
    """One of the two distributions in a chart."""

    summary: StreamSummary
    name: str
    colour: str
    fill: str

    @property
    def legend(self) -> str:
        return f"{self.name} ({self.summary.n:,} values)"


def distribution(
    schema: Schema,
    index: int,
    baseline: Window,
    now: Window | None,
    *,
    theme: str,
    now_name: str = "now",
    height: int = 280,
    legend: bool = True,
) -> Figure:
    """Baseline as grey area, now as a line over it (numbers), or bars side by side (categories).

    Args:
        schema: Of both windows.
        index: Which stream.
        baseline: The reference.
        now: What to compare with it, or None if nothing has come yet.
        theme: light or dark.
        now_name: Name of `now` in the legend.
        height: Pixels.
        legend: Whether to name the two.
    """
    stream, palette = schema.streams[index], PALETTES[theme]
    sides = [
        _Side(baseline.summary(schema, index), "baseline", palette.baseline, palette.baseline_fill),
    ]
    if now is not None and now.finite()[index]:
        sides.append(_Side(now.summary(schema, index), label(now_name), palette.now, palette.now_fill))
    if not any(side.summary.n for side in sides):
        return nothing(theme, "no values yet: every row was missing", height=height)
    if stream.kind is StreamKind.NUMERIC and not stream.edges:
        return nothing(theme, "this stream has a single bin", height=height)
    drawing = {StreamKind.CATEGORICAL: _categories, StreamKind.CODES: _codes, StreamKind.NUMERIC: _numbers}
    data, xaxis, yaxis, layout = drawing[stream.kind](stream, sides)
    named = stream.name
    if stream.kind is StreamKind.CODES:
        named += ", code"
    elif stream.unit:
        named += f", {unit(stream.unit)}"
    value = "share of rows" if yaxis.get("tickformat") else "density"
    return figure(
        theme,
        data,
        height=height,
        legend=legend,
        xaxis={"title": title(theme, named), **xaxis},
        yaxis={"title": title(theme, value), "rangemode": "tozero", **yaxis},
        **layout,
    )


# Traces, what differs on the axes, and in the layout.
_Drawn = tuple[list[Part], Part, Part, Part]


def _spiky(densities: Sequence[Floats]) -> bool:
    """Whether single bins are so dense that ordinary ones would not be seen beside them."""
    for density in densities:
        ordered = np.sort(density[density > 0])
        # The median bin is an ordinary one; so is the only one.
        if ordered.size > 2 and ordered[-1] > _SPIKE * ordered[ordered.size // 2]:
            return True
    return False


def _below_spikes(shares: Sequence[Floats]) -> Part:
    """End the axis below a spike that would flatten everything else."""
    ordered = np.sort(np.concatenate(shares))[::-1]
    ordered = ordered[ordered > 0]
    # Both curves may share the spike, so the third largest is the first ordinary one.
    if ordered.size > 3 and ordered[0] > _SPIKE * ordered[2]:
        return {"range": [0, float(ordered[2] * 1.5)]}
    return {}


def _outline(edges: Floats, density: Floats) -> tuple[list[float], list[float]]:
    """A step curve from the axis up, over every bin, and back down."""
    x = [float(edges[0])]
    y = [0.0]
    for left, right, value in zip(edges[:-1], edges[1:], density, strict=True):
        x += [float(left), float(right)]
        y += [float(value), float(value)]
    return [*x, float(edges[-1])], [*y, 0.0]


def _area(side: _Side, edges: Floats, density: Floats) -> Part:
    x, y = _outline(edges, density)
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "mode": "lines",
        "fill": "tozeroy",
        "name": side.legend,
        "line": {"color": side.colour, "width": 1.8},
        "fillcolor": side.fill,
        "hoverinfo": "skip",
    }


def _numbers(stream: Stream, sides: Sequence[_Side]) -> _Drawn:
    edges = drawn_edges(stream, [side.summary for side in sides])
    densities = [side.summary.share / np.diff(edges) for side in sides]
    xaxis: Part = {"showgrid": False}
    yaxis: Part = {"showticklabels": False, "showgrid": False}
    if _spiky(densities):
        edges = np.arange(stream.n_bins + 1, dtype=np.float64)
        densities = [side.summary.share for side in sides]
        places = np.unique(np.linspace(1, stream.n_bins - 1, _BIN_TICKS).round()).astype(int).tolist()
        names = [number(stream.edges[place - 1]) for place in places]
        xaxis |= {"tickangle": 0, "tickmode": "array", "tickvals": places, "ticktext": names}
        yaxis |= {"showticklabels": True, "tickformat": ".0%"}
    widths = np.diff(edges)
    name = f" {label(unit(stream.unit))}" if stream.unit else ""
    shares = [[f"{side.name} {percent(float(share))}" for share in side.summary.share] for side in sides]
    bars: Part = {
        "type": "bar",
        "x": (edges[:-1] + widths / 2).tolist(),
        "y": densities[0].tolist(),
        "width": widths.tolist(),
        "name": sides[0].legend,
        "marker": {"color": sides[0].fill, "line": {"width": 0}},
        "customdata": [
            [bin_name(stream, position) + name, ", ".join(texts)]
            for position, texts in enumerate(zip(*shares, strict=True))
        ],
        "hovertemplate": "%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
    }
    areas = [_area(side, edges, density) for side, density in list(zip(sides, densities, strict=True))[1:]]
    return [bars, *areas], xaxis, yaxis, {"bargap": 0, "barmode": "overlay"}


def bin_name(stream: Stream, position: int) -> str:
    """What a bin holds, in words."""
    edges = stream.edges
    if position == 0:
        return f"below {number(edges[0])}"
    if position == len(edges):
        return f"{number(edges[-1])} and above"
    return f"{number(edges[position - 1])} to {number(edges[position])}"


def category_names(stream: Stream) -> list[str]:
    """Display name of every bin of a categorical stream; the overflow bin comes last."""
    return [*(stream.bin_label(position) for position in range(len(stream.categories))), "never seen before"]


def category_order(stream: Stream) -> list[int]:
    """Bins by category, 0 1 2 ..., the overflow bin last; the schema has the most frequent first."""
    by_value = sorted(range(len(stream.categories)), key=lambda position: stream.categories[position])
    return [*by_value, len(stream.categories)]


def _categories(stream: Stream, sides: Sequence[_Side]) -> _Drawn:
    names = category_names(stream)
    largest = np.max([side.summary.share for side in sides], axis=0)
    kept = category_order(stream)
    # An overflow bin that nobody used is no news.
    if largest[-1] == 0:
        kept.pop()
    rest: list[int] = []
    if len(kept) > MAX_CATEGORIES:
        rest = sorted(kept, key=lambda position: -largest[position])[MAX_CATEGORIES:]
        kept = [position for position in kept if position not in rest]
    shown = [label(names[position], 24) for position in kept] + ([f"{len(rest)} others"] if rest else [])
    data: list[Part] = []
    for side in sides:
        values = [float(side.summary.share[position]) for position in kept]
        if rest:
            values.append(float(side.summary.share[rest].sum()))
        data.append(
            {
                "type": "bar",
                "x": list(range(len(shown))),
                "y": values,
                "name": side.legend,
                "marker": {"color": side.colour, "line": {"width": 0}},
                "customdata": [
                    [text, f"{side.name} {percent(value)}"] for text, value in zip(shown, values, strict=True)
                ],
                "hovertemplate": "%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
            }
        )
    ticks: Part = {"tickmode": "array", "tickvals": list(range(len(shown))), "ticktext": shown}
    return data, ticks, {"tickformat": ".0%"}, {"barmode": "group", "bargap": 0.25, "bargroupgap": 0.06}


def _codes(stream: Stream, sides: Sequence[_Side]) -> _Drawn:
    edges = stream.lowest_code - 0.5 + np.arange(stream.n_bins + 1, dtype=np.float64)
    data = [_area(side, edges, side.summary.share) for side in sides]
    return data, {}, {"tickformat": ".1%", **_below_spikes([side.summary.share for side in sides])}, {}
