"""Streams over time: one in full, or all of a device as small multiples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from driftpost_aggregator.web.charts.distribution import (
    Floats,
    category_names,
    drawn_edges,
)
from driftpost_aggregator.web.charts.theme import PALETTES, Look, figure, label, nothing, scale, when
from driftpost_aggregator.web.queries.series import Point
from driftpost_aggregator.web.words import number, shift
from driftpost_aggregator.web.words import unit as unit_words
from driftpost_sketches.schema import Schema, StreamKind
from driftpost_sketches.window import Window

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
    unit = label(unit_words(stream.unit))
    moments = np.array([_moments(schema, index, point.window) for point in points], dtype=np.float64)
    mean, std = moments[:, 0], moments[:, 1]
    drawn = figure(theme, height=260, legend=True)
    drawn.add_trace(
        go.Scatter(
            x=[*times, *times[::-1]],
            y=[*(mean + std).tolist(), *(mean - std)[::-1].tolist()],
            fill="toself",
            fillcolor=palette.now_fill,
            line={"width": 0},
            hoverinfo="skip",
            name="now, mean ± 1 sd",
        )
    )
    drawn.add_trace(
        go.Scatter(
            x=times,
            y=mean.tolist(),
            mode="lines+markers",
            line={"color": palette.now, "width": 2},
            marker={"size": 4},
            name="now, mean",
            customdata=[
                [number(value), number(spread), f"{point.rows:,}"]
                for value, spread, point in zip(mean.tolist(), std.tolist(), points, strict=True)
            ],
            hovertemplate="%{x|%Y-%m-%d %H:%M:%S} UTC<br>mean %{customdata[0]} "
            + unit
            + ", sd %{customdata[1]}<br>%{customdata[2]} rows<extra></extra>",
        )
    )
    centre, spread = _moments(schema, index, baseline)
    if math.isfinite(centre):
        drawn.add_hline(y=centre, line={"color": palette.baseline, "width": 1.5, "dash": "dash"})
        if math.isfinite(spread):
            drawn.add_hrect(
                y0=centre - spread,
                y1=centre + spread,
                fillcolor=palette.baseline_fill,
                line_width=0,
                layer="below",
            )
            drawn.add_trace(
                go.Scatter(
                    x=[None],
                    y=[None],
                    mode="markers",
                    marker={"color": palette.baseline, "symbol": "square", "size": 10},
                    name="baseline, mean ± 1 sd",
                )
            )
    drawn.update_xaxes(type="date", range=_extent(points))
    drawn.update_yaxes(title_text=unit or label(stream.name))
    return drawn


def _shares_over_time(schema: Schema, index: int, points: Sequence[Point], theme: str) -> Figure:
    stream, palette, times = schema.streams[index], PALETTES[theme], _times(points)
    table = np.array([point.window.summary(schema, index).share for point in points])
    order = np.argsort(-table.mean(axis=0), kind="stable")
    order = order[table.mean(axis=0)[order] > 0]
    names = category_names(stream)
    areas = [(names[position], table[:, position]) for position in order[:_MAX_AREAS].tolist()]
    if order.size > _MAX_AREAS:
        areas.append((f"{order.size - _MAX_AREAS} others", table[:, order[_MAX_AREAS:]].sum(axis=1)))
    drawn = figure(theme, height=260, legend=True)
    for position, (name, values) in enumerate(areas):
        drawn.add_trace(
            go.Scatter(
                x=times,
                y=values.tolist(),
                mode="lines",
                stackgroup="shares",
                line={"width": 0.5, "color": palette.series[position % len(palette.series)]},
                name=label(name, 24),
                hovertemplate="%{x|%Y-%m-%d %H:%M} UTC: %{y:.1%}",
            )
        )
    drawn.update_xaxes(type="date", range=_extent(points))
    drawn.update_yaxes(tickformat=".0%", range=[0, 1], title_text="share of rows")
    return drawn


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
    widths = np.diff(edges)
    table = np.array([one.share / widths for _, one in filled]).T
    starts = [when(point.start_ms) for point, _ in filled]
    last = filled[-1][0]
    positive = table[table > 0]
    drawn = figure(theme, height=260)
    drawn.add_trace(
        go.Heatmap(
            x=[*starts, when(last.start_ms + last.bucket_s * 1000)],
            y=edges.tolist(),
            z=table.tolist(),
            zmin=0,
            # One spike must not leave the rest white.
            zmax=float(np.quantile(positive, 0.97)) if positive.size else 1.0,
            colorscale=scale(palette.density),
            showscale=False,
            customdata=np.array([one.share for _, one in filled]).T.tolist(),
            hovertemplate="%{x|%Y-%m-%d %H:%M} UTC<br>around %{y:.4g} "
            + label(stream.unit)
            + ": %{customdata:.1%} of rows<extra></extra>",
        )
    )
    drawn.update_xaxes(type="date", showgrid=False)
    drawn.update_yaxes(showgrid=False, title_text=label(unit_words(stream.unit) or stream.name))
    return drawn


def change_by_stream(schema: Schema, baseline: Window, points: Sequence[Point]) -> dict[int, Floats]:
    """float64[points] for each stream: how far it is from its baseline.

    Numbers: shift of the mean in the baseline's standard deviations. Categories and codes: total variation
    distance, 0 to 1. NaN where a window has no values.
    """
    changes: dict[int, Floats] = {}
    for index, stream in enumerate(schema.streams):
        if stream.kind is StreamKind.NUMERIC:
            centre, spread = _moments(schema, index, baseline)
            means = np.array([_moments(schema, index, point.window)[0] for point in points], dtype=np.float64)
            changes[index] = (means - centre) / (spread or stream.scale or 1.0)
        else:
            reference = baseline.summary(schema, index).share
            several = [point.window.summary(schema, index) for point in points]
            changes[index] = np.array(
                [float(np.abs(one.share - reference).sum() / 2) if one.n else math.nan for one in several]
            )
    return changes


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
    titles = []
    for index in order:
        stream, value = schema.streams[index], latest(index)
        shown = shift(value) if stream.kind is StreamKind.NUMERIC else f"{value:.0%} moved"
        titles.append(f"{label(stream.name, _TITLE_LENGTH[look.width])}  <b>{shown}</b>")
    grid = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=titles,
        horizontal_spacing=0.035 if columns > 2 else 0.06,
        vertical_spacing=min(0.36 / rows, 0.2) if rows > 1 else 0,
    )
    drawn = figure(look.theme, height=_PANEL_HEIGHT * rows + 24)
    grid.update_layout(drawn.layout)
    for position, index in enumerate(order):
        size = abs(latest(index))
        colour = palette.bad if size >= _ALARMING else palette.warn if size >= _NOTABLE else palette.now
        numeric = schema.streams[index].kind is StreamKind.NUMERIC
        grid.add_trace(
            go.Scatter(
                x=times,
                y=[None if math.isnan(value) else round(value, 4) for value in changes[index].tolist()],
                mode="lines+markers" if len(points) < 8 else "lines",
                line={"color": colour, "width": 1.6},
                marker={"size": 4},
                hovertemplate="%{x|%Y-%m-%d %H:%M} UTC<br>"
                + ("%{y:+.2f} reference sd" if numeric else "%{y:.0%} of rows moved")
                + "<extra></extra>",
            ),
            row=position // columns + 1,
            col=position % columns + 1,
        )
        finite = changes[index][np.isfinite(changes[index])]
        reach = max(1.0 if numeric else 0.25, float(np.abs(finite).max(initial=0.0)) * 1.1)
        axis = {"row": position // columns + 1, "col": position % columns + 1}
        grid.update_yaxes(range=[-reach if numeric else 0, reach], nticks=3, zeroline=True, **axis)
        grid.update_yaxes(zerolinecolor=palette.baseline, zerolinewidth=1, tickfont_size=9, **axis)
    grid.update_xaxes(type="date", showticklabels=False, showgrid=False)
    grid.update_annotations(font={"size": 10 if look.width == "narrow" else 12, "color": palette.ink})
    grid.update_layout(
        margin={"l": 30, "r": 8, "t": 26, "b": 8}, meta={"links": [links[index] for index in order]}
    )
    return grid
