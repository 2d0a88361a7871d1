"""The dashboard as one ASGI application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import anyio
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web import alerts_api, api, labels_api, live, metrics
from driftpost_aggregator.web.access import SameOrigin, TokenRequired
from driftpost_aggregator.web.answers import problem
from driftpost_aggregator.web.assets import assets
from driftpost_aggregator.web.errors import RequestError
from driftpost_aggregator.web.headers import SecurityHeaders
from driftpost_aggregator.web.models import Models
from driftpost_aggregator.web.options import WebOptions
from driftpost_aggregator.web.pages import alerts, charts, devices, fleet, incidents, labels, lists, streams
from driftpost_aggregator.web.queries.changes import stamps
from driftpost_aggregator.web.rendering import environment, page
from driftpost_aggregator.web.site import Site, site_of
from driftpost_sync.settings import Settings

# Level 5 packs a page of 100 kB in 2 ms, to within a few percent of the best.
_GZIP_LEVEL = 5


def unix_ms() -> int:
    """Unix time, milliseconds, by this machine's clock."""
    return time.time_ns() // 1_000_000


async def _live(request: Request) -> Response:
    """`/live`: Server-Sent Events."""
    return live.stream(site_of(request).watcher)


def _asset(request: Request) -> Response:
    """`/assets/{version}/{name}`"""
    return assets().serve(request)


_API = (
    ("fleet", api.get_fleet, "GET"),
    ("coverage", api.get_coverage, "GET"),
    ("devices", api.get_devices, "GET"),
    ("devices/{device}", api.get_device, "GET"),
    ("findings", api.get_findings, "GET"),
    ("incidents", api.get_incidents, "GET"),
    ("incidents/{incident}", api.get_incident, "GET"),
    ("incidents/{incident}/devices", api.get_members, "GET"),
    ("incidents/{incident}/actions", api.post_action, "POST"),
    ("requests", api.get_requests, "GET"),
    ("requests/{request}", api.get_request, "GET"),
    ("requests/{request}/event", api.get_event, "GET"),
    ("requests/{request}/status", api.post_status, "POST"),
    ("labels", labels_api.get_labels, "GET"),
    ("labels", labels_api.post_labels, "POST"),
    ("labels/{push}", labels_api.get_push, "GET"),
    ("alerts", alerts_api.get_alerts, "GET"),
    ("quarantine", api.get_quarantine, "GET"),
    ("bundles", api.get_bundles, "GET"),
    ("bundles/{bundle}", api.get_bundle, "GET"),
    # A stream's name may hold slashes.
    ("streams/{bundle}/{stream:path}", api.get_stream, "GET"),
)

ROUTES = [
    Route("/", fleet.overview),
    Route("/devices", devices.listing),
    Route("/devices/{device}", devices.one),
    Route("/incidents", incidents.listing),
    Route("/incidents/{incident}", incidents.one),
    Route("/incidents/{incident}/actions", incidents.act, methods=["POST"]),
    Route("/streams", streams.listing),
    Route("/streams/{bundle}/{stream:path}", streams.one),
    Route("/requests", lists.retrain_requests),
    Route("/requests/{request}", lists.retrain_request),
    Route("/labels", labels.listing),
    Route("/alerts", alerts.listing),
    Route("/quarantine", lists.refused),
    Route("/charts/fleet", charts.fleet_map),
    Route("/charts/devices/{device}/evidence", charts.device_evidence),
    Route("/charts/devices/{device}/streams", charts.device_streams),
    Route("/charts/incidents/{incident}/{stream:path}", charts.incident_stream),
    Route("/charts/streams/{bundle}/{kind}/{stream:path}", charts.stream_chart),
    Route("/assets/{version}/{name}", _asset),
    Route("/live", _live),
    Route("/health", metrics.health),
    Route("/metrics", metrics.metrics),
    *(Route(f"/api/v1/{path}", handler, methods=[method]) for path, handler, method in _API),
]


def _for_programs(request: Request) -> bool:
    path = request.url.path
    return path.startswith(("/api/", "/charts/", "/live", "/metrics", "/health", "/assets/"))


def _refusal(request: Request, status: int, title: str, remedy: str) -> Response:
    if _for_programs(request):
        return problem(status, title, remedy)
    values = {"status": status, "phrase": HTTPStatus(status).phrase, "title": title, "remedy": remedy}
    return page(request, "error.html", values, status=status)


def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _refusal(request, error.status, error.title, error.remedy)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title, remedy = {
        404: ("there is nothing at this address", "start from the fleet's page at /"),
        405: (f"{request.method} is not possible here", "see docs/dashboard.md for what is"),
    }.get(error.status_code, (error.detail, "check the request"))
    answer = _refusal(request, error.status_code, title, remedy)
    for name, value in (error.headers or {}).items():
        answer.headers[name] = value
    return answer


def _database_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SQLAlchemyError)
    return _refusal(
        request,
        503,
        "the database does not answer as it should",
        "try again in a moment; the aggregator's log has the details",
    )


def _mistake(request: Request, error: Exception) -> Response:
    # Starlette logs it with its trace, and the server goes on.
    return _refusal(
        request,
        500,
        "the dashboard made a mistake",
        f"the aggregator's log has the details ({type(error).__name__}); please report it",
    )


def build(engine: Engine, options: WebOptions, *, now_ms: Callable[[], int] = unix_ms) -> Starlette:
    """The application.

    Args:
        engine: The aggregator's database, migrated.
        options: How it is served.
        now_ms: Unix time, milliseconds.
    """

    def read() -> dict[str, object]:
        with reading(engine) as connection:
            return stamps(connection)

    site = Site(
        engine=engine,
        options=options,
        environment=environment(),
        watcher=live.Watcher(read),
        models=Models(),
        now_ms=now_ms,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(site.watcher.run, name="driftpost-web-changes")
            yield
            site.watcher.close()
            tasks.cancel_scope.cancel()

    middleware = [Middleware(SecurityHeaders)]
    if options.hosts:
        middleware.append(
            Middleware(TrustedHostMiddleware, allowed_hosts=list(options.hosts), www_redirect=False)
        )
    if options.token is not None:
        middleware.append(Middleware(TokenRequired, token=options.token))
    middleware += [Middleware(SameOrigin), Middleware(GZipMiddleware, compresslevel=_GZIP_LEVEL)]
    app = Starlette(
        routes=ROUTES,
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={
            RequestError: _request_error,
            HTTPException: _http_error,
            SQLAlchemyError: _database_error,
            Exception: _mistake,
        },
    )
    app.state.site = site
    return app


def create_app(engine: Engine, settings: Settings) -> Starlette:
    """The dashboard and the API over the aggregator's database, for any ASGI server.

    Args:
        engine: The database, migrated.
        settings: aggregator.toml.

    Raises:
        UnsafeExposure: see `WebOptions.checked`.
        TokenUnusable: likewise.
    """
    return build(engine, WebOptions.from_settings(settings))
