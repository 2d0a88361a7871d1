"""Alerts: channels, and what went over them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web import parameters
from driftpost_aggregator.web.queries import alerts
from driftpost_aggregator.web.rendering import page
from driftpost_aggregator.web.site import site_of

_PER_PAGE = 40


def listing(request: Request) -> Response:
    """`/alerts`"""
    site = site_of(request)
    state = parameters.choice(request, "state", ("", *alerts.STATES), "")
    channel, cursor = parameters.text(request, "channel"), parameters.text(request, "cursor")
    with reading(site.engine) as connection:
        values = {
            "found": alerts.list_messages(
                connection,
                state=state,
                channel=channel,
                limit=parameters.limit(request, _PER_PAGE),
                cursor=cursor,
            ),
            "channels": alerts.channels(connection),
            "state": state,
            "states": alerts.STATES,
            "channel": channel,
            "first": not cursor,
        }
    return page(request, "alerts.html", values, section="/alerts", topics=("alerts",))
