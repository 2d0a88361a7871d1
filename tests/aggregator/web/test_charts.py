"""Every chart is a figure that plotly knows, drawn from what the windows really hold."""

from __future__ import annotations

import json
import re
from html import unescape

import numpy as np
import plotly.graph_objects as go
import pytest
from starlette.testclient import TestClient

from busy_fleet import BUNDLE, HOSTILE
from driftpost_aggregator.web.charts.course import MAX_PANELS, change_by_stream, small_multiples
from driftpost_aggregator.web.charts.distribution import (
    MAX_CATEGORIES,
    category_order,
    distribution,
    drawn_edges,
)
from driftpost_aggregator.web.charts.heat import ALARM, Axis, Row, evidence_map
from driftpost_aggregator.web.charts.theme import PALETTES, Look, label, when
from driftpost_aggregator.web.queries.series import Point
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema, Stream
from driftpost_sketches.window import Window
from paper_fleet import NOW

CHARTS = [
    "/charts/fleet?rows=devices",
    "/charts/fleet?rows=devices&span=30d",
    "/charts/fleet?rows=cohorts",
    "/charts/fleet?rows=cohorts&span=7d",
    "/charts/devices/meter-00001/evidence",
    "/charts/devices/meter-00001/streams",
    "/charts/devices/meter-00000/streams?span=1h",
    "/charts/incidents/inc-1/image.brightness",
    "/charts/incidents/inc-2/image.brightness",
    *(
        f"/charts/streams/{BUNDLE}/{kind}/{stream}"
        for kind in ("distribution", "course", "density")
        for stream in ("image.brightness", "output.class", "input.codes", "latency")
    ),
    f"/charts/streams/{BUNDLE}/course/image.brightness?scope=cohort&key=camera%3DB&span=24h",
    f"/charts/streams/{BUNDLE}/distribution/image.brightness?scope=device&key=nobody",
]


def figure(client: TestClient, address: str, **parameters: str) -> go.Figure:
    answer = client.get(address, params=parameters) if parameters else client.get(address)
    assert answer.status_code == 200, answer.text
    # Plotly's own classes refuse every name and value that plotly.js does not know.
    return go.Figure(json.loads(answer.text, parse_constant=pytest.fail))


@pytest.mark.parametrize("address", CHARTS)
@pytest.mark.parametrize(("theme", "width"), [("light", "wide"), ("dark", "narrow")])
def test_every_chart_is_a_valid_plotly_figure(
    client: TestClient, address: str, theme: str, width: str
) -> None:
    joint = "&" if "?" in address else "?"
    drawn = figure(client, f"{address}{joint}theme={theme}&width={width}")
    assert drawn.layout.height >= 100
    assert drawn.layout.font.color == PALETTES[theme].ink


@pytest.mark.parametrize("address", ["/charts/fleet?rows=devices", "/charts/fleet?rows=cohorts"])
def test_a_map_of_an_empty_fleet_says_why_it_is_empty(empty: TestClient, address: str) -> None:
    drawn = figure(empty, address)
    assert len(drawn.data) == 0
    assert drawn.layout.annotations[0].text


def test_an_unchanged_chart_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/charts/devices/meter-00001/streams")
    tag = first.headers["etag"]
    again = client.get("/charts/devices/meter-00001/streams", headers={"if-none-match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    weak = client.get("/charts/devices/meter-00001/streams", headers={"if-none-match": f"W/{tag}"})
    assert weak.status_code == 304
    other = client.get("/charts/devices/meter-00001/streams?theme=dark", headers={"if-none-match": tag})
    assert other.status_code == 200


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/charts/fleet?span=9y", 400),
        ("/charts/fleet?theme=pink", 400),
        ("/charts/fleet?width=9000", 400),
        ("/charts/devices/nobody/streams", 404),
        ("/charts/devices/nobody/evidence", 404),
        ("/charts/incidents/nothing/x", 404),
        ("/charts/incidents/inc-1/nothing", 404),
        (f"/charts/streams/{BUNDLE}/pie/image.brightness", 404),
        (f"/charts/streams/{BUNDLE}/course/nothing", 404),
        ("/charts/streams/nothing/course/x", 404),
    ],
)
def test_charts_that_make_no_sense_are_refused_as_json(client: TestClient, address: str, status: int) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert answer.json()["remedy"]


def test_the_fleets_map_shows_the_alarm_of_the_drifting_devices_to_its_end(client: TestClient) -> None:
    drawn = figure(client, "/charts/fleet?rows=devices&span=1h")
    cells = np.array(drawn.data[0].z, dtype=float)
    names = list(drawn.layout.yaxis.ticktext)
    for name, row in zip(names, cells, strict=True):
        standing = name in {f"meter-{index:05d}" for index in (0, 1, 4, 7, 10)}
        assert bool(row[-1] == ALARM) is standing, name
    assert drawn.layout.meta["links"][0] == f"/devices/{names[0]}"


