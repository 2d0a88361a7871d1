"""A retrain request as a CloudEvent; its bytes are fixed when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from sqlalchemy import Connection, RowMapping, select

from driftpost_aggregator.accuracy import incident_accuracy
from driftpost_aggregator.reuse import MAX_NAMED, Fit
from driftpost_aggregator.store.tables import bundles, incident_devices

EVENT_TYPE = "io.driftpost.retrain.requested.v1"
# Standard Webhooks asks for bodies under 20 kB; lists are cut to these lengths, and their full length is
# stated.
MAX_BODY_BYTES = 20_000
MAX_STREAMS = 16
MAX_DEVICES = 50
# The sentence about the cause, where the body would be too long otherwise.
MAX_CAUSE_CHARS = 300


@dataclass(frozen=True)
class Ranking:
    """What a request is ranked by.

    Attributes:
        gain: accuracy to be won back, a share.
        source: where the gain comes from: "labels", "estimate" or "assumed".
        devices: that would have it.
        cost: of one retraining, in the owner's unit.
    """

    gain: float
    source: str
    devices: int
    cost: float

    @property
    def priority(self) -> float:
        """Gain times devices over cost."""
        return self.gain * self.devices / self.cost


def build_event(
    connection: Connection,
    incident: RowMapping,
    *,
    request: str,
    fleet: str,
    public_url: str | None,
    now_ms: int,
    ranking: Ranking,
    fits: Sequence[Fit] = (),
) -> bytes:
    """The request as a CloudEvent in JSON, at most 20 kB.

    Args:
        connection: for the bundle and the affected devices.
        incident: its row.
        request: the event's id.
        fleet: the fleet's name.
        public_url: where people and the pipeline reach this aggregator; without it there are no links.
        now_ms: Unix ms.
        ranking: what it is ranked by.
        fits: known bundles, compared with what the devices see; those that fit first.
    """
    name = incident["incident"]
    found = connection.execute(select(bundles).where(bundles.c.bundle == incident["bundle"]))
    bundle = found.mappings().first()
    names = (
        connection.execute(
            select(incident_devices.c.device)
            .where(incident_devices.c.incident == name, incident_devices.c.cleared_ms.is_(None))
            .order_by(incident_devices.c.device)
            .limit(MAX_DEVICES)
        )
        .scalars()
        .all()
    )
    root = public_url.rstrip("/") if public_url else None
    streams = incident["streams"]
    reuse = next((fit for fit in fits if fit.fits), None)
    data: dict[str, object] = {
        "request": request,
        "action": "retrain" if reuse is None else "reuse",
        "fleet": fleet,
        "incident": {
            "id": name,
            "episode": incident["reopened"],
            "kind": incident["kind"],
            "detail": incident["detail"],
            "scope": incident["scope"],
            "attributes": [{"key": key, "value": value} for key, value in incident["attributes"]],
            "cause": incident["cause"],
            "onset": _iso(incident["onset_ms"]),
            "opened": _iso(incident["opened_ms"]),
            "log_e": incident["log_e"],
            "risk_ratio": incident["risk_ratio"],
            "risk_ratio_low": incident["risk_ratio_low"],
        },
        "affected": {
            "devices": incident["affected"],
            "of": incident["members"],
            "share": round(incident["affected"] / max(incident["members"], 1), 4),
            "elsewhere": incident["elsewhere"],
            "names": list(names),
        },
        "streams": streams[:MAX_STREAMS],
        "streams_total": len(streams),
        "accuracy": incident_accuracy(connection, incident, bundle),
        "model": {
            "bundle": incident["bundle"],
            "name": bundle["name"] if bundle else None,
            "version": bundle["version"] if bundle else None,
            "sha256": bundle["model_sha256"] if bundle else None,
            "bundles": incident["bundles"],
        },
        "reuse": None if reuse is None else reuse.to_dict(),
        "known_bundles": [fit.to_dict() for fit in fits[:MAX_NAMED]],
        "ranking": {
            "gain": round(ranking.gain, 4),
            "gain_source": ranking.source,
            "devices": ranking.devices,
            "cost": ranking.cost,
            "priority": round(ranking.priority, 6),
        },
        "links": {
            "incident": f"{root}/incidents/{name}",
            "request": f"{root}/requests/{request}",
            "report": f"{root}/api/v1/requests/{request}/status",
        }
        if root
        else {},
    }
    event = CloudEvent(
        attributes={
            "specversion": "1.0",
            "id": request,
            "source": f"/driftpost/fleets/{fleet}",
            "type": EVENT_TYPE,
            "subject": f"incidents/{name}",
            "time": datetime.fromtimestamp(now_ms / 1000, timezone.utc),
            "datacontenttype": "application/json",
        },
        data=data,
    )
    body = JSONFormat().write(event)
    if len(body) > MAX_BODY_BYTES:
        # Names and texts come from devices and may be long: the evidence stays, the list of names goes.
        affected, about = data["affected"], data["incident"]
        assert isinstance(affected, dict)
        assert isinstance(about, dict)
        affected["names"] = []
        data["known_bundles"] = []
        body = JSONFormat().write(event)
        if len(body) > MAX_BODY_BYTES:
            about["cause"] = incident["cause"][:MAX_CAUSE_CHARS]
            body = JSONFormat().write(event)
        kept = streams[:MAX_STREAMS]
        while len(body) > MAX_BODY_BYTES and kept:
            kept = kept[:-1]
            data["streams"] = kept
            body = JSONFormat().write(event)
    return body


def _iso(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
