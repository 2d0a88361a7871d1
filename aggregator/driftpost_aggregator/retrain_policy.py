"""Which incidents ask for retraining, and in which order. Pure: the same rules judge now and the past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from driftpost_aggregator.settings import RetrainPolicy

WEEK_MS = 7 * 86_400_000
ACTIVE = ("open", "acknowledged")

GainSource = Literal["labels", "estimate", "assumed"]


@dataclass(frozen=True)
class Candidate:
    """An incident, as the policy sees it; fields as in the `incidents` table.

    Attributes:
        loss: estimated loss of accuracy, a share; None where nothing tells of it.
    """

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
    loss: float | None = None


@dataclass(frozen=True)
class Asked:
    """An earlier request."""

    incident: str
    episode: int
    model: str
    scope: str
    scope_key: str
    created_ms: int


def gain_of(policy: RetrainPolicy, candidate: Candidate) -> float:
    """Accuracy to be won back, a share: what was lost, or what the owner assumes."""
    return policy.assumed_loss if candidate.loss is None else max(candidate.loss, 0.0)


def cost_of(policy: RetrainPolicy, candidate: Candidate) -> float:
    """Of retraining its model once, in the owner's unit."""
    return policy.costs.get(candidate.model, policy.cost)


def priority_of(policy: RetrainPolicy, candidate: Candidate) -> float:
    """Gain times devices over cost: what is asked for first.

    >>> one = Candidate("i", 0, "m", "cohort", "a=b", "covariate_shift", "open", 1.0, 40, 50, loss=0.05)
    >>> priority_of(RetrainPolicy(cost=4.0), one)
    0.5
    """
    return gain_of(policy, candidate) * candidate.affected / cost_of(policy, candidate)


def refusal(policy: RetrainPolicy, candidate: Candidate, earlier: Sequence[Asked], now_ms: int) -> str | None:
    """Why an incident does not ask for retraining now; None if it does.

    Args:
        policy: the owner's rules.
        candidate: the incident.
        earlier: requests of the last seven days or the cooldown, whichever is longer.
        now_ms: Unix ms.
    """
    if not policy.enabled:
        return "retraining is switched off"
    if candidate.state not in ACTIVE:
        return f"the incident is {candidate.state}"
    if candidate.scope not in policy.scopes:
        return f"scope {candidate.scope} may not ask"
    if candidate.kind not in policy.kinds:
        return f"kind {candidate.kind} may not ask"
    if candidate.severity < policy.min_effect:
        return f"effect {candidate.severity:.2g} is below {policy.min_effect:g}"
    gain = gain_of(policy, candidate)
    if gain < policy.min_loss:
        assumed = "assumed " if candidate.loss is None else ""
        return f"{assumed}loss of accuracy {gain:.1%} is below {policy.min_loss:.1%}"
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
    if sum(now_ms - one.created_ms < WEEK_MS for one in earlier) >= policy.per_week:
        return f"{policy.per_week} requests within a week are the budget"
    return None
