"""Streams over time: one in full, or all of a device as small multiples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from driftpost_aggregator.web.charts.distribution import (
    Floats,
    category_names,
    drawn_edges,
)
from driftpost_aggregator.web.charts.heat import Grid
from driftpost_aggregator.web.charts.theme import (
    PALETTES,
    Figure,
    Look,
    Part,
    axis,
    figure,
    label,
    nothing,
    scale,
    title,
    when,
)
from driftpost_aggregator.web.queries.series import Point
from driftpost_aggregator.web.words import number, shift, unit
from driftpost_sketches.schema import Schema, Stream, StreamKind
from driftpost_sketches.window import FIXED_POINT, Window

# Categories drawn one by one over time; the rest is one area.
_MAX_AREAS = 7
# Panels of a device's small multiples at most: more would take the browser a second to draw.
MAX_PANELS = 60
_COLUMNS = {"narrow": 2, "medium": 3, "wide": 5}
_PANEL_HEIGHT = 104
# Characters of a stream's name over its panel.
_TITLE_LENGTH = {"narrow": 14, "medium": 22, "wide": 24}
# From here on a change is drawn as notable, and as alarming, reference standard deviations.
_NOTABLE, _ALARMING = 0.25, 0.75


def over_time(schema: Schema, index: int, baseline: Window, points: Sequence[Point], *, theme: str) -> Figure:
    """The course of one stream: its mean and spread against the baseline's, or its categories' shares."""
    kind = schema.streams[index].kind
    with_values = [point for point in points if point.window.summary(schema, index).n]
    if not with_values:
        return nothing(theme, "no values in this span", height=220)
    if kind is StreamKind.CATEGORICAL:
        return _shares_over_time(schema, index, with_values, theme)
    return _mean_over_time(schema, index, baseline, with_values, theme)


def _moments(schema: Schema, index: int, window: Window) -> tuple[float, float]:
    summary = window.summary(schema, index)
    return summary.mean, summary.std


def _extent(points: Sequence[Point]) -> list[str]:
    """From the first row to the last, so that charts of one stream line up."""
    return [when(points[0].start_ms), when(points[-1].start_ms + points[-1].bucket_s * 1000)]


def _times(points: Sequence[Point]) -> list[str]:
    return [when(point.start_ms + point.bucket_s * 500) for point in points]


def _mean_over_time(
    schema: Schema, index: int, baseline: Window, points: Sequence[Point], theme: str
) -> Figure:
    stream, palette, times = schema.streams[index], PALETTES[theme], _times(points)
    shown_unit = label(unit(stream.unit))
    moments = [_moments(schema, index, point.window) for point in points]
    high = [mean + std for mean, std in moments]
    low = [mean - std for mean, std in moments]
    data: list[Part] = [
        {
            "type": "scatter",
            "x": [*times, *times[::-1]],
            "y": [*high, *low[::-1]],
            "fill": "toself",
            "fillcolor": palette.now_fill,
            "line": {"width": 0},
            "hoverinfo": "skip",
            "name": "now, mean \N{PLUS-MINUS SIGN} 1 sd",
        },
        {
            "type": "scatter",
            "x": times,
            "y": [mean for mean, _ in moments],
            "mode": "lines+markers",
            "line": {"color": palette.now, "width": 2},
            "marker": {"size": 4},
            "name": "now, mean",
            "customdata": [
                [number(mean), number(std), f"{point.rows:,}"]
                for (mean, std), point in zip(moments, points, strict=True)
            ],
            "hovertemplate": "%{x|%Y-%m-%d %H:%M:%S} UTC<br>mean %{customdata[0]} "
            + shown_unit
            + ", sd %{customdata[1]}<br>%{customdata[2]} rows<extra></extra>",
        },
    ]
    shapes: list[Part] = []
    centre, spread = _moments(schema, index, baseline)
    if math.isfinite(centre):
        across: Part = {"xref": "paper", "x0": 0, "x1": 1, "yref": "y", "layer": "below"}
        shapes = [
            {
                "type": "rect",
                "y0": centre - spread,
                "y1": centre + spread,
                "fillcolor": palette.baseline_fill,
                "line": {"width": 0},
                **across,
            },
            {
                "type": "line",
                "y0": centre,
                "y1": centre,
                "line": {"color": palette.baseline, "width": 1.5, "dash": "dash"},
                **across,
            },
        ]
        # Shapes have no place in the legend, so an invisible trace takes it.
        data.append(
            {
                "type": "scatter",
                "x": [None],
                "y": [None],
                "mode": "markers",
                "marker": {"color": palette.baseline, "symbol": "square", "size": 10},
                "name": "baseline, mean \N{PLUS-MINUS SIGN} 1 sd",
            }
        )
    return figure(
        theme,
        data,
        height=260,
        legend=True,
        xaxis={"type": "date", "range": _extent(points)},
        yaxis={"title": title(theme, unit(stream.unit) or stream.name)},
        shapes=shapes,
    )


def _shares_over_time(schema: Schema, index: int, points: Sequence[Point], theme: str) -> Figure:
    stream, palette, times = schema.streams[index], PALETTES[theme], _times(points)
    table = np.array([point.window.summary(schema, index).share for point in points])
    average = table.mean(axis=0)
    order = [position for position in np.argsort(-average, kind="stable").tolist() if average[position] > 0]
    names = category_names(stream)
    areas = [(names[position], table[:, position]) for position in order[:_MAX_AREAS]]
    if len(order) > _MAX_AREAS:
        areas.append((f"{len(order) - _MAX_AREAS} others", table[:, order[_MAX_AREAS:]].sum(axis=1)))
    data: list[Part] = [
        {
            "type": "scatter",
            "x": times,
            "y": values.tolist(),
            "mode": "lines",
            "stackgroup": "shares",
            "line": {"width": 0.5, "color": palette.series[position % len(palette.series)]},
            "name": label(name, 24),
            "hovertemplate": "%{x|%Y-%m-%d %H:%M} UTC: %{y:.1%}",
        }
        for position, (name, values) in enumerate(areas)
    ]
    return figure(
        theme,
        data,
        height=260,
        legend=True,
        xaxis={"type": "date", "range": _extent(points)},
        yaxis={"tickformat": ".0%", "range": [0, 1], "title": title(theme, "share of rows")},
    )


def _without_nan(table: Grid) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in table.tolist()]


def density_over_time(
    schema: Schema, index: int, baseline: Window, points: Sequence[Point], *, theme: str
) -> Figure:
    """Every bin by time: where the rows were. Bins are as tall as they are wide in the stream's unit."""
    stream, palette = schema.streams[index], PALETTES[theme]
    if stream.kind is not StreamKind.NUMERIC or not stream.edges:
        return nothing(theme, "categories are shown above")
    several = [point.window.summary(schema, index) for point in points]
    filled = [(point, one) for point, one in zip(points, several, strict=True) if one.n]
    if not filled:
        return nothing(theme, "no values in this span", height=220)
    edges = drawn_edges(stream, [baseline.summary(schema, index), *(one for _, one in filled)])
    starts: list[str] = []
    columns: list[Floats] = []
    for (point, one), (following, _) in zip(filled, [*filled[1:], filled[-1]], strict=True):
        starts.append(when(point.start_ms))
        columns.append(one.share)
        end_ms = point.start_ms + point.bucket_s * 1000
        if following.start_ms > end_ms:
            # Nothing was received then, and nothing is drawn.
            starts.append(when(end_ms))
            columns.append(np.full_like(one.share, math.nan))
    shares = np.array(columns).T
    table = shares / np.diff(edges)[:, np.newaxis]
    positive = table[table > 0]
    trace: Part = {
        "type": "heatmap",
        "x": [*starts, _extent([point for point, _ in filled])[1]],
        "y": edges.tolist(),
        "z": _without_nan(table),
        "zmin": 0,
        # One spike must not leave the rest white.
        "zmax": float(np.quantile(positive, 0.97)) if positive.size else 1.0,
        "hoverongaps": False,
        "colorscale": scale(palette.density),
        "showscale": False,
        "customdata": _without_nan(shares),
        "hovertemplate": "%{x|%Y-%m-%d %H:%M} UTC<br>around %{y:.4g} "
        + label(unit(stream.unit))
        + ": %{customdata:.1%} of rows<extra></extra>",
    }
    return figure(
        theme,
        [trace],
        height=260,
        xaxis={"type": "date", "showgrid": False},
        yaxis={"showgrid": False, "title": title(theme, unit(stream.unit) or stream.name)},
    )