def test_the_cohorts_map_is_strongest_where_the_camera_went_dim(client: TestClient) -> None:
    drawn = figure(client, "/charts/fleet?rows=cohorts&span=6h")
    last = {
        name: [value for value in row if value is not None][-1]
        for name, row in zip(drawn.layout.yaxis.ticktext, drawn.data[0].z, strict=True)
    }
    assert max(last, key=lambda name: last[name]) == "camera=B"
    assert last["camera=A"] < 0.1 < last["whole fleet"] < last["camera=B"]
    early = {name: row[-40] for name, row in zip(drawn.layout.yaxis.ticktext, drawn.data[0].z, strict=True)}
    assert all(value is None or value < 0.15 for value in early.values())


def test_hostile_names_are_text_in_charts(client: TestClient) -> None:
    for address in ("/charts/fleet?rows=cohorts", "/charts/fleet?rows=devices"):
        texts = list(figure(client, address).layout.yaxis.ticktext)
        assert not [text for text in texts if "<" in text]
    assert any(HOSTILE[:10] in unescape(text) for text in texts)


def test_labels_lose_what_plotly_or_a_terminal_could_read_as_more_than_text() -> None:
    assert label("<b>x</b>&amp;") == "&lt;b&gt;x&lt;/b&gt;&amp;amp;"
    assert "\x1b" not in label("\x1b[31mred\n")
    assert len(unescape(label("x" * 500))) == 40


def test_times_that_no_calendar_has_do_not_break_a_chart() -> None:
    assert when(10**18) == ""
    assert when(0) == "1970-01-01T00:00:00.000"


def window(schema: Schema, values: np.ndarray) -> Window:
    accumulator = WindowAccumulator(schema)
    accumulator.update(values)
    return accumulator.take()[0]


@pytest.fixture(scope="module")
def numeric() -> Schema:
    return Schema([fit_numeric("level", np.random.default_rng(1).normal(0, 1, 5000), Role.INPUT, "m")])


def test_areas_of_a_distribution_are_shares_whatever_the_bins_widths(numeric: Schema) -> None:
    generator = np.random.default_rng(2)
    then, now = (window(numeric, generator.normal(shift, 1, (4000, 1))) for shift in (0, 1))
    drawn = go.Figure(json.loads(distribution(numeric, 0, then, now, theme="light").to_json()))
    bars, line = drawn.data
    assert np.dot(bars.width, bars.y) == pytest.approx(1.0)
    x, y = np.array(line.x), np.array(line.y)
    assert np.sum(np.diff(x) * y[1:]) == pytest.approx(1.0)
    assert "4,000" in bars.name


def test_one_wild_value_does_not_squeeze_the_picture(numeric: Schema) -> None:
    tame = window(numeric, np.zeros((10, 1)))
    wild = window(numeric, np.array([[1e9], [-1e9]]))
    edges = drawn_edges(numeric.streams[0], [tame.summary(numeric, 0), wild.summary(numeric, 0)])
    assert np.all(np.diff(edges) > 0)
    assert np.abs(edges).max() < 20


@pytest.mark.parametrize("rows", [np.zeros((0, 1)), np.full((5, 1), np.nan), np.full((5, 1), np.inf)])
def test_streams_without_values_are_drawn_as_nothing_but_words(numeric: Schema, rows: np.ndarray) -> None:
    empty = window(numeric, rows) if rows.size else Window.empty(numeric)
    drawn = distribution(numeric, 0, empty, empty, theme="dark")
    assert drawn.data == []
    assert go.Figure(json.loads(drawn.to_json())).layout.annotations[0].text


def test_a_stream_of_one_constant_is_drawn() -> None:
    schema = Schema([fit_numeric("constant", np.full(500, 3.0), Role.INPUT)])
    held = window(schema, np.full((50, 1), 3.0))
    drawn = distribution(schema, 0, held, held, theme="light")
    assert go.Figure(json.loads(drawn.to_json())).layout.height


def test_categories_stand_in_their_own_order_and_the_many_are_summed_up() -> None:
    generator = np.random.default_rng(3)
    digits = generator.choice(40, 4000, p=np.arange(1, 41) / 820).astype(float)
    schema = Schema([fit_categorical("digit", digits, Role.OUTPUT)])
    held = window(schema, digits[:, np.newaxis])
    assert [
        schema.streams[0].categories[position] for position in category_order(schema.streams[0])[:-1]
    ] == sorted(schema.streams[0].categories)
    drawn = go.Figure(json.loads(distribution(schema, 0, held, held, theme="light").to_json()))
    texts = list(drawn.layout.xaxis.ticktext)
    assert len(texts) == MAX_CATEGORIES + 1
    assert texts[-1] == "16 others"
    assert [int(text) for text in texts[:-1]] == sorted(int(text) for text in texts[:-1])
    assert sum(drawn.data[0].y) == pytest.approx(1.0)


