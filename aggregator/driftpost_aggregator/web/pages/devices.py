"""The list of devices, and one device."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web import parameters
from driftpost_aggregator.web.errors import NotKnown
from driftpost_aggregator.web.performance_card import performance_card
from driftpost_aggregator.web.queries import devices, findings, fleet, incidents, quarantine, series
from driftpost_aggregator.web.rendering import page
from driftpost_aggregator.web.site import site_of
from driftpost_aggregator.web.stream_table import NOW_BUCKETS, stream_table

_PER_PAGE = 50
_FINDINGS = 20
_INCIDENTS = 10
_REFUSALS = 5


def filter_of(request: Request) -> devices.DeviceFilter:
    """The devices that an address asks for.

    Raises:
        BadParameter: it makes no sense.
    """
    return devices.DeviceFilter(
        state=parameters.choice(request, "state", devices.STATES, "any"),
        prefix=parameters.text(request, "prefix"),
        attributes=parameters.attributes(request),
        bundle=parameters.text(request, "bundle"),
    )


def listing(request: Request) -> Response:
    """`/devices`"""
    site = site_of(request)
    wanted = filter_of(request)
    cursor = parameters.text(request, "cursor")
    with reading(site.engine) as connection:
        found = devices.list_devices(
            connection, wanted, limit=parameters.limit(request, _PER_PAGE), cursor=cursor
        )
        values = {
            "found": found,
            "wanted": wanted,
            "chosen": dict(wanted.attributes),
            "menus": site.attributes(),
            "first": not cursor,
            "filters": {
                "state": wanted.state if wanted.state != "any" else "",
                "prefix": wanted.prefix,
                "bundle": wanted.bundle,
                "attribute": [f"{key}={value}" for key, value in wanted.attributes],
            },
            "totals": site.totals.get("fleet", lambda: fleet.totals(connection, site.now_ms())),
            "bundles": site.models.newest(connection),
            "models": site.models.of(connection, [device.bundle for device in found.items]),
        }
    return page(request, "devices.html", values, section="/devices", topics=("devices", "findings"))


def _standing(told: Sequence[findings.Finding]) -> set[str]:
    """Streams in which a finding stands that no class mix explains."""
    over = {finding.id for finding in told if finding.state == "cleared"}
    return {
        str(name)
        for finding in told
        if finding.state == "raised" and finding.id not in over and finding.kind != "label_shift"
        for name, _ in finding.streams
    }


def one(request: Request) -> Response:
    """`/devices/{device}`"""
    site = site_of(request)
    name = request.path_params["device"]
    span = parameters.choice(request, "span", tuple(parameters.SPANS), "6h")
    with reading(site.engine) as connection:
        device = devices.device_named(connection, name)
        if device is None:
            raise NotKnown(f"no device named {name!r}", "find it at /devices; names are case-sensitive")
        model = site.models.get(connection, device.bundle) if device.bundle else None
        now_ms = site.now_ms()
        points = (
            series.points(
                connection,
                "device",
                name,
                model.bundle,
                from_ms=now_ms - 1000 * parameters.SPANS[span],
                to_ms=now_ms,
                most=NOW_BUCKETS,
            )
            if model
            else []
        )
        told = findings.list_findings(connection, device=name, limit=_FINDINGS).items
        belongs = incidents.incidents_of_device(connection, name, _INCIDENTS)
        values = {
            "device": device,
            "model": model,
            "coverage": fleet.coverage(connection, name),
            "ledgers": devices.ledgers_of(connection, name),
            "board": devices.board_of(connection, name),
            "findings": told,
            "incidents": belongs,
            "refusals": quarantine.list_quarantine(connection, device=name, limit=_REFUSALS).items,
            "streams": stream_table(model, [point.window for point in points], "device", name)
            if model
            else [],
            "points": points,
            "performance": performance_card(
                connection,
                model,
                ("device", name),
                [point.window for point in points],
                since_ms=now_ms - 1000 * parameters.SPANS[span],
                drifting=_standing(told),
            ),
            "models": site.models.of(connection, [incident.bundle for incident in belongs]),
            "span": span,
        }
    return page(
        request,
        "device.html",
        values,
        section="/devices",
        topics=("devices", "windows", "findings", "incidents", "quarantine"),
    )
