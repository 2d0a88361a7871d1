"""The fleet at a glance."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web import parameters
from driftpost_aggregator.web.queries import fleet, incidents, quarantine, requests
from driftpost_aggregator.web.rendering import page
from driftpost_aggregator.web.site import site_of

# Rows of each list; the rest is a click away.
_INCIDENTS = 8
_REQUESTS = 5
_REFUSALS = 5
# What the rows of the heat map are.
ROWS = ("devices", "cohorts")
# Up to so many devices fit into one map; of a larger fleet its cohorts say more.
FEW_DEVICES = 60


def overview(request: Request) -> Response:
    """`/`"""
    site = site_of(request)
    with reading(site.engine) as connection:
        totals = site.totals.get("fleet", lambda: fleet.totals(connection, site.now_ms()))
        rows = parameters.choice(
            request, "rows", ROWS, "devices" if totals.devices <= FEW_DEVICES else "cohorts"
        )
        span = parameters.choice(request, "span", tuple(parameters.SPANS), "6h")
        standing = incidents.list_incidents(connection, limit=_INCIDENTS)
        asked = requests.list_requests(connection, limit=_REQUESTS)
        refused = quarantine.list_quarantine(connection, limit=_REFUSALS)
        values = {
            "totals": totals,
            "incidents": standing,
            "requests": asked.items,
            "refusals": refused.items,
            "models": site.models.of(
                connection, [one.bundle for one in standing.items] + [one.bundle for one in asked.items]
            ),
            "rows": rows,
            "span": span,
        }
    return page(
        request,
        "fleet.html",
        values,
        section="/",
        topics=("devices", "windows", "findings", "incidents", "requests", "quarantine"),
    )
