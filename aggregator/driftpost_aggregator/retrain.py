"""Asking for retraining: which incidents may, what the request says, and what the pipeline answers.

A request is a CloudEvent of type `io.driftpost.retrain.requested.v1`. Its bytes are fixed when it is
created, so that every delivery attempt sends, and signs, the same thing. One request belongs to one episode
of one incident: the database's unique index holds that even if two aggregators decide at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from sqlalchemy import Connection, Engine, RowMapping, insert, select, update

from driftpost_aggregator import audit, incidents
from driftpost_aggregator.accuracy import incident_accuracy
from driftpost_aggregator.errors import NotPossible, UnknownRequest
from driftpost_aggregator.settings import RetrainPolicy
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.store.tables import (
    bundles,
    deliveries,
    disabled_targets,
    incident_devices,
    retrain_requests,
)
from driftpost_aggregator.store.tables import incidents as incidents_table

EVENT_TYPE = "io.driftpost.retrain.requested.v1"
# Standard Webhooks asks for bodies under 20 kB; lists are cut to these lengths, and their full length is
# stated.
MAX_BODY_BYTES = 20_000
MAX_STREAMS = 16
MAX_DEVICES = 50
# The sentence about the cause, where the body would be too long otherwise.
MAX_CAUSE_CHARS = 300
_WEEK_MS = 7 * 86_400_000

# What the pipeline may report, and from which states it follows. A report may overtake our own note that
# the request was delivered, so "created" and even "undeliverable" (someone passed it on by hand) are fine
# to start from.
_UNANSWERED = ("created", "delivered", "undeliverable")
REPORTS: Mapping[str, tuple[str, ...]] = {
    "accepted": _UNANSWERED,
    "running": (*_UNANSWERED, "accepted"),
    "done": (*_UNANSWERED, "accepted", "running"),
    "failed": (*_UNANSWERED, "accepted", "running"),
}
MAX_DETAIL_CHARS = 2_000


@dataclass(frozen=True)
class Candidate:
    """An incident, as the policy sees it; fields as in the `incidents` table."""

    incident: str
    episode: int
    model: str
    scope: str
    scope_key: str
    kind: str
    state: str
    severity: float
    affected: int
    members: int


@dataclass(frozen=True)
class Asked:
    """An earlier request."""

    incident: str
    episode: int
    model: str
    scope: str
    scope_key: str
    created_ms: int


def refusal(policy: RetrainPolicy, candidate: Candidate, earlier: Sequence[Asked], now_ms: int) -> str | None:
    """Why an incident does not ask for retraining now; None if it does. Pure.

    Args:
        policy: the owner's rules.
        candidate: the incident.
        earlier: requests of the last seven days or the cooldown, whichever is longer.
        now_ms: Unix ms.
    """
    if not policy.enabled:
        return "retraining is switched off"
    if candidate.state not in ("open", "acknowledged"):
        return f"the incident is {candidate.state}"
    if candidate.scope not in policy.scopes:
        return f"scope {candidate.scope} may not ask"
    if candidate.kind not in policy.kinds:
        return f"kind {candidate.kind} may not ask"
    if candidate.severity < policy.min_effect:
        return f"effect {candidate.severity:.2g} is below {policy.min_effect:g}"
    if candidate.affected < policy.min_devices:
        return f"{candidate.affected} devices are affected, below {policy.min_devices}"
    if candidate.affected < policy.min_share * candidate.members:
        return f"{candidate.affected} of {candidate.members} devices are below {policy.min_share:.0%}"
    if any((one.incident, one.episode) == (candidate.incident, candidate.episode) for one in earlier):
        return "asked already"
    place = (candidate.model, candidate.scope, candidate.scope_key)
    for one in earlier:
        if (one.model, one.scope, one.scope_key) == place and (
            now_ms - one.created_ms < policy.cooldown_s * 1000
        ):
            return "asked within the cooldown for the same model and scope"
    if sum(now_ms - one.created_ms < _WEEK_MS for one in earlier) >= policy.per_week:
        return f"{policy.per_week} requests within a week are the budget"
    return None


def request_retraining(
    engine: Engine,
    policy: RetrainPolicy,
    *,
    fleet: str,
    public_url: str | None,
    targets: Sequence[str],
    now_ms: int,
    new_id: Callable[[], str],
) -> list[str]:
    """Create the requests that the policy allows now, with a delivery for each target.

    Returns:
        Ids of the new requests.
    """
    with reading(engine) as connection:
        ready = [row for row, why in _judged(connection, policy, now_ms) if why is None]
    created = []
    for row in ready:
        with writing(engine) as connection:
            # Judged again now that we hold the write lock: another worker, or a person, may have been
            # faster, and one request made in this loop counts for the next one's budget.
            again = {one["incident"]: (one, why) for one, why in _judged(connection, policy, now_ms)}
            current, why = again.get(row["incident"], (None, "gone"))
            if current is None or why is not None:
                continue
            request = new_id()
            body = build_event(
                connection, current, request=request, fleet=fleet, public_url=public_url, now_ms=now_ms
            )
            _insert(connection, current, request=request, body=body, targets=targets, now_ms=now_ms)
            created.append(request)
    return created


def _judged(
    connection: Connection, policy: RetrainPolicy, now_ms: int
) -> list[tuple[RowMapping, str | None]]:
    horizon = now_ms - max(_WEEK_MS, int(policy.cooldown_s * 1000))
    earlier = [
        Asked(row.incident, row.episode, row.model, row.scope, row.scope_key, row.created_ms)
        for row in connection.execute(
            select(
                retrain_requests.c.incident,
                retrain_requests.c.episode,
                retrain_requests.c.created_ms,
                incidents_table.c.model,
                incidents_table.c.scope,
                incidents_table.c.scope_key,
            )
            .join_from(retrain_requests, incidents_table)
            .where(
                (retrain_requests.c.created_ms >= horizon)
                # An old episode that is still open must not ask again when the week has passed.
                | incidents_table.c.state.in_(incidents.ACTIVE)
            )
        )
    ]
    rows = connection.execute(
        select(incidents_table)
        .where(incidents_table.c.state.in_(("open", "acknowledged")))
        .order_by(incidents_table.c.opened_ms)
    ).mappings()
    return [(row, refusal(policy, _candidate(row), earlier, now_ms)) for row in rows]


def _candidate(row: RowMapping) -> Candidate:
    return Candidate(
        row["incident"],
        row["reopened"],
        row["model"],
        row["scope"],
        row["scope_key"],
        row["kind"],
        row["state"],
        row["severity"],
        row["affected"],
        row["members"],
    )


def _insert(
    connection: Connection,
    incident: RowMapping,
    *,
    request: str,
    body: bytes,
    targets: Sequence[str],
    now_ms: int,
) -> None:
    connection.execute(
        insert(retrain_requests).values(
            request=request,
            incident=incident["incident"],
            episode=incident["reopened"],
            bundle=incident["bundle"],
            state="created",
            created_ms=now_ms,
            updated_ms=now_ms,
            detail="",
            body=body,
        )
    )
    disabled = set(connection.execute(select(disabled_targets.c.target)).scalars())
    for target in targets:
        if target not in disabled:
            connection.execute(
                insert(deliveries).values(
                    request=request,
                    target=target,
                    state="pending",
                    attempts=0,
                    next_attempt_ms=now_ms,
                    last_error="",
                )
            )
    incidents.record(
        connection,
        incident["incident"],
        "retrain",
        actor=incidents.AGGREGATOR,
        at_ms=now_ms,
        text=f"retraining requested as {request}",
    )


def build_event(
    connection: Connection,
    incident: RowMapping,
    *,
    request: str,
    fleet: str,
    public_url: str | None,
    now_ms: int,
) -> bytes:
    """The request as a CloudEvent in JSON, at most 20 kB.

    Args:
        connection: for the bundle and the affected devices.
        incident: its row.
        request: the event's id.
        fleet: the fleet's name.
        public_url: where people and the pipeline reach this aggregator; without it there are no links.
        now_ms: Unix ms.
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
    data: dict[str, object] = {
        "request": request,
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
        "links": {
            "incident": f"{root}/incidents/{name}",
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


def report(
    engine: Engine,
    request: str,
    state: str,
    *,
    detail: str = "",
    new_bundle: str | None = None,
    actor: str,
    now_ms: int,
) -> None:
    """What the pipeline says about a request; saying the same again changes nothing.

    Args:
        engine: the database.
        request: the CloudEvent's id.
        state: "accepted", "running", "done" or "failed".
        detail: a sentence for people.
        new_bundle: with "done": id of the bundle that was built.
        actor: who reports.
        now_ms: Unix ms.

    Raises:
        UnknownRequest: there is none of that id.
        NotPossible: the state does not follow from the present one.
    """
    with writing(engine) as connection:
        row = (
            connection.execute(
                select(retrain_requests).where(retrain_requests.c.request == request).with_for_update()
            )
            .mappings()
            .first()
        )
        if row is None:
            raise UnknownRequest(request)
        if state == row["state"] and new_bundle in (None, row["new_bundle"]):
            return
        if state not in REPORTS or row["state"] not in REPORTS[state]:
            raise NotPossible(f"retrain request {request}", row["state"], state)
        detail = detail[:MAX_DETAIL_CHARS]
        connection.execute(
            update(retrain_requests)
            .where(retrain_requests.c.request == request)
            .values(
                state=state,
                updated_ms=now_ms,
                detail=detail,
                new_bundle=new_bundle if state == "done" else row["new_bundle"],
            )
        )
        built = f", bundle {new_bundle[:12]}" if new_bundle and state == "done" else ""
        text = f"retraining {state}{built}" + (f": {detail}" if detail else "")
        incidents.record(connection, row["incident"], "retrain", actor=actor, at_ms=now_ms, text=text)


def settle_delivery(connection: Connection, request: str, now_ms: int) -> None:
    """Bring a request's state up to date with its deliveries, in the caller's transaction."""
    states = set(
        connection.execute(select(deliveries.c.state).where(deliveries.c.request == request)).scalars()
    )
    if "delivered" in states:
        values: dict[str, object] = {"state": "delivered", "delivered_ms": now_ms}
    elif states and states <= {"failed"}:
        values = {"state": "undeliverable"}
    else:
        return
    changed = connection.execute(
        update(retrain_requests)
        .where(
            retrain_requests.c.request == request,
            retrain_requests.c.state.in_(("created", "undeliverable")),
            retrain_requests.c.state != values["state"],
        )
        .values(**values, updated_ms=now_ms)
    )
    if changed.rowcount:
        audit.append(
            connection,
            at_ms=now_ms,
            actor=incidents.AGGREGATOR,
            action=f"retrain {values['state']}",
            subject=request,
            words=f"request {request} is {values['state']}",
        )
