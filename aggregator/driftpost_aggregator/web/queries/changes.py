"""Stamps by topic: indexed maxima that the live-update watcher compares once a second."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from driftpost_aggregator.store import tables
from driftpost_aggregator.web.queries.standing import STANDING_STATES

TOPICS = ("devices", "windows", "findings", "incidents", "requests", "labels", "alerts", "quarantine")


def stamps(connection: Connection) -> dict[str, object]:
    """A value for each of TOPICS that differs when something of that topic was written."""
    device, finding, incident = tables.devices.c, tables.findings.c, tables.incidents.c
    newest = {
        "devices": select(func.max(device.last_seen_ms)),
        "windows": select(func.max(tables.windows.c.received_ms)),
        "findings": select(func.max(finding.at_ms)),
        "quarantine": select(func.max(tables.quarantine.c.id)),
        "events": select(func.max(tables.incident_events.c.id)),
        "requests": select(func.max(tables.retrain_requests.c.updated_ms)),
        "pushes": select(func.max(tables.label_pushes.c.at_ms)),
        "waiting": select(func.count()).where(tables.label_batches.c.state == "waiting"),
        "messages": select(func.max(tables.alert_messages.c.created_ms)),
        "unsent": select(func.count()).where(tables.alert_messages.c.state == "pending"),
        "sent": select(func.max(tables.alert_channels.c.last_sent_ms)),
        "failing": select(func.max(tables.alert_channels.c.failing_since_ms)),
        "deliveries": select(func.max(tables.deliveries.c.last_attempt_ms)),
    }
    found: dict[str, object] = {name: connection.scalar(query) for name, query in newest.items()}
    updated = tuple(
        connection.scalar(select(func.max(incident.updated_ms)).where(incident.state == state))
        for state in (*STANDING_STATES, "resolved", "absorbed")
    )
    return {
        "devices": (found["devices"], connection.scalar(select(func.count()).where(device.online.is_(True)))),
        "windows": found["windows"],
        "findings": found["findings"],
        "incidents": (found["events"], updated),
        "requests": (found["requests"], found["deliveries"]),
        "labels": (found["pushes"], found["waiting"]),
        "alerts": tuple(found[name] for name in ("messages", "unsent", "sent", "failing")),
        "quarantine": found["quarantine"],
    }
