"""Alerts over the API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web import parameters
from driftpost_aggregator.web.answers import Json
from driftpost_aggregator.web.plain import plain
from driftpost_aggregator.web.queries import alerts
from driftpost_aggregator.web.site import site_of

_PER_PAGE = 100


def get_alerts(request: Request) -> Response:
    """`GET /api/v1/alerts`: channels, and messages, newest first; `state`, `channel`."""
    site = site_of(request)
    state = parameters.choice(request, "state", ("", *alerts.STATES), "")
    with reading(site.engine) as connection:
        found = alerts.list_messages(
            connection,
            state=state,
            channel=parameters.text(request, "channel"),
            limit=parameters.limit(request, _PER_PAGE),
            cursor=parameters.text(request, "cursor") or None,
        )
        ways = alerts.channels(connection)
    return Json({"channels": plain(ways), "items": plain(found.items), "next": found.next})
