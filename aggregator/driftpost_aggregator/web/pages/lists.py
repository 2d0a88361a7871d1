"""Retrain requests, and messages that were refused."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web import parameters
from driftpost_aggregator.web.errors import NotKnown
from driftpost_aggregator.web.queries import fleet, quarantine, requests
from driftpost_aggregator.web.rendering import page
from driftpost_aggregator.web.site import site_of

_PER_PAGE = 40


def retrain_requests(request: Request) -> Response:
    """`/requests`"""
    site = site_of(request)
    state = parameters.text(request, "state")
    order = parameters.choice(request, "order", requests.ORDERS, "newest")
    cursor = parameters.text(request, "cursor")
    with reading(site.engine) as connection:
        found = requests.list_requests(
            connection, state=state, order=order, limit=parameters.limit(request, _PER_PAGE), cursor=cursor
        )
        values = {
            "found": found,
            "state": state,
            "states": requests.STATES,
            "order": order,
            "orders": requests.ORDERS,
            "first": not cursor,
            "totals": site.totals.get("fleet", lambda: fleet.totals(connection, site.now_ms())),
            "models": site.models.of(connection, [one.bundle for one in found.items]),
        }
    return page(request, "requests.html", values, section="/requests", topics=("requests",))


def retrain_request(request: Request) -> Response:
    """`/requests/{request}`"""
    site, name = site_of(request), request.path_params["request"]
    with reading(site.engine) as connection:
        asked = requests.request_named(connection, name)
        body = requests.event_of(connection, name)
    if asked is None or body is None:
        raise NotKnown(f"no retrain request {name!r}", "find it at /requests")
    known = json.loads(body)["data"].get("known_bundles", [])
    return page(
        request, "request.html", {"asked": asked, "known": known}, section="/requests", topics=("requests",)
    )


def refused(request: Request) -> Response:
    """`/quarantine`"""
    site = site_of(request)
    device = parameters.text(request, "device")
    cursor = parameters.text(request, "cursor")
    with reading(site.engine) as connection:
        values = {
            "found": quarantine.list_quarantine(
                connection, device=device, limit=parameters.limit(request, _PER_PAGE), cursor=cursor
            ),
            "reasons": quarantine.reasons(connection),
            "device": device,
            "first": not cursor,
            "totals": site.totals.get("fleet", lambda: fleet.totals(connection, site.now_ms())),
        }
    return page(request, "quarantine.html", values, section="/quarantine", topics=("quarantine",))
