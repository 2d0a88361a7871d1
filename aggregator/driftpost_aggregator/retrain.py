"""Asking for retraining: which incidents may, what the request says, and what the pipeline answers.

A request is a CloudEvent of type `io.driftpost.retrain.requested.v1`. Its bytes are fixed when it is
created, so that every delivery attempt sends, and signs, the same thing. One request belongs to one episode
of one incident: the database's unique index holds that even if two aggregators decide at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, RowMapping, insert, select, update

from driftpost_aggregator import audit, incidents
from driftpost_aggregator.errors import NotPossible, UnknownRequest
from driftpost_aggregator.policy_history import Losses, candidate_of, unwritten, write_down
from driftpost_aggregator.retrain_event import Ranking, build_event
from driftpost_aggregator.retrain_policy import (
    WEEK_MS,
    Asked,
    Candidate,
    cost_of,
    gain_of,
    priority_of,
    refusal,
)
from driftpost_aggregator.reuse import Fit, known_fits
from driftpost_aggregator.settings import RetrainPolicy
from driftpost_aggregator.store import locks
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.store.tables import deliveries, disabled_targets, retrain_requests
from driftpost_aggregator.store.tables import incidents as incidents_table

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


@dataclass
class _Judged:
    """An incident and what the policy says about it."""

    row: RowMapping
    candidate: Candidate
    source: str
    why: str | None
    fits: list[Fit] = field(default_factory=list)


def request_retraining(
    engine: Engine,
    policy: RetrainPolicy,
    *,
    fleet: str,
    public_url: str | None,
    targets: Sequence[str],
    now_ms: int,
    new_id: Callable[[], str],
    losses: Losses | None = None,
) -> list[str]:
    """Create the requests that the policy allows now, with a delivery for each target, the worthiest first.

    What the policy looks at is written down whenever it changed, whether it asks or not.

    Args:
        engine: the database.
        policy: the owner's rules.
        fleet: its name.
        public_url: where people and the pipeline reach this aggregator; None if nowhere.
        targets: names of who receives requests.
        now_ms: Unix ms.
        new_id: makes ids.
        losses: remembered from the last round.

    Returns:
        Ids of the new requests.
    """
    losses = Losses() if losses is None else losses
    with reading(engine) as connection:
        changed = unwritten(connection, losses, now_ms)
        ready = [one for one in _judged(connection, policy, losses, now_ms) if one.why is None]
        for one in ready:
            # Comparing with every known bundle takes its time: not under the write lock.
            one.fits = known_fits(connection, one.row)
    if changed:
        with writing(engine) as connection:
            # Another worker may have written the same down meanwhile.
            locks.hold(connection, locks.REQUESTS)
            write_down(connection, unwritten(connection, losses, now_ms), now_ms)
    created = []
    for one in ready:
        with writing(engine) as connection:
            locks.hold(connection, locks.REQUESTS)
            # Judged again now that we hold the write lock: another worker, or a person, may have been
            # faster, and one request made in this loop counts for the next one's budget.
            again = {now.row["incident"]: now for now in _judged(connection, policy, losses, now_ms)}
            current = again.get(one.row["incident"])
            if current is None or current.why is not None:
                continue
            request = new_id()
            candidate = current.candidate
            ranking = Ranking(
                gain_of(policy, candidate), current.source, candidate.affected, cost_of(policy, candidate)
            )
            body = build_event(
                connection,
                current.row,
                request=request,
                fleet=fleet,
                public_url=public_url,
                now_ms=now_ms,
                ranking=ranking,
                fits=one.fits,
            )
            _insert(
                connection,
                current.row,
                request=request,
                body=body,
                targets=targets,
                now_ms=now_ms,
                ranking=ranking,
                reuse=next((fit for fit in one.fits if fit.fits), None),
            )
            created.append(request)
    return created


def _judged(connection: Connection, policy: RetrainPolicy, losses: Losses, now_ms: int) -> list[_Judged]:
    """Incidents that could ask, the worthiest first."""
    horizon = now_ms - max(WEEK_MS, int(policy.cooldown_s * 1000))
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
        .order_by(incidents_table.c.opened_ms, incidents_table.c.incident)
    ).mappings()
    found = []
    for row in rows:
        loss, source = losses.of(connection, row, now_ms)
        candidate = candidate_of(row, loss)
        found.append(_Judged(row, candidate, source, refusal(policy, candidate, earlier, now_ms)))
    return sorted(found, key=lambda one: -priority_of(policy, one.candidate))


def _insert(
    connection: Connection,
    incident: RowMapping,
    *,
    request: str,
    body: bytes,
    targets: Sequence[str],
    now_ms: int,
    ranking: Ranking,
    reuse: Fit | None,
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
            devices=ranking.devices,
            gain=ranking.gain,
            gain_source=ranking.source,
            cost=ranking.cost,
            priority=ranking.priority,
            reuse=None if reuse is None else reuse.to_dict(),
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
        text=f"retraining requested as {request}"
        if reuse is None
        else f"asked as {request}: {reuse.name} {reuse.version} ({reuse.bundle[:12]}) fits what the devices "
        "see, use it instead of retraining",
    )


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
        audit.hold(connection)
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
                # Whatever comes now may be escalated anew.
                escalated_ms=None,
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
        # Each state is escalated by itself.
        .values(**values, updated_ms=now_ms, escalated_ms=None)
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