def test_a_category_never_seen_before_has_its_own_bar() -> None:
    schema = Schema([fit_categorical("digit", np.arange(4.0).repeat(50), Role.OUTPUT)])
    then, now = window(schema, np.arange(4.0)[:, np.newaxis]), window(schema, np.array([[1.0], [9.0]]))
    drawn = go.Figure(json.loads(distribution(schema, 0, then, now, theme="light").to_json()))
    assert drawn.layout.xaxis.ticktext[-1] == "never seen before"
    assert drawn.data[1].y[-1] == 0.5


def test_more_streams_than_fit_are_drawn_as_the_most_changed_ones() -> None:
    generator = np.random.default_rng(4)
    reference = generator.normal(0, 1, (600, MAX_PANELS + 5))
    schema = Schema(
        [fit_numeric(f"s{index}", column, Role.INPUT) for index, column in enumerate(reference.T)]
    )
    then = window(schema, reference)
    moved = generator.normal(0, 1, (200, MAX_PANELS + 5))
    moved[:, -1] += 5
    points = [Point(NOW, 300, 200, 1, window(schema, moved))]
    links = [f"/{index}" for index in range(len(schema.streams))]
    drawn = small_multiples(schema, then, points, links=links, look=Look())
    valid = go.Figure(json.loads(drawn.to_json()))
    assert len(valid.data) == MAX_PANELS
    assert valid.layout.meta["links"][0] == f"/{MAX_PANELS + 4}"
    assert re.match(rf"s{MAX_PANELS + 4}  <b>\+5", valid.layout.annotations[0].text)
    for number in range(1, MAX_PANELS + 1):
        low, high = valid.layout[f"yaxis{'' if number == 1 else number}"].domain
        assert 0 <= low < high <= 1


def test_a_devices_panels_show_the_means_that_its_windows_tell_one_by_one() -> None:
    generator = np.random.default_rng(6)
    values = generator.normal(5, 2, (300, 2))
    values[:, 1] = 3.0
    schema = Schema(
        [fit_numeric(name, values[:, at], Role.INPUT) for at, name in enumerate(("level", "flat"))]
    )
    parts = [values[:50], values[50:60] + 1, np.full((4, 2), np.nan), values[60:] * 1.5]
    windows = [window(schema, part) for part in parts]
    points = [Point(NOW + 1_000 * at, 1, one.rows, 1, one) for at, one in enumerate(windows)]
    baseline = window(schema, values)
    found = change_by_stream(schema, baseline, points)
    for index, stream in enumerate(schema.streams):
        told = np.array([one.summary(schema, index).mean for one in windows])
        then = baseline.summary(schema, index)
        np.testing.assert_array_equal(found[index], (told - then.mean) / (then.std or stream.scale))
    assert np.isnan(found[0]).tolist() == [False, False, True, False]


def test_an_axis_covers_its_span_with_cells_no_shorter_than_a_window() -> None:
    axis = Axis.over(1000, 61_000, 10_000, 96)
    assert (axis.cells, axis.cell_ms) == (6, 10_000)
    wide = Axis.over(0, 86_400_000, 1000, 96)
    assert (wide.cells, wide.cell_ms) == (96, 900_000)
    assert axis.cell(1000) == 0
    assert axis.cell(60_999) == 5
    assert axis.covered(0, 999) == slice(0, 0)
    assert axis.covered(-50_000, 200_000) == slice(0, 6)
    assert axis.covered(11_000, 20_999) == slice(1, 2)
    assert len(axis.starts()) == 7


def test_evidence_goes_from_calm_to_alarm_without_a_gap_in_the_colours() -> None:
    axis = Axis(NOW, 1000, 3)
    drawn = evidence_map(Look(), [Row("d", "/devices/d")], axis, np.array([[0.0, np.nan, ALARM]]))
    valid = go.Figure(json.loads(drawn.to_json()))
    assert list(valid.data[0].z[0]) == [0.0, None, ALARM]
    assert list(valid.data[0].text[0]) == ["0 % of the alarm threshold", "", "in alarm"]
    positions = [position for position, _ in valid.data[0].colorscale]
    assert (positions[0], positions[-1]) == (0.0, 1.0)
    assert positions == sorted(positions)


def test_every_text_colour_can_be_read_on_what_it_stands_on() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[position : position + 2], 16) / 255 for position in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for palette in PALETTES.values():
        for colour in (palette.ink, palette.muted):
            light, dark = sorted((luminance(colour), luminance(palette.surface)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5
        steps = [luminance(colour) for colour in palette.heat]
        assert steps == sorted(steps) or steps == sorted(steps, reverse=True), (
            "the scale rises or falls throughout"
        )


def test_streams_are_values_not_markup(numeric: Schema) -> None:
    schema = Schema([Stream(**{**numeric.streams[0].to_dict(), "name": HOSTILE, "unit": "<i>m</i>"})])
    held = window(schema, np.zeros((5, 1)))
    assert "<img" not in distribution(schema, 0, held, held, theme="light", now_name=HOSTILE).to_json()
