"""What the retrain policy looks at, over time: written down whenever it changes, to be replayed."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, delete, func, insert, select

from driftpost_aggregator.accuracy import incident_accuracy
from driftpost_aggregator.errors import AggregatorError
from driftpost_aggregator.retrain_policy import Candidate
from driftpost_aggregator.store.tables import bundles, incidents, policy_snapshots
from driftpost_sketches.errors import SketchError

# A loss is estimated anew when its incident changed, and else this often, ms: it costs some ten milliseconds.
LOSS_AGE_MS = 600_000
# A loss is written down again when it moved by more than this, a share.
LOSS_STEP = 0.005
# So is an effect, reference sd.
_EFFECT_STEP = 0.05
# What a policy can be replayed over, ms: two years.
KEEP_MS = 2 * 365 * 86_400_000
# Incidents that ended this long ago are not looked at any more, ms.
_ENDED_MS = 86_400_000


class Losses:
    """Estimated losses of accuracy by incident, remembered for a while; for one thread."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, int, float | None, str]] = {}

    def of(self, connection: Connection, incident: RowMapping, now_ms: int) -> tuple[float | None, str]:
        """Loss as a share and where it comes from: "labels", "estimate", or None and "assumed"."""
        name = incident["incident"]
        held = self._held.get(name)
        if held is not None and held[0] == incident["updated_ms"] and now_ms - held[1] < LOSS_AGE_MS:
            return held[2], held[3]
        bundle = connection.execute(select(bundles).where(bundles.c.bundle == incident["bundle"]))
        try:
            told = incident_accuracy(connection, incident, bundle.mappings().first())
        except (SketchError, AggregatorError):
            # A damaged row must not keep every other incident from being judged.
            told = None
        loss = None if told is None else told["loss"]
        source = "assumed"
        if isinstance(loss, float) and told is not None:
            source = "labels" if "by_labels" in told else "estimate"
        else:
            loss = None
        self._held[name] = (incident["updated_ms"], now_ms, loss, source)
        return loss, source

    def forget(self, standing: set[str]) -> None:
        """Keep only incidents that stand."""
        self._held = {name: held for name, held in self._held.items() if name in standing}


def candidate_of(row: RowMapping, loss: float | None) -> Candidate:
    """An incident's row as the policy sees it."""
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
        loss,
    )


def unwritten(connection: Connection, losses: Losses, now_ms: int) -> list[Candidate]:
    """Incidents that differ from what was last written down of them."""
    rows = (
        connection.execute(
            select(incidents).where(
                incidents.c.state.in_(("open", "acknowledged", "muted"))
                | (incidents.c.updated_ms >= now_ms - _ENDED_MS)
            )
        )
        .mappings()
        .all()
    )
    if not rows:
        return []
    newest = (
        select(func.max(policy_snapshots.c.id))
        .where(policy_snapshots.c.incident.in_([row["incident"] for row in rows]))
        .group_by(policy_snapshots.c.incident)
    )
    last = {
        row.incident: row
        for row in connection.execute(select(policy_snapshots).where(policy_snapshots.c.id.in_(newest)))
    }
    found = []
    for row in rows:
        loss = losses.of(connection, row, now_ms)[0] if row["state"] in ("open", "acknowledged") else None
        now = candidate_of(row, loss)
        before = last.get(row["incident"])
        if before is None or _differs(now, candidate_at(before)):
            found.append(now)
    losses.forget({row["incident"] for row in rows})
    return found


def _differs(now: Candidate, before: Candidate) -> bool:
    if now.state not in ("open", "acknowledged"):
        # Of one that can not ask, only that it can not is of interest.
        return now.state != before.state
    plain = ("episode", "model", "scope", "scope_key", "kind", "state", "affected", "members")
    if any(getattr(now, name) != getattr(before, name) for name in plain):
        return True
    if abs(now.severity - before.severity) > _EFFECT_STEP * max(1.0, before.severity):
        return True
    if now.loss is None or before.loss is None:
        return now.loss is not before.loss
    return abs(now.loss - before.loss) > LOSS_STEP


def candidate_at(row: object) -> Candidate:
    """A candidate as it was written down."""
    return Candidate(**{name: getattr(row, name) for name in Candidate.__dataclass_fields__})


def write_down(connection: Connection, changed: Sequence[Candidate], now_ms: int) -> None:
    """Add snapshots, in the caller's write transaction, and let go of the oldest."""
    if changed:
        connection.execute(delete(policy_snapshots).where(policy_snapshots.c.at_ms < now_ms - KEEP_MS))
        connection.execute(
            insert(policy_snapshots), [{"at_ms": now_ms, **candidate.__dict__} for candidate in changed]
        )
