"""What to do about the causes that stand now, given the incidents that are open. Pure.

A new cause waits until no further device has joined it for the settling time, so that the devices of one
camera type, which alarm a few windows apart, become one incident with the right scope. From then on an
incident only grows: a device incident whose cause turns out to be a cohort's is widened, and others of the
same cause are absorbed into it. It ends by evidence: when nothing that it rests on stands any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from driftpost_aggregator.causes import Cause, Kind

# However often further devices join, a cause is not held back longer than this many settling times.
MAX_SETTLINGS = 3.0
# A stuck sensor or a missing column makes everything else of its device drift: such a cause takes over the
# drift incidents of its own devices.
_TAKES_OVER = (Kind.SENSOR_FAULT, Kind.DATA_QUALITY, Kind.MODEL_FAULT)
_DRIFT = (Kind.COVARIATE_SHIFT, Kind.OUTPUT_SHIFT, Kind.LABEL_SHIFT)
_WIDTH = {"device": 0, "group": 1, "cohort": 2, "fleet": 3}


@dataclass(frozen=True)
class Incident:
    """An incident as triage sees it.

    Attributes:
        incident: its id.
        kind, scope, scope_key, state: as in the table.
        members: devices of its scope now (of a device incident: the device).
        standing: its devices that had not cleared when it was last updated.
        opened_ms, resolved_ms, muted_until_ms: Unix ms.
        watched: whether the test on merged windows of its scope still stands by itself.
    """

    incident: str
    kind: Kind
    scope: str
    scope_key: str
    state: str
    members: frozenset[str]
    standing: frozenset[str]
    opened_ms: int
    resolved_ms: int | None = None
    muted_until_ms: int | None = None
    watched: bool = False

    @property
    def active(self) -> bool:
        """Whether it is neither resolved nor absorbed."""
        return self.state in ("open", "acknowledged", "muted")


@dataclass(frozen=True)
class Open:
    """A new incident for a settled cause."""

    cause: Cause


@dataclass(frozen=True)
class Reopen:
    """The cause of a recently resolved incident is back."""

    incident: str
    cause: Cause


@dataclass(frozen=True)
class Update:
    """An active incident goes on.

    Attributes:
        widen: take over the cause's scope, kind and members, because it grew.
        absorb: other incidents of the same cause that end in this one.
        also: further causes within it: its members clear one by one and no longer look like one group.
    """

    incident: str
    cause: Cause
    widen: bool = False
    absorb: tuple[str, ...] = ()
    also: tuple[Cause, ...] = ()


@dataclass(frozen=True)
class Resolve:
    """Nothing that the incident rests on stands any more."""

    incident: str


@dataclass(frozen=True)
class Unmute:
    """The mute has run out."""

    incident: str


Change = Open | Reopen | Update | Resolve | Unmute


def plan(
    causes: Sequence[Cause],
    incidents: Sequence[Incident],
    *,
    now_ms: int,
    settle_ms: int,
    reopen_ms: int,
) -> list[Change]:
    """Decide about one model.

    Args:
        causes: what stands now, widest first (as `find_causes` returns them).
        incidents: the active ones, and those resolved within `reopen_ms`.
        now_ms: Unix ms.
        settle_ms: see `triage.settle_windows`.
        reopen_ms: see `triage.reopen_s`.
    """
    active = {incident.incident: incident for incident in incidents if incident.active}
    updates: dict[str, Update] = {}
    absorbed: set[str] = set()
    begun: list[Change] = []
    # What begins now, as it will stand in the next round: a device whose sensor is both stuck and frozen has
    # one incident, not two of which one would be absorbed a moment later.
    beginning: list[Incident] = []
    for cause in causes:
        matches = [incident for incident in active.values() if _same(cause, incident)]
        free = [one for one in matches if one.incident not in updates and one.incident not in absorbed]
        if free:
            update = _continued(cause, free)
            updates[update.incident] = update
            absorbed |= set(update.absorb)
        elif matches:
            carried = next((one.incident for one in matches if one.incident in updates), None)
            if carried is not None:
                updates[carried] = replace(updates[carried], also=(*updates[carried].also, cause))
        elif settled(cause, now_ms, settle_ms) and not any(_same(cause, one) for one in beginning):
            beginning.append(_as_incident(cause, now_ms))
            earlier = _resolved_twin(cause, incidents, now_ms, reopen_ms)
            begun.append(Open(cause) if earlier is None else Reopen(earlier.incident, cause))
    ended: list[Change] = []
    for name, incident in active.items():
        if name in absorbed:
            continue
        if name not in updates and not incident.watched and not any(_same(one, incident) for one in causes):
            ended.append(Resolve(name))
        elif incident.state == "muted" and (incident.muted_until_ms or 0) <= now_ms:
            ended.append(Unmute(name))
    return [*updates.values(), *begun, *ended]


def settled(cause: Cause, now_ms: int, settle_ms: int) -> bool:
    """Whether no device has joined the cause for the settling time, or it has been held back long enough."""
    return (
        now_ms - cause.last_raised_ms >= settle_ms
        or now_ms - cause.first_raised_ms >= MAX_SETTLINGS * settle_ms
    )


def _same(cause: Cause, incident: Incident) -> bool:
    """Whether an active incident is about this cause."""
    affected = cause.affected.keys()
    if cause.kind in _TAKES_OVER and incident.kind in _DRIFT:
        return bool(incident.standing) and incident.standing <= affected
    if not _alike(cause.kind, incident.kind):
        return False
    if cause.scope == incident.scope and cause.scope_key == incident.scope_key:
        return True
    # By who drifts, not by name: the cause may have been a device's and be a cohort's now, or the other way
    # round while its members clear one by one. Half of the smaller side is enough to be one thing.
    shared = len(affected & incident.standing)
    return shared > 0 and 2 * shared >= min(len(affected), len(incident.standing))


def _as_incident(cause: Cause, now_ms: int) -> Incident:
    return Incident(
        "",
        cause.kind,
        cause.scope,
        cause.scope_key,
        "open",
        frozenset(cause.members),
        frozenset(cause.affected),
        now_ms,
    )


def _alike(kind: Kind, other: Kind) -> bool:
    return kind == other or (kind in _DRIFT and other in _DRIFT)


def _continued(cause: Cause, matches: Sequence[Incident]) -> Update:
    """Let one matching incident carry the cause; absorb those that lie within it."""
    survivor = min(matches, key=lambda incident: (-_WIDTH[incident.scope], incident.opened_ms))
    takes_over = cause.kind in _TAKES_OVER and survivor.kind in _DRIFT
    widen = _WIDTH[cause.scope] > _WIDTH[survivor.scope] or takes_over
    reach = frozenset(cause.affected) | (frozenset(cause.members) if widen else survivor.members)
    absorb = tuple(one.incident for one in matches if one is not survivor and one.standing <= reach)
    return Update(survivor.incident, cause, widen, absorb)


def _resolved_twin(
    cause: Cause, incidents: Sequence[Incident], now_ms: int, reopen_ms: int
) -> Incident | None:
    twins = [
        incident
        for incident in incidents
        if incident.state == "resolved"
        and incident.resolved_ms is not None
        and now_ms - incident.resolved_ms <= reopen_ms
        and _alike(cause.kind, incident.kind)
        and (incident.scope, incident.scope_key) == (cause.scope, cause.scope_key)
    ]
    return max(twins, key=lambda incident: incident.resolved_ms or 0, default=None)
