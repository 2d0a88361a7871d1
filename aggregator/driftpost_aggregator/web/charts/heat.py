"""Heat maps: rows of things by time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from driftpost_aggregator.web.charts.theme import Figure, Look, Part, figure, label, nothing, scale, when

# Cell columns: about one for every ten pixels.
COLUMNS = {"narrow": 32, "medium": 64, "wide": 96}
# Characters of a row's name; a phone has little room beside the cells.
_NAME_LENGTH = {"narrow": 14, "medium": 24, "wide": 28}
_ROW_HEIGHT = 19
_FRAME_HEIGHT = 62
# Value of a cell whose alarm stands: just above the end of the scale of evidence, 0 to 100 %.
ALARM = 112.0

Grid = np.ndarray[tuple[int, int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Row:
    """One line of a heat map.

    Attributes:
        name: Shown at its left.
        link: Where a click leads, or "".
    """

    name: str
    link: str = ""


@dataclass(frozen=True)
class Axis:
    """Equal cells of time.

    Attributes:
        from_ms: Unix time where the first cell starts.
        cell_ms: Length of a cell.
        cells: How many.
    """

    from_ms: int
    cell_ms: int
    cells: int

    @classmethod
    def over(cls, from_ms: int, to_ms: int, shortest_cell_ms: float, cells: int) -> Axis:
        """At most `cells` cells over a span, none shorter than `shortest_cell_ms`."""
        span = max(1, to_ms - from_ms)
        cell_ms = max(1, round(shortest_cell_ms), -(-span // cells))
        return cls(from_ms, cell_ms, -(-span // cell_ms))

    def cell(self, ms: int) -> int:
        """Index of the cell that holds a time; outside 0..cells-1 if none does."""
        return (ms - self.from_ms) // self.cell_ms

    def covered(self, from_ms: int, to_ms: int) -> slice:
        """The cells that a stretch of time touches, none if it lies outside."""
        first, last = self.cell(from_ms), self.cell(to_ms)
        return slice(max(0, first), max(0, min(self.cells, last + 1)))

    def starts(self) -> list[str]:
        """Where cells start, and where the last one ends, for a date axis."""
        return [when(self.from_ms + position * self.cell_ms) for position in range(self.cells + 1)]


def _drawn(look: Look, rows: Sequence[Row], axis: Axis, trace: Part) -> Figure:
    starts = axis.starts()
    return figure(
        look.theme,
        [
            {
                "type": "heatmap",
                "x": starts,
                "y": list(range(len(rows))),
                "xgap": 1,
                "ygap": 1,
                "zmin": 0,
                "showscale": False,
                "hoverongaps": False,
                # One name a row would do, but plotly looks for one in every cell.
                "customdata": [[label(row.name, 60)] * axis.cells for row in rows],
                **trace,
            }
        ],
        height=_FRAME_HEIGHT + _ROW_HEIGHT * len(rows),
        xaxis={
            "type": "date",
            "showgrid": False,
            "tickangle": 0,
            "nticks": 4 if look.width == "narrow" else 10,
            "range": [starts[0], starts[-1]],
        },
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(rows))),
            "ticktext": [label(row.name, _NAME_LENGTH[look.width]) for row in rows],
            "autorange": "reversed",
            "showgrid": False,
            "zeroline": False,
        },
        margin={"l": 8, "r": 8, "t": 4, "b": 30},
        hovermode="closest",
        meta={"links": [row.link for row in rows]},
    )


def _cells(values: Grid) -> list[list[float | None]]:
    return [[None if math.isnan(value) else round(value, 3) for value in row] for row in values.tolist()]


def evidence_map(look: Look, rows: Sequence[Row], axis: Axis, values: Grid) -> Figure:
    """Evidence of drift, 0 to 100 % of the alarm threshold, and ALARM where an alarm stands.

    Args:
        look: Theme and width.
        rows: One for each row of `values`.
        axis: One cell for each column of `values`.
        values: float64[rows, cells]; NaN where nothing was received.
    """
    if not rows:
        return nothing(look.theme, "no devices yet")
    if np.isnan(values).all():
        return nothing(look.theme, "nothing was received in this span")
    heat = look.palette.heat
    colours: list[list[float | str]] = [
        [100 * position / (len(heat) - 2) / ALARM, colour] for position, colour in enumerate(heat[:-1])
    ]
    colours += [[101 / ALARM, heat[-1]], [1.0, heat[-1]]]
    texts = [
        [
            ""
            if math.isnan(value)
            else "in alarm"
            if value > 100
            else f"{value:.0f} % of the alarm threshold"
            for value in row
        ]
        for row in values.tolist()
    ]
    trace: Part = {
        "z": _cells(values),
        "zmax": ALARM,
        "colorscale": colours,
        "text": texts,
        "hovertemplate": "%{customdata}<br>%{x|%Y-%m-%d %H:%M} UTC<br>%{text}<extra></extra>",
    }
    return _drawn(look, rows, axis, trace)


# Effects from this on are drawn in the strongest colour, reference standard deviations.
_STRONG_EFFECT = 1.0


def effect_map(
    look: Look, rows: Sequence[Row], axis: Axis, values: Grid, streams: Sequence[Sequence[str]]
) -> Figure:
    """Largest change of any stream, in reference standard deviations.

    Args:
        look: Theme and width.
        rows: One for each row of `values`.
        axis: One cell for each column of `values`.
        values: float64[rows, cells], not negative; NaN where nothing was received.
        streams: For each cell the stream that changed most.
    """
    if not rows or np.isnan(values).all():
        return nothing(look.theme, "nothing was received in this span")
    trace: Part = {
        "z": _cells(values),
        "zmax": _STRONG_EFFECT,
        "colorscale": scale(look.palette.heat),
        "text": [[label(name, 60) if name else "nothing beyond chance" for name in row] for row in streams],
        "hovertemplate": "%{customdata}<br>%{x|%Y-%m-%d %H:%M} UTC<br>"
        "%{text}: %{z:.2f} reference sd<extra></extra>",
    }
    return _drawn(look, rows, axis, trace)