def change_by_stream(schema: Schema, baseline: Window, points: Sequence[Point]) -> dict[int, Floats]:
    """float64[points] for each stream: how far it is from its baseline.

    Numbers: shift of the mean in the baseline's standard deviations. Categories and codes: total variation
    distance, 0 to 1. NaN where a window has no values.
    """
    changes: dict[int, Floats] = {}
    values = np.array([point.window.finite() for point in points], dtype=np.float64)
    sums = np.array([point.window.sum1 for point in points], dtype=np.float64)
    for index, stream in enumerate(schema.streams):
        if stream.kind is StreamKind.NUMERIC:
            centre, spread = _moments(schema, index, baseline)
            means = _means(stream, values[:, index], sums[:, index])
            changes[index] = (means - centre) / (spread or stream.scale or 1.0)
        else:
            reference = baseline.summary(schema, index).share
            several = [point.window.summary(schema, index) for point in points]
            changes[index] = np.array(
                [float(np.abs(one.share - reference).sum() / 2) if one.n else math.nan for one in several]
            )
    return changes


def _means(stream: Stream, values: Floats, sums: Floats) -> Floats:
    """What `Window.summary` says of a numeric stream's mean, of many windows at once."""
    known = (values > 0) & bool(stream.edges)
    z = np.divide(sums, values, out=np.full(len(values), np.nan), where=known)
    means: Floats = stream.center + stream.scale * z / FIXED_POINT
    return means


