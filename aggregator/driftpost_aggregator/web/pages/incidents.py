"""The list of incidents, one incident, and what people do with it."""

from __future__ import annotations

from urllib.parse import parse_qs

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from driftpost_aggregator.cause_card import rest_words
from driftpost_aggregator.performance import Performance
from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web import parameters
from driftpost_aggregator.web.access import MAX_NAME, person
from driftpost_aggregator.web.actions import MUTE_HOURS, Wish, carry_out
from driftpost_aggregator.web.bodies import read_body
from driftpost_aggregator.web.errors import BadParameter, BodyRefused, NotKnown
from driftpost_aggregator.web.incident_data import incident_window, rollup_of
from driftpost_aggregator.web.links import segment, stream_address
from driftpost_aggregator.web.models import Model
from driftpost_aggregator.web.performance_card import performance_card
from driftpost_aggregator.web.queries import fleet, incidents, requests
from driftpost_aggregator.web.rendering import page
from driftpost_aggregator.web.site import site_of
from driftpost_aggregator.web.stream_table import contribution_words

_PER_PAGE = 30
_MEMBERS = 20
# Distributions drawn on the page; the remaining streams have links.
DRAWN_STREAMS = 6
_REQUESTS = 10
_FORM = "application/x-www-form-urlencoded"
# Fields of the form; more would be someone else's form.
_MAX_FIELDS = 10


def listing(request: Request) -> Response:
    """`/incidents`"""
    site = site_of(request)
    state = parameters.choice(request, "state", incidents.STATES, "standing")
    cursor = parameters.text(request, "cursor")
    with reading(site.engine) as connection:
        found = incidents.list_incidents(
            connection, state=state, limit=parameters.limit(request, _PER_PAGE), cursor=cursor
        )
        values = {
            "found": found,
            "state": state,
            "states": incidents.STATES,
            "first": not cursor,
            "totals": site.totals.get("fleet", lambda: fleet.totals(connection, site.now_ms())),
            "models": site.models.of(connection, [one.bundle for one in found.items]),
        }
    return page(request, "incidents.html", values, section="/incidents", topics=("incidents",))


def _performance(
    connection: Connection, model: Model | None, incident: incidents.Incident, now_ms: int
) -> Performance | None:
    """What labels and answers of the incident's devices tell since its onset."""
    rollup = rollup_of(incident)
    if model is None or rollup is None:
        return None
    window = incident_window(connection, incident, now_ms=now_ms)
    drifting = () if incident.kind == "label_shift" else [part.stream for part in incident.streams]
    return performance_card(
        connection,
        model,
        rollup,
        [] if window is None else [window],
        since_ms=incident.onset_ms,
        drifting=drifting,
    )


def one(request: Request) -> Response:
    """`/incidents/{incident}`"""
    site = site_of(request)
    name = request.path_params["incident"]
    cursor = parameters.text(request, "cursor")
    with reading(site.engine) as connection:
        incident = incidents.incident_named(connection, name)
        if incident is None:
            raise NotKnown(f"no incident {name!r}", "find it at /incidents?state=all")
        model = site.models.get(connection, incident.bundle) if incident.bundle else None
        scope, key = rollup_of(incident) or ("fleet", "")
        known = {stream.name for stream in model.schema.streams} if model else set()
        asked = requests.list_requests(connection, incident=name, limit=_REQUESTS).items
        values = {
            "incident": incident,
            "without": rest_words(incident.card["rest"]) if incident.card.get("rest") else "",
            "rivals": [
                " and ".join(f"{key} = {value}" for key, value in pairs)
                for pairs in incident.card.get("alternatives", [])
            ],
            "coverage": incident.card.get("coverage"),
            "model": model,
            "contributions": [
                (
                    part,
                    contribution_words(model, incident, part),
                    stream_address(incident.bundle, part.stream, scope, key) if part.stream in known else "",
                )
                for part in incident.streams
            ],
            "members": incidents.list_members(
                connection, name, limit=parameters.limit(request, _MEMBERS), cursor=cursor
            ),
            "first": not cursor,
            "events": incidents.events_of(connection, name),
            "requests": asked,
            "models": site.models.of(connection, [incident.bundle, *(ask.bundle for ask in asked)]),
            "drawn": [part for part in incident.streams if part.stream in known][:DRAWN_STREAMS],
            "performance": _performance(connection, model, incident, site.now_ms()),
            "mute_hours": MUTE_HOURS,
            "max_name": MAX_NAME,
        }
    return page(
        request,
        "incident.html",
        values,
        section="/incidents",
        topics=("incidents", "requests", "windows"),
    )


async def act(request: Request) -> Response:
    """`POST /incidents/{incident}/actions`: a form from the incident's page."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise BodyRefused(
            415, "this is not a form", "use the page, or POST JSON to /api/v1/incidents/{id}/actions"
        )
    raw = await read_body(request)
    try:
        fields = parse_qs(
            raw.decode("utf-8"), keep_blank_values=True, max_num_fields=_MAX_FIELDS, strict_parsing=bool(raw)
        )
    except ValueError as error:
        raise BadParameter("form", "is not well-formed", "use the page itself") from error
    form = {name: values[-1] for name, values in fields.items()}
    incident = request.path_params["incident"]
    wish = Wish.checked(
        action=form.get("action", ""),
        actor=person(request) or form.get("actor", ""),
        note=form.get("note", ""),
        hours=form.get("hours", ""),
    )
    site = site_of(request)
    await run_in_threadpool(carry_out, site.engine, incident, wish, site.now_ms())
    # 303: reloading the page afterwards must not ask to send the form again.
    return RedirectResponse(f"/incidents/{segment(incident)}", 303)
