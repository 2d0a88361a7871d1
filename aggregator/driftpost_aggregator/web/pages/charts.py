"""Charts as JSON for the page's script; each answer has an ETag, so an unchanged chart is not drawn again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web import maps, parameters
from driftpost_aggregator.web.charts.course import density_over_time, over_time, small_multiples
from driftpost_aggregator.web.charts.distribution import distribution
from driftpost_aggregator.web.charts.theme import THEMES, WIDTHS, Figure, Look, nothing
from driftpost_aggregator.web.errors import NotKnown
from driftpost_aggregator.web.incident_data import incident_window
from driftpost_aggregator.web.links import stream_address
from driftpost_aggregator.web.models import Model
from driftpost_aggregator.web.pages.streams import model_of, scope_of, stream_of
from driftpost_aggregator.web.queries import devices, incidents, series
from driftpost_aggregator.web.site import Site, site_of
from driftpost_aggregator.web.stream_table import NOW_BUCKETS
from driftpost_aggregator.web.words import scope as scope_words


def _theme(request: Request) -> str:
    return parameters.choice(request, "theme", THEMES, "light")


def _look(request: Request) -> Look:
    return Look(_theme(request), parameters.choice(request, "width", WIDTHS, "wide"))


def _answer(request: Request, draw: Callable[[Connection], Figure]) -> Response:
    """The chart, computed at most once in a few seconds for everyone who looks at it."""
    site = site_of(request)

    def drawn() -> str:
        with reading(site.engine) as connection:
            return draw(connection).to_json()

    key = (request.url.path, tuple(sorted(request.query_params.multi_items())))
    body = site.drawings.get(key, drawn).encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match", "").removeprefix("W/") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def fleet_map(request: Request) -> Response:
    """`/charts/fleet`: heat map of devices or cohorts by time."""
    site, look = site_of(request), _look(request)
    span_s = parameters.span_s(request, "6h")
    if parameters.choice(request, "rows", ("devices", "cohorts"), "devices") == "cohorts":
        return _answer(
            request,
            lambda connection: maps.cohort_map(site, connection, span_s=span_s, look=look),
        )
    return _answer(
        request,
        lambda connection: maps.device_map(site, connection, span_s=span_s, look=look),
    )


def _model_of_device(site: Site, connection: Connection, name: str) -> Model | None:
    device = devices.device_named(connection, name)
    if device is None:
        raise NotKnown(f"no device named {name!r}", "find it at /devices")
    return site.models.get(connection, device.bundle) if device.bundle else None


def device_evidence(request: Request) -> Response:
    """`/charts/devices/{device}/evidence`: heat map of its streams by time."""
    site, look, name = site_of(request), _look(request), request.path_params["device"]
    span_s = parameters.span_s(request, "6h")

    def draw(connection: Connection) -> Figure:
        model = _model_of_device(site, connection, name)
        if model is None:
            return nothing(look.theme, "the device has not described its bundle yet")
        return maps.stream_map(site, connection, name, model, span_s=span_s, look=look)

    return _answer(request, draw)


def device_streams(request: Request) -> Response:
    """`/charts/devices/{device}/streams`: all its streams over time, small."""
    site, look, name = site_of(request), _look(request), request.path_params["device"]
    span_ms = 1000 * parameters.span_s(request, "6h")

    def draw(connection: Connection) -> Figure:
        model = _model_of_device(site, connection, name)
        if model is None:
            return nothing(look.theme, "the device has not described its bundle yet")
        now_ms = site.now_ms()
        points = series.points(
            connection, "device", name, model.bundle, from_ms=now_ms - span_ms, to_ms=now_ms
        )
        links = [stream_address(model.bundle, stream.name, "device", name) for stream in model.schema.streams]
        return small_multiples(model.schema, model.baseline, points, links=links, look=look)

    return _answer(request, draw)


def stream_chart(request: Request) -> Response:
    """`/charts/streams/{bundle}/{kind}/{stream}`: distribution, course or density of one stream."""
    site, theme = site_of(request), _theme(request)
    scope, key = scope_of(request)
    span_ms = 1000 * parameters.span_s(request, "6h")
    model = model_of(site, request.path_params["bundle"])
    index = stream_of(model, request.path_params["stream"])
    kind = request.path_params["kind"]
    if kind not in ("distribution", "course", "density"):
        raise NotKnown(f"no chart {kind!r} of a stream", "ask for distribution, course or density")

    def draw(connection: Connection) -> Figure:
        now_ms = site.now_ms()
        from_ms = now_ms - span_ms
        if kind == "distribution":
            newest = series.points(
                connection, scope, key, model.bundle, from_ms=from_ms, to_ms=now_ms, most=NOW_BUCKETS
            )
            now = series.merged([point.window for point in newest])
            return distribution(
                model.schema, index, model.baseline, now, theme=theme, now_name=key or "fleet now", height=320
            )
        points = series.course(connection, scope, key, model.bundle, from_ms=from_ms, to_ms=now_ms)
        drawing = over_time if kind == "course" else density_over_time
        return drawing(model.schema, index, model.baseline, points, theme=theme)

    return _answer(request, draw)


def incident_stream(request: Request) -> Response:
    """`/charts/incidents/{incident}/{stream}`: then and now of one stream in an incident."""
    site, theme, name = site_of(request), _theme(request), request.path_params["incident"]

    def draw(connection: Connection) -> Figure:
        incident = incidents.incident_named(connection, name)
        if incident is None:
            raise NotKnown(f"no incident {name!r}", "find it at /incidents?state=all")
        model = site.models.get(connection, incident.bundle) if incident.bundle else None
        if model is None:
            return nothing(theme, "this incident is about devices, not about a stream")
        index = stream_of(model, request.path_params["stream"])
        now = incident_window(connection, incident, now_ms=site.now_ms())
        if now is None:
            return nothing(theme, "no merged windows since the onset yet")
        words = scope_words(incident.scope, incident.attributes, incident.scope_key)
        return distribution(
            model.schema,
            index,
            model.baseline,
            now,
            theme=theme,
            now_name=words,
            height=190,
            legend=False,
        )

    return _answer(request, draw)
