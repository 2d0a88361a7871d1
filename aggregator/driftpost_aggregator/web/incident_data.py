"""What an incident's devices measured since it began."""

from __future__ import annotations

from sqlalchemy import Connection

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


def incident_window(connection: Connection, incident: Incident, *, now_ms: int) -> Window | None:
    """Sketches of the affected devices between onset and end, or None if none are merged yet.

    A scope whose every device is affected is shown by its own rollup; otherwise, and where the scope has none
    (a cohort of several attributes), by the affected devices themselves, as many as are cheap to merge.
    """
    end_ms = incident.resolved_ms or now_ms
    if incident.affected >= incident.members and incident.scope != "device":
        own = points(
            connection,
            incident.scope,
            incident.scope_key,
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
