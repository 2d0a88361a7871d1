"""The JSON API under /api/v1: everything the pages show, and the reports of the cloud pipeline.

Lists answer ``{"items": [...], "next": cursor or null}``; the next page has the same address with ``cursor``.
Errors are problem documents (RFC 9457) with one more member, ``remedy``.
"""

from __future__ import annotations

import json

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from driftpost_aggregator import retrain
from driftpost_aggregator.errors import NotPossible, UnknownRequest
from driftpost_aggregator.incidents import AGGREGATOR
from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web import parameters
from driftpost_aggregator.web.access import MAX_NAME, person
from driftpost_aggregator.web.actions import Wish, carry_out
from driftpost_aggregator.web.answers import Json
from driftpost_aggregator.web.bodies import read_body
from driftpost_aggregator.web.charts.distribution import category_names
from driftpost_aggregator.web.cursor import Page
from driftpost_aggregator.web.errors import BadParameter, BodyRefused, Conflict, NotKnown
from driftpost_aggregator.web.models import Model
from driftpost_aggregator.web.pages.devices import filter_of
from driftpost_aggregator.web.pages.streams import model_of, scope_of, stream_of
from driftpost_aggregator.web.plain import plain
from driftpost_aggregator.web.queries import devices, findings, fleet, incidents, quarantine, requests, series
from driftpost_aggregator.web.signed import check_signed
from driftpost_aggregator.web.site import site_of
from driftpost_aggregator.web.stream_table import NOW_BUCKETS
from driftpost_sketches.drift.effect import effect_of
from driftpost_sketches.schema import Schema
from driftpost_sketches.window import Window

_PER_PAGE = 100
# What a pipeline may report, and how much it may say.
REPORTS = ("accepted", "running", "done", "failed")
MAX_DETAIL = 2000
MAX_BUNDLE = 128
# Who reports when the request names nobody.
_PIPELINE = "pipeline"


def _page(found: Page[object]) -> Json:
    return Json({"items": plain(found.items), "next": found.next})


def _cursor(request: Request) -> str | None:
    return parameters.text(request, "cursor") or None


def get_fleet(request: Request) -> Response:
    """`GET /api/v1/fleet`: totals."""
    site = site_of(request)
    with reading(site.engine) as connection:
        totals = site.totals.get("fleet", lambda: fleet.totals(connection, site.now_ms()))
    return Json(
        {
            "fleet": site.options.fleet,
            "devices": {
                "total": totals.devices,
                "online": totals.online,
                "offline": totals.offline,
                "drifting": totals.drifting,
            },
            "windows": totals.windows,
            "rows": totals.rows,
            "incidents": {
                scope: {state: count for (of, state), count in totals.incidents.items() if of == scope}
                for scope in ("device", "group", "cohort", "fleet")
            },
            "requests": totals.requests,
            "quarantined_last_day": totals.quarantined_day,
        }
    )


def get_coverage(request: Request) -> Response:
    """`GET /api/v1/coverage`: what devices recorded and where it is; `?device=` for one."""
    site = site_of(request)
    device = parameters.text(request, "device")
    with reading(site.engine) as connection:
        if device:
            if devices.device_named(connection, device) is None:
                raise NotKnown(f"no device named {device!r}", "list them with GET /api/v1/devices")
            covered = fleet.coverage(connection, device)
        else:
            covered = site.totals.get("fleet", lambda: fleet.totals(connection, site.now_ms())).coverage
    answer = plain(covered)
    assert isinstance(answer, dict)
    return Json({**answer, "share_acknowledged": covered.share, "balanced": covered.balanced})


def get_devices(request: Request) -> Response:
    """`GET /api/v1/devices`: by name; `state`, `prefix`, `attribute=key=value` (several), `bundle`."""
    site, wanted = site_of(request), filter_of(request)
    with reading(site.engine) as connection:
        return _page(
            devices.list_devices(
                connection, wanted, limit=parameters.limit(request, _PER_PAGE), cursor=_cursor(request)
            )
        )


def get_device(request: Request) -> Response:
    """`GET /api/v1/devices/{device}`: one, with its ledgers."""
    site, name = site_of(request), request.path_params["device"]
    with reading(site.engine) as connection:
        device = devices.device_named(connection, name)
        if device is None:
            raise NotKnown(f"no device named {name!r}", "list them with GET /api/v1/devices")
        answer = plain(device)
        assert isinstance(answer, dict)
        return Json({**answer, "ledgers": plain(devices.ledgers_of(connection, name))})


def get_findings(request: Request) -> Response:
    """`GET /api/v1/findings`: newest first; `device`, `incident`."""
    site = site_of(request)
    with reading(site.engine) as connection:
        return _page(
            findings.list_findings(
                connection,
                device=parameters.text(request, "device"),
                incident=parameters.text(request, "incident"),
                limit=parameters.limit(request, _PER_PAGE),
                cursor=_cursor(request),
            )
        )


