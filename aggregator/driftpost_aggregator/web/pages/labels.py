"""Pushed labels and what became of them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web import parameters
from driftpost_aggregator.web.queries import labels
from driftpost_aggregator.web.rendering import page
from driftpost_aggregator.web.site import site_of

_PER_PAGE = 40
_PUSHES = 10


def listing(request: Request) -> Response:
    """`/labels`"""
    site = site_of(request)
    state = parameters.choice(request, "state", ("", *labels.STATES), "")
    device, push = parameters.text(request, "device"), parameters.text(request, "push")
    cursor = parameters.text(request, "cursor")
    with reading(site.engine) as connection:
        values = {
            "found": labels.list_batches(
                connection,
                state=state,
                device=device,
                push=push,
                limit=parameters.limit(request, _PER_PAGE),
                cursor=cursor,
            ),
            "pushes": labels.newest_pushes(connection, _PUSHES),
            "label_totals": labels.totals(connection),
            "state": state,
            "states": labels.STATES,
            "device": device,
            "push": push,
            "first": not cursor,
        }
    return page(request, "labels.html", values, section="/labels", topics=("labels",))