def small_multiples(
    schema: Schema, baseline: Window, points: Sequence[Point], *, links: Sequence[str], look: Look
) -> Figure:
    """All streams of a device, one little panel each, the most changed first; zero is the baseline.

    Args:
        schema: Of all windows.
        baseline: The reference.
        points: Windows over time.
        links: For each stream of the schema, where a click leads.
        look: Theme and width.
    """
    if not points:
        return nothing(look.theme, "no windows in this span")
    palette, times = look.palette, _times(points)
    changes = change_by_stream(schema, baseline, points)

    def latest(index: int) -> float:
        values = changes[index][np.isfinite(changes[index])]
        return float(values[-1]) if values.size else 0.0

    order = sorted(changes, key=lambda index: (-abs(latest(index)), index))[:MAX_PANELS]
    columns = min(_COLUMNS[look.width], len(order))
    rows = -(-len(order) // columns)
    data: list[Part] = []
    notes: list[Part] = []
    axes: Part = {}
    for position, index in enumerate(order):
        panel = _Panel(position, columns, rows)
        stream, size = schema.streams[index], abs(latest(index))
        numeric = stream.kind is StreamKind.NUMERIC
        colour = palette.bad if size >= _ALARMING else palette.warn if size >= _NOTABLE else palette.now
        finite = changes[index][np.isfinite(changes[index])]
        reach = max(1.0 if numeric else 0.25, float(np.abs(finite).max(initial=0.0)) * 1.1)
        data.append(
            {
                "type": "scatter",
                "x": times,
                "y": [None if math.isnan(value) else round(value, 4) for value in changes[index].tolist()],
                "xaxis": f"x{panel.number}",
                "yaxis": f"y{panel.number}",
                "mode": "lines+markers" if len(points) < 8 else "lines",
                "line": {"color": colour, "width": 1.6},
                "marker": {"size": 4},
                "hovertemplate": "%{x|%Y-%m-%d %H:%M} UTC<br>"
                + ("%{y:+.2f} reference sd" if numeric else "%{y:.0%} of rows moved")
                + "<extra></extra>",
            }
        )
        across, down = panel.domains
        axes[f"xaxis{panel.number}"] = axis(
            palette,
            {
                "domain": across,
                "anchor": f"y{panel.number}",
                "type": "date",
                "showticklabels": False,
                "showgrid": False,
                "automargin": False,
            },
        )
        axes[f"yaxis{panel.number}"] = axis(
            palette,
            {
                "domain": down,
                "anchor": f"x{panel.number}",
                "range": [-reach if numeric else 0, reach],
                "nticks": 3,
                "tickfont": {"color": palette.muted, "size": 9},
                "zeroline": True,
                "zerolinecolor": palette.baseline,
                "zerolinewidth": 1,
                "automargin": False,
            },
        )
        shown = shift(latest(index)) if numeric else f"{size:.0%} moved"
        notes.append(
            {
                "text": f"{label(stream.name, _TITLE_LENGTH[look.width])}  <b>{shown}</b>",
                "x": sum(across) / 2,
                "y": down[1],
                "xref": "paper",
                "yref": "paper",
                "xanchor": "center",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 10 if look.width == "narrow" else 12, "color": palette.ink},
            }
        )
    drawn = figure(
        look.theme,
        data,
        height=_PANEL_HEIGHT * rows + 24,
        margin={"l": 30, "r": 8, "t": 26, "b": 8},
        meta={"links": [links[index] for index in order]},
        annotations=notes,
    )
    # Each panel brings its own pair of axes.
    drawn.layout = {
        name: part for name, part in drawn.layout.items() if name not in ("xaxis", "yaxis")
    } | axes
    return drawn


@dataclass(frozen=True)
class _Panel:
    """One of several plots in a grid, filled row by row from the top."""

    position: int
    columns: int
    rows: int

    @property
    def number(self) -> str:
        """Of its axes; plotly calls the first ones plainly x and y."""
        return "" if self.position == 0 else str(self.position + 1)

    @property
    def domains(self) -> tuple[list[float], list[float]]:
        """Where it lies, from left to right and from bottom to top, as shares of the whole."""
        row, column = divmod(self.position, self.columns)
        left_gap = 0.035 if self.columns > 2 else 0.06
        # Room for the next row's titles.
        top_gap = 0.36 / self.rows if self.rows > 1 else 0.0
        width = (1 - left_gap * (self.columns - 1)) / self.columns
        height = (1 - top_gap * (self.rows - 1)) / self.rows
        left = column * (width + left_gap)
        bottom = 1 - row * (height + top_gap) - height
        return [left, min(1.0, left + width)], [max(0.0, bottom), min(1.0, bottom + height)]