def get_incidents(request: Request) -> Response:
    """`GET /api/v1/incidents`: last opened first; `state`."""
    site = site_of(request)
    state = parameters.choice(request, "state", incidents.STATES, "standing")
    with reading(site.engine) as connection:
        return _page(
            incidents.list_incidents(
                connection, state=state, limit=parameters.limit(request, _PER_PAGE), cursor=_cursor(request)
            )
        )


def get_incident(request: Request) -> Response:
    """`GET /api/v1/incidents/{incident}`: one, with its history and requests."""
    site, name = site_of(request), request.path_params["incident"]
    with reading(site.engine) as connection:
        incident = incidents.incident_named(connection, name)
        if incident is None:
            raise NotKnown(f"no incident {name!r}", "list them with GET /api/v1/incidents?state=all")
        answer = plain(incident)
        assert isinstance(answer, dict)
        asked = requests.list_requests(connection, incident=name, limit=_PER_PAGE).items
        return Json(
            {**answer, "events": plain(incidents.events_of(connection, name)), "requests": plain(asked)}
        )


def get_members(request: Request) -> Response:
    """`GET /api/v1/incidents/{incident}/devices`: those in it, by name."""
    site, name = site_of(request), request.path_params["incident"]
    with reading(site.engine) as connection:
        if incidents.incident_named(connection, name) is None:
            raise NotKnown(f"no incident {name!r}", "list them with GET /api/v1/incidents?state=all")
        return _page(
            incidents.list_members(
                connection, name, limit=parameters.limit(request, _PER_PAGE), cursor=_cursor(request)
            )
        )


def get_requests(request: Request) -> Response:
    """`GET /api/v1/requests`: newest first, or `order=priority`; `state`, `incident`."""
    site = site_of(request)
    order = parameters.choice(request, "order", requests.ORDERS, "newest")
    with reading(site.engine) as connection:
        return _page(
            requests.list_requests(
                connection,
                state=parameters.text(request, "state"),
                incident=parameters.text(request, "incident"),
                order=order,
                limit=parameters.limit(request, _PER_PAGE),
                cursor=_cursor(request),
            )
        )


def get_request(request: Request) -> Response:
    """`GET /api/v1/requests/{request}`: one, with its deliveries."""
    site, name = site_of(request), request.path_params["request"]
    with reading(site.engine) as connection:
        asked = requests.request_named(connection, name)
    if asked is None:
        raise NotKnown(f"no retrain request {name!r}", "list them with GET /api/v1/requests")
    return Json(plain(asked))


def get_event(request: Request) -> Response:
    """`GET /api/v1/requests/{request}/event`: the CloudEvent, byte for byte as it is sent."""
    site, name = site_of(request), request.path_params["request"]
    with reading(site.engine) as connection:
        body = requests.event_of(connection, name)
    if body is None:
        raise NotKnown(f"no retrain request {name!r}", "list them with GET /api/v1/requests")
    return Response(body, media_type="application/cloudevents+json", headers={"Cache-Control": "no-store"})


def get_quarantine(request: Request) -> Response:
    """`GET /api/v1/quarantine`: refused messages, newest first; `device`."""
    site = site_of(request)
    with reading(site.engine) as connection:
        return _page(
            quarantine.list_quarantine(
                connection,
                device=parameters.text(request, "device"),
                limit=parameters.limit(request, _PER_PAGE),
                cursor=_cursor(request),
            )
        )


def get_bundles(request: Request) -> Response:
    """`GET /api/v1/bundles`: last added first."""
    site = site_of(request)
    with reading(site.engine) as connection:
        return Json({"items": plain(site.models.newest(connection)), "next": None})


def get_bundle(request: Request) -> Response:
    """`GET /api/v1/bundles/{bundle}`: one, with its streams."""
    model = model_of(site_of(request), request.path_params["bundle"])
    return Json(
        {
            "bundle": model.bundle,
            "name": model.name,
            "version": model.version,
            "model_sha256": model.model_sha256,
            "schema": model.schema.id.hex(),
            "window_s": model.window_s,
            "budget": model.budget,
            "streams": plain([stream.to_dict() for stream in model.schema.streams]),
        }
    )


def _summary(schema: Schema, index: int, window: Window) -> dict[str, object]:
    held, stream = window.summary(schema, index), schema.streams[index]
    answer: dict[str, object] = {
        "rows": window.rows,
        "values": held.n,
        "missing": held.missing,
        "nonfinite": held.nonfinite,
        "mean": held.mean,
        "std": held.std,
        "low": held.low,
        "high": held.high,
        "counts": [int(count) for count in held.counts],
    }
    if stream.categories:
        answer["bins"] = category_names(stream)
    return answer


def _compared(model: Model, index: int, window: Window) -> dict[str, object]:
    effect = effect_of(model.schema, model.baseline, window, index)
    return {
        "sd_shift": effect.sd_shift,
        "natural_shift": effect.natural_shift,
        "std_ratio": effect.std_ratio,
        "psi": effect.psi,
        "missing_change": effect.missing_change,
        "new_category_share": effect.new_category_share,
        "direction": effect.direction,
    }


