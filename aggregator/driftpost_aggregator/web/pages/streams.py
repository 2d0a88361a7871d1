"""Streams of a model, and one stream: baseline against now."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web import parameters
from driftpost_aggregator.web.errors import NotKnown
from driftpost_aggregator.web.models import Model
from driftpost_aggregator.web.queries import series
from driftpost_aggregator.web.rendering import page
from driftpost_aggregator.web.site import Site, site_of
from driftpost_aggregator.web.stream_table import NOW_BUCKETS, stream_table


def scope_of(request: Request) -> tuple[str, str]:
    """Scope and key that an address asks for.

    Raises:
        BadParameter: it makes no sense.
    """
    scope = parameters.choice(request, "scope", series.SCOPES, "fleet")
    return scope, "" if scope == "fleet" else parameters.text(request, "key")


def model_of(site: Site, bundle: str) -> Model:
    """The model of a bundle.

    Raises:
        NotKnown: the aggregator has not been told of it.
    """
    with reading(site.engine) as connection:
        model = site.models.get(connection, bundle)
    if model is None:
        raise NotKnown(f"no bundle {bundle!r}", "bundles are listed at /streams and at /api/v1/bundles")
    return model


def stream_of(model: Model, name: str) -> int:
    """Index of a stream.

    Raises:
        NotKnown: the model has none of that name.
    """
    for index, stream in enumerate(model.schema.streams):
        if stream.name == name:
            return index
    raise NotKnown(
        f"{model.title} has no stream {name!r}", f"its streams are listed at /streams?bundle={model.bundle}"
    )


def listing(request: Request) -> Response:
    """`/streams`"""
    site = site_of(request)
    scope, key = scope_of(request)
    bundle = parameters.text(request, "bundle")
    span = parameters.choice(request, "span", tuple(parameters.SPANS), "6h")
    now_ms = site.now_ms()
    with reading(site.engine) as connection:
        bundles = site.models.newest(connection)
        running = series.bundles_of(connection, scope, key)
        chosen = bundle or next(iter(running), bundles[0].bundle if bundles else "")
        model = site.models.get(connection, chosen) if chosen else None
        if bundle and model is None:
            raise NotKnown(f"no bundle {bundle!r}", "choose one at /streams")
        points = (
            series.points(
                connection,
                scope,
                key,
                model.bundle,
                from_ms=now_ms - 1000 * parameters.SPANS[span],
                to_ms=now_ms,
                most=NOW_BUCKETS,
            )
            if model
            else []
        )
    values = {
        "bundles": bundles,
        "model": model,
        "scope": scope,
        "key": key,
        "menus": site.attributes(),
        "span": span,
        "points": points,
        "streams": stream_table(model, [point.window for point in points], scope, key) if model else [],
    }
    return page(request, "streams.html", values, section="/streams", topics=("windows",))


def one(request: Request) -> Response:
    """`/streams/{bundle}/{stream}`"""
    site = site_of(request)
    scope, key = scope_of(request)
    span = parameters.choice(request, "span", tuple(parameters.SPANS), "6h")
    model = model_of(site, request.path_params["bundle"])
    index = stream_of(model, request.path_params["stream"])
    now_ms = site.now_ms()
    with reading(site.engine) as connection:
        points = series.points(
            connection,
            scope,
            key,
            model.bundle,
            from_ms=now_ms - 1000 * parameters.SPANS[span],
            to_ms=now_ms,
            most=NOW_BUCKETS,
        )
    lines = stream_table(model, [point.window for point in points], scope, key)
    stream = model.schema.streams[index]
    values = {
        "model": model,
        "stream": stream,
        "line": next(line for line in lines if line.name == stream.name),
        "others": [line for line in lines if line.name != stream.name][:12],
        "scope": scope,
        "key": key,
        "menus": site.attributes(),
        "span": span,
        "points": points,
    }
    return page(request, "stream.html", values, section="/streams", topics=("windows",))
