"""What an incident's devices measured since it began."""

from __future__ import annotations

from sqlalchemy import Connection

from driftpost_aggregator.evidence import BUNDLE_ATTRIBUTE
from driftpost_aggregator.web.queries.incidents import Incident, list_members
from driftpost_aggregator.web.queries.series import (
    MAX_MERGED_DEVICES,
    merged,
    merged_devices,
    points,
    since,
)
from driftpost_sketches.window import Window

# Buckets merged into "now", of a scope and of each single device: recent, and bounded.
_SCOPE_BUCKETS = 48
_DEVICE_BUCKETS = 12


def rollup_of(incident: Incident) -> tuple[str, str] | None:
    """Scope and key of the rollup that shows an incident's devices, or None if there is none.

    Rollups are kept for single attributes, and each bundle has its own: the fleet's rollup of a bundle is the
    cohort of those that run it.
    """
    if incident.scope == "group":
        return None
    if incident.scope != "cohort":
        return incident.scope, incident.scope_key
    if len(incident.attributes) != 1:
        return None
    return ("fleet", "") if incident.attributes[0][0] == BUNDLE_ATTRIBUTE else ("cohort", incident.scope_key)


def incident_window(connection: Connection, incident: Incident, *, now_ms: int) -> Window | None:
    """Sketches of the affected devices between onset and end, or None if none are merged yet.

    A scope whose every device is affected is shown by its own rollup; otherwise, and where the scope has none
    (a cohort of several attributes), by the affected devices themselves, as many as are cheap to merge.
    """
    end_ms = incident.resolved_ms or now_ms
    rollup = rollup_of(incident)
    if rollup is not None and incident.affected >= incident.members and incident.scope != "device":
        own = points(
            connection,
            *rollup,
            incident.bundle,
            from_ms=incident.onset_ms,
            to_ms=end_ms,
            most=_SCOPE_BUCKETS,
        )
        if own:
            return merged(since(own, incident.onset_ms))
    members = list_members(connection, incident.incident, limit=MAX_MERGED_DEVICES).items
    return merged_devices(
        connection,
        [member.device for member in members],
        incident.bundle,
        from_ms=incident.onset_ms,
        to_ms=end_ms,
        most=_DEVICE_BUCKETS,
    )