def get_stream(request: Request) -> Response:
    """`GET /api/v1/streams/{bundle}/{stream}`: baseline, now and over time; `scope`, `key`, `span`."""
    site = site_of(request)
    scope, key = scope_of(request)
    model = model_of(site, request.path_params["bundle"])
    index = stream_of(model, request.path_params["stream"])
    now_ms = site.now_ms()
    with reading(site.engine) as connection:
        from_ms = now_ms - 1000 * parameters.span_s(request, "6h")
        points = series.course(connection, scope, key, model.bundle, from_ms=from_ms, to_ms=now_ms)
        newest = series.points(
            connection, scope, key, model.bundle, from_ms=from_ms, to_ms=now_ms, most=NOW_BUCKETS
        )
    now = series.merged([point.window for point in newest])
    return Json(
        plain(
            {
                "bundle": model.bundle,
                "stream": model.schema.streams[index].to_dict(),
                "scope": scope,
                "key": key,
                "baseline": _summary(model.schema, index, model.baseline),
                "now": None if now is None else _summary(model.schema, index, now),
                "effect": None if now is None else _compared(model, index, now),
                "over_time": [
                    {
                        "start_ms": point.start_ms,
                        "seconds": point.bucket_s,
                        "devices": point.devices,
                        **_summary(model.schema, index, point.window),
                    }
                    for point in points
                ],
            }
        )
    )


def _check_json(request: Request) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BodyRefused(415, "the body is not JSON", "send it with `Content-Type: application/json`")


async def _json_body(request: Request) -> dict[str, object]:
    """The body as a JSON object.

    Raises:
        BodyRefused: it is too large, or of another type.
        BadParameter: it is not a JSON object.
    """
    _check_json(request)
    return _object(await read_body(request))


def _object(raw: bytes) -> dict[str, object]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadParameter("body", "is not well-formed JSON", "send one JSON object") from error
    if not isinstance(body, dict):
        raise BadParameter("body", "is not a JSON object", 'send for example {"state": "running"}')
    return body


def _text(body: dict[str, object], name: str, longest: int, default: str = "") -> str:
    value = body.get(name, default)
    if value is None:
        return default
    if not isinstance(value, str) or len(value) > longest or "\x00" in value:
        raise BadParameter(
            name, f"is not a text of at most {longest} characters", "shorten it, or leave it out"
        )
    # A lone surrogate can come in a JSON escape, and no database stores it.
    return value.encode("utf-8", "replace").decode("utf-8")


def _known(body: dict[str, object], names: tuple[str, ...]) -> None:
    unknown = sorted(set(body) - set(names))
    if unknown:
        raise BadParameter(unknown[0][:40], "is not known here", f"send only {', '.join(names)}")


async def post_status(request: Request) -> Response:
    """`POST /api/v1/requests/{request}/status`: the pipeline reports state, detail, new_bundle, actor."""
    site, name = site_of(request), request.path_params["request"]
    raw = await read_body(request)
    check_signed(raw, request.headers, site.options.secret_files, required=site.options.signed_reports)
    _check_json(request)
    body = _object(raw)
    _known(body, ("state", "detail", "new_bundle", "actor"))
    state = _text(body, "state", 20)
    if state not in REPORTS:
        raise BadParameter("state", f"is none of {', '.join(REPORTS)}", "report one of them")
    detail = _text(body, "detail", MAX_DETAIL)
    new_bundle = _text(body, "new_bundle", MAX_BUNDLE) or None
    if new_bundle is not None and state != "done":
        raise BadParameter(
            "new_bundle", f"comes with done, not with {state}", "report it when the bundle is there"
        )
    actor = _text(body, "actor", MAX_NAME) or person(request) or _PIPELINE
    if actor.strip() == AGGREGATOR:
        raise BadParameter("actor", "is the aggregator's own name", "give yours")

    def report() -> object:
        try:
            retrain.report(
                site.engine,
                name,
                state,
                detail=detail,
                new_bundle=new_bundle,
                actor=actor,
                now_ms=site.now_ms(),
            )
        except UnknownRequest as error:
            raise NotKnown(str(error), "list them with GET /api/v1/requests") from error
        except NotPossible as error:
            raise Conflict(str(error), "GET the request to see its present state") from error
        with reading(site.engine) as connection:
            return plain(requests.request_named(connection, name))

    return Json(await run_in_threadpool(report))


async def post_action(request: Request) -> Response:
    """`POST /api/v1/incidents/{incident}/actions`: action, actor, note, hours."""
    body = await _json_body(request)
    _known(body, ("action", "actor", "note", "hours"))
    hours = body.get("hours", "")
    if isinstance(hours, bool) or not isinstance(hours, int | str):
        raise BadParameter("hours", "is not a whole number", "say for how many hours to mute")
    wish = Wish.checked(
        action=_text(body, "action", 20),
        actor=person(request) or _text(body, "actor", MAX_NAME),
        note=_text(body, "note", 10_000),
        hours=hours,
    )
    site, name = site_of(request), request.path_params["incident"]

    def act() -> object:
        carry_out(site.engine, name, wish, site.now_ms())
        with reading(site.engine) as connection:
            return plain(incidents.incident_named(connection, name))

    return Json(await run_in_threadpool(act))
