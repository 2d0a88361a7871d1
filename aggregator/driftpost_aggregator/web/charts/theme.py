"""Colours and layout of all charts, for light and for dark pages; they match static/style.css."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

from driftpost_aggregator.web.words import moment

# A part of a figure: names as in plotly.js's reference.
Part: TypeAlias = dict[str, object]

THEMES = ("light", "dark")
# How much room a chart has; decides how many small ones stand side by side.
WIDTHS = ("narrow", "medium", "wide")

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Palette:
    """Colours by what they mean.

    Attributes:
        ink, muted: Text, and lesser text.
        line: Grid and axes.
        surface: What charts stand on.
        baseline: The reference.
        now: What is measured now.
        warn, bad: Notable, and alarming.
        quiet: Heat map cell without evidence.
        heat: From quiet to alarming, luminance rising or falling all the way.
        series: Several categories side by side; told apart by people who do not see red and green.
    """

    ink: str
    muted: str
    line: str
    surface: str
    baseline: str
    baseline_fill: str
    now: str
    now_fill: str
    warn: str
    bad: str
    quiet: str
    heat: tuple[str, ...]
    density: tuple[str, ...]
    series: tuple[str, ...]


PALETTES = {
    "light": Palette(
        ink="#1a2330",
        muted="#566272",
        line="#e1e6ec",
        surface="#ffffff",
        baseline="#8793a1",
        baseline_fill="rgba(135,147,161,0.28)",
        now="#1d5fae",
        now_fill="rgba(29,95,174,0.16)",
        warn="#b26a00",
        bad="#b3261e",
        quiet="#edf1f5",
        heat=("#edf1f5", "#f8dc9b", "#f0a94a", "#d9622b", "#a81e1e"),
        density=("#ffffff", "#cfe0f3", "#86b3e0", "#3a7fc4", "#12457f"),
        series=("#1d5fae", "#c8722a", "#2f8f6b", "#8a5fb0", "#b5495f", "#6d7b3c", "#3a8fa8", "#8793a1"),
    ),
    "dark": Palette(
        ink="#e6ebf1",
        muted="#9ca9b8",
        line="#2a343f",
        surface="#161d25",
        baseline="#7d8a99",
        baseline_fill="rgba(125,138,153,0.30)",
        now="#6cb0f2",
        now_fill="rgba(108,176,242,0.18)",
        warn="#e3aa45",
        bad="#f47a6f",
        quiet="#1f2933",
        heat=("#1f2933", "#5a4420", "#a8681f", "#e5893c", "#ff9d8a"),
        density=("#161d25", "#1d3a57", "#2b629a", "#4f97da", "#b5dbff"),
        series=("#6cb0f2", "#e39a56", "#5fc39b", "#b795dc", "#e5839a", "#aebb70", "#6cc3db", "#7d8a99"),
    ),
}


@dataclass(frozen=True)
class Look:
    """What the browser says about itself.

    Attributes:
        theme: One of THEMES.
        width: One of WIDTHS.
    """

    theme: str = "light"
    width: str = "wide"

    @property
    def palette(self) -> Palette:
        """Colours of the theme."""
        return PALETTES[self.theme]


def scale(colours: Sequence[str]) -> list[list[float | str]]:
    """A plotly colour scale with evenly spaced stops."""
    last = len(colours) - 1
    return [[position / last, colour] for position, colour in enumerate(colours)]


@dataclass
class Figure:
    """A plotly figure.

    Attributes:
        data: Traces, as plotly.js takes them.
        layout: Layout, likewise.
    """

    data: list[Part]
    layout: Part

    def to_json(self) -> str:
        """What the page's script fetches.

        Raises:
            ValueError: a number that JSON does not have.
        """
        return json.dumps({"data": self.data, "layout": self.layout}, allow_nan=False, separators=(",", ":"))


def figure(
    theme: str,
    data: list[Part],
    *,
    height: int,
    legend: bool = False,
    xaxis: Part | None = None,
    yaxis: Part | None = None,
    **layout: object,
) -> Figure:
    """A chart in our looks.

    Args:
        theme: One of THEMES.
        data: What to draw.
        height: Pixels.
        legend: Whether to name the traces above the plot.
        xaxis: What differs from our usual axis.
        yaxis: Likewise.
        layout: What differs from our usual layout.
    """
    palette = PALETTES[theme]
    return Figure(
        data,
        {
            "height": height,
            "autosize": True,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": _FONT, "size": 12, "color": palette.ink},
            "margin": {"l": 48, "r": 12, "t": 28 if legend else 10, "b": 34},
            "showlegend": legend,
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 1.02,
                "xanchor": "left",
                "yanchor": "bottom",
                "font": {"color": palette.muted, "size": 12},
                "itemclick": False,
                "itemdoubleclick": False,
            },
            "hoverlabel": {
                "bgcolor": palette.surface,
                "bordercolor": palette.line,
                "font": {"color": palette.ink, "family": _FONT, "size": 12},
                "align": "left",
            },
            "dragmode": False,
            "xaxis": axis(palette, xaxis),
            "yaxis": axis(palette, yaxis),
            **layout,
        },
    )


def axis(palette: Palette, differing: Part | None = None) -> Part:
    """An axis in our looks, with what differs."""
    return {
        "gridcolor": palette.line,
        "zerolinecolor": palette.line,
        "tickfont": {"color": palette.muted, "size": 11},
        "automargin": True,
        "fixedrange": True,
        "ticks": "",
        **(differing or {}),
    }


def title(theme: str, text: str) -> Part:
    """An axis title."""
    return {"text": label(text, 60), "font": {"color": PALETTES[theme].muted, "size": 12}, "standoff": 6}


def nothing(theme: str, sentence: str, *, height: int = 160) -> Figure:
    """A chart that says why it is empty."""
    note = {
        "text": label(sentence, 80),
        "x": 0.5,
        "y": 0.5,
        "xref": "paper",
        "yref": "paper",
        "showarrow": False,
        "font": {"color": PALETTES[theme].muted, "size": 13},
    }
    hidden: Part = {"visible": False}
    return figure(theme, [], height=height, xaxis=hidden, yaxis=hidden, annotations=[note])


def label(text: str, longest: int = 40) -> str:
    """A name for a chart's text: plotly reads tags and entities in it, so they are escaped."""
    shown = text if len(text) <= longest else text[: longest - 1] + "…"
    return escape("".join(letter if letter.isprintable() else "�" for letter in shown))


def when(ms: int) -> str:
    """A time for a date axis; plotly knows no zones, and all of ours are UTC."""
    time = moment(ms)
    return "" if time is None else time.replace(tzinfo=None).isoformat(timespec="milliseconds")
