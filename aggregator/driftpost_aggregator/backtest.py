"""Replaying a retrain policy over what was recorded: what it would have asked for, and why not more."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from driftpost_aggregator.policy_history import candidate_at
from driftpost_aggregator.retrain_policy import (
    ACTIVE,
    WEEK_MS,
    Asked,
    Candidate,
    cost_of,
    gain_of,
    priority_of,
    refusal,
)
from driftpost_aggregator.settings import RetrainPolicy
from driftpost_aggregator.store.tables import policy_snapshots, retrain_requests

_DAY_MS = 86_400_000
# Snapshots read at most: a busy year; beyond it, replay a shorter time.
MAX_SNAPSHOTS = 200_000


@dataclass(frozen=True)
class Decision:
    """What the policy says about one episode of an incident.

    Attributes:
        at_ms: when it would have asked; else when it last refused.
        candidate: the incident as it was then.
        why: "" if it would have asked; else what kept it.
        gain, cost, priority: see `retrain_policy`.
        request: what was really asked for, None if nothing was.
    """

    at_ms: int
    candidate: Candidate
    why: str
    gain: float
    cost: float
    priority: float
    request: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "at_ms": self.at_ms,
            "asks": not self.why,
            "why": self.why,
            **self.candidate.__dict__,
            "gain": self.gain,
            "cost": self.cost,
            "priority": self.priority,
            "request": self.request,
        }


def replay(
    policy: RetrainPolicy, history: Iterable[tuple[int, Candidate]], *, until_ms: int | None = None
) -> list[Decision]:
    """What a policy would have asked for. Pure.

    Args:
        policy: the rules.
        history: (Unix ms, incident as it was from then on), in order of time.
        until_ms: end of what was recorded; no cooldown or week that ends later is looked at. None: all are.

    Returns:
        One decision for each episode of an incident: those that ask in order of time, then the others.
    """
    waiting = list(history)
    latest: dict[str, Candidate] = {}
    asked: list[Asked] = []
    decided: dict[tuple[str, int], Decision] = {}
    # A cooldown and a week end without anything else happening: they are looked at when they do.
    later: list[int] = []
    place = 0
    while place < len(waiting) or later:
        now = min([one[0] for one in waiting[place : place + 1]] + later[:1])
        if until_ms is not None and now > until_ms:
            break
        while later and later[0] <= now:
            heapq.heappop(later)
        while place < len(waiting) and waiting[place][0] <= now:
            latest[waiting[place][1].incident] = waiting[place][1]
            place += 1
        for one in sorted(latest.values(), key=lambda c: (-priority_of(policy, c), c.incident)):
            key = (one.incident, one.episode)
            if key in decided and (not decided[key].why or one.state not in ACTIVE):
                continue  # asked; or ended, and what had kept it from asking stands
            horizon = now - max(WEEK_MS, int(policy.cooldown_s * 1000))
            recent = [old for old in asked if old.created_ms >= horizon]
            why = refusal(policy, one, recent, now)
            decided[key] = Decision(
                now, one, why or "", gain_of(policy, one), cost_of(policy, one), priority_of(policy, one)
            )
            if why is None:
                asked.append(Asked(one.incident, one.episode, one.model, one.scope, one.scope_key, now))
                for end in (now + int(policy.cooldown_s * 1000), now + WEEK_MS):
                    heapq.heappush(later, end)
        latest = {name: one for name, one in latest.items() if one.state not in ("resolved", "absorbed")}
    return sorted(decided.values(), key=lambda one: (bool(one.why), one.at_ms, one.candidate.incident))


def recorded(connection: Connection, since_ms: int) -> list[tuple[int, Candidate]]:
    """The history of all incidents since a moment, beginning with what stood then."""
    column = policy_snapshots.c
    rows = connection.execute(
        select(policy_snapshots).where(column.at_ms >= since_ms).order_by(column.id).limit(MAX_SNAPSHOTS)
    ).all()
    before: dict[str, tuple[int, Candidate]] = {}
    newest = select(func.max(column.id)).where(column.at_ms < since_ms).group_by(column.incident)
    for row in connection.execute(select(policy_snapshots).where(column.id.in_(newest))):
        before[row.incident] = (since_ms, candidate_at(row))
    standing = [one for one in before.values() if one[1].state not in ("resolved", "absorbed")]
    return sorted([*standing, *((row.at_ms, candidate_at(row)) for row in rows)], key=lambda one: one[0])


def backtest(connection: Connection, policy: RetrainPolicy, *, days: float, now_ms: int) -> list[Decision]:
    """Replay a policy over the last days, beside what was really asked for."""
    since_ms = now_ms - round(days * _DAY_MS)
    decisions = replay(policy, recorded(connection, since_ms), until_ms=now_ms)
    column = retrain_requests.c
    made = {
        (row.incident, row.episode): row.request
        for row in connection.execute(select(column.incident, column.episode, column.request))
    }
    return [
        Decision(**{**one.__dict__, "request": made.get((one.candidate.incident, one.candidate.episode))})
        for one in decisions
    ]


def per_week(decisions: Sequence[Decision], days: float) -> float:
    """Requests a week on average."""
    return sum(not one.why for one in decisions) / max(days / 7.0, 1e-9)
