"""One round of triage over the whole database: look, decide, write down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from sqlalchemy import Connection, Engine, func, select, text

from driftpost_aggregator import audit, evidence
from driftpost_aggregator.bookkeeping import apply
from driftpost_aggregator.cause_card import with_rest
from driftpost_aggregator.causes import Cause, Kind, Surroundings, find_causes
from driftpost_aggregator.concept_watch import concept_causes, labelled_bundles
from driftpost_aggregator.hidden_drift import hidden_causes, newest_bucket
from driftpost_aggregator.merged_watch import MergedWatch, Standing, devices_apart, standing_alarms
from driftpost_aggregator.registry import KnownBundle, Registry
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.store.tables import bundles, devices, incident_devices, incidents
from driftpost_aggregator.suspicion import silent_causes
from driftpost_aggregator.triage import Change, Incident, Open, Reopen, Update, plan
from driftpost_sketches.drift.budget import Budget

# The settling time where no bundle says how long a window is, seconds: findings about devices themselves.
DEVICE_WINDOW_S = 60.0
# Longer windows than this count as this long for the settling time, seconds. The first device to describe a
# bundle is believed, and may claim any length: that may delay incidents by hours, not silence their model.
MAX_SETTLING_WINDOW_S = 3_600.0
# Workers that share one PostgreSQL write incidents one after the other: this arbitrary number is their lock.
_TRIAGE_LOCK = 0x6472_6969


# What was asked of merged windows: their newest bucket, what stands, who told of it, and of whom.
_Asked = tuple["int | None", tuple[Standing, ...], frozenset[str], tuple[str, ...]]


class Triage:
    """Keeps the incidents in step with the evidence; for one thread.

    Args:
        engine: the database, migrated.
        budget: false alarms that the tests on merged windows may raise.
        bucket_s: length of a rollup's bucket, seconds.
        settle_windows: see `triage.settle_windows`.
        reopen_s: see `triage.reopen_s`.
        now_ms: our clock, Unix ms.
        new_id: makes ids for new incidents.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        budget: Budget,
        bucket_s: int,
        settle_windows: float,
        reopen_s: float,
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._engine = engine
        self._budget = budget
        self._bucket_s = bucket_s
        self._settle_windows = settle_windows
        self._reopen_ms = int(reopen_s * 1000)
        self._now_ms = now_ms
        self._new_id = new_id
        self._registry = Registry()
        # Who described a bundle, and when, Unix ms.
        self._described: dict[str, tuple[str, int]] = {}
        self._watches: dict[str, MergedWatch] = {}
        self._hidden_before: dict[str, tuple[_Asked, list[Cause]]] = {}

    def round(self) -> None:
        """Step the watches over what has closed, then bring every model's incidents up to date."""
        with reading(self._engine) as connection:
            running = set(connection.execute(select(devices.c.bundle).distinct()).scalars())
            described = connection.execute(
                select(bundles.c.bundle, bundles.c.source, bundles.c.added_ms)
            ).all()
            for row in described:
                self._believe(row.bundle, (row.source, row.added_ms))
            known = {
                row.bundle: found
                for row in described
                if (found := self._registry.find(connection, row.bundle)) is not None
            }
        # What nobody runs any more need not be held; what stands of it is stored.
        self._watches = {bundle: watch for bundle, watch in self._watches.items() if bundle in running}
        for bundle in sorted(running & known.keys()):
            if bundle not in self._watches:
                self._watches[bundle] = MergedWatch(known[bundle], self._budget, self._bucket_s)
            self._watches[bundle].step(self._engine, self._now_ms())
        with reading(self._engine) as connection:
            busy = evidence.bundles_with_evidence(connection)
            busy |= {
                bundle
                for bundle in known
                if standing_alarms(connection, bundle) or devices_apart(connection, [bundle])
            }
            busy |= labelled_bundles(connection, self._now_ms()) & known.keys()
        # Undescribed bundles are each their own model: nothing says what belongs to them.
        models: dict[str, set[str]] = {}
        for bundle in busy | known.keys():
            models.setdefault(known[bundle].name if bundle in known else bundle, set()).add(bundle)
        for model, members in sorted(models.items()):
            if members & busy:
                self._triage(model, {one: known[one] for one in members if one in known}, members)

    def _believe(self, bundle: str, word: tuple[str, int]) -> None:
        """Start anew with a bundle whose description is another one's: its owner's counts more."""
        if self._described.get(bundle) != word:
            self._registry.forget(bundle)
            self._watches.pop(bundle, None)
            self._hidden_before.pop(bundle, None)
            self._described[bundle] = word

    def _triage(self, model: str, known: Mapping[str, KnownBundle], members: set[str]) -> None:
        now_ms = self._now_ms()
        # Looking takes long in a large fleet, writing does not: the write lock is only held for the latter.
        # If another worker, or a person, changed an incident in between, the next round looks again.
        with reading(self._engine) as connection:
            seen = _last_change(connection, model)
            changes = self._look(connection, model, known, members, now_ms)
        if changes:
            with writing(self._engine) as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _TRIAGE_LOCK})
                audit.hold(connection)
                if _last_change(connection, model) == seen:
                    apply(connection, model, changes, now_ms=now_ms, new_id=self._new_id)

    def _look(
        self,
        connection: Connection,
        model: str,
        known: Mapping[str, KnownBundle],
        members: set[str],
        now_ms: int,
    ) -> list[Change]:
        standing = evidence.standing_findings(connection, members)
        around = evidence.surroundings(connection, known, members, standing, now_ms)
        causes = find_causes(standing, around)
        watched: set[tuple[str, str]] = set()
        for one in known.values():
            alarms = standing_alarms(connection, one.bundle)
            watched |= {(alarm.scope, alarm.scope_key) for alarm in alarms}
            causes += self._silent(connection, one, around, causes)
            causes += self._hidden(connection, one, alarms, around, causes)
            labelled = concept_causes(connection, one, around, budget=self._budget, now_ms=now_ms)
            causes += [cause for cause in labelled if not _told(cause, causes)]
        window_s = max((one.window_s for one in known.values()), default=DEVICE_WINDOW_S)
        changes = plan(
            [around.with_others(cause) for cause in causes],
            self._incidents(connection, model, around.attributes, watched, now_ms),
            now_ms=now_ms,
            settle_ms=int(self._settle_windows * min(window_s, MAX_SETTLING_WINDOW_S) * 1000),
            reopen_ms=self._reopen_ms,
        )
        return [self._with_rest(connection, change, causes, known, around) for change in changes]

    def _with_rest(
        self,
        connection: Connection,
        change: Change,
        causes: list[Cause],
        known: Mapping[str, KnownBundle],
        around: Surroundings,
    ) -> Change:
        """A change with its cause's counterfactual, where an incident begins or becomes another."""
        if isinstance(change, (Open, Reopen)) or (isinstance(change, Update) and change.widen):
            others = {
                device
                for cause in causes
                if cause.scope_key != change.cause.scope_key
                for device in cause.affected
            }
            cause = with_rest(connection, change.cause, known, around, others, bucket_s=self._bucket_s)
            return replace(change, cause=cause)
        return change

    def _silent(
        self, connection: Connection, known: KnownBundle, around: Surroundings, causes: list[Cause]
    ) -> list[Cause]:
        """Devices of one bundle that stand apart and do not say so."""
        found = devices_apart(connection, [known.bundle])
        apart = {name: one for name, one in found.items() if name in around.attributes}
        if not apart:
            return []
        since_ms = min(one.onset_ms for one in apart.values())
        bucket_ms = self._bucket_s * 1000
        last = evidence.spoke_since(connection, known.bundle, since_ms - bucket_ms)
        # What a device said before it stood apart says nothing of that.
        spoken = {name for name, one in apart.items() if last.get(name, -1) >= one.onset_ms - bucket_ms}
        spoken |= {device for cause in causes for device in cause.affected}
        onsets = {name: one.onset_ms for name, one in apart.items() if name not in spoken}
        measured = evidence.with_measured(connection, around, known, onsets)
        return silent_causes(apart, measured, known, spoken, budget=self._budget, bucket_s=self._bucket_s)

    def _hidden(
        self,
        connection: Connection,
        known: KnownBundle,
        alarms: list[Standing],
        around: Surroundings,
        causes: list[Cause],
    ) -> list[Cause]:
        """What merged windows of one bundle show beyond the causes that devices tell of."""
        if not alarms:
            self._hidden_before.pop(known.bundle, None)
            return []
        since_ms = min(alarm.onset_ms for alarm in alarms)
        told = set(evidence.spoke_since(connection, known.bundle, since_ms - self._bucket_s * 1000))
        told |= {device for cause in causes for device in cause.affected}
        # Rounds are many times as often as buckets, and what is merged here changes with these.
        newest = newest_bucket(connection, known, bucket_s=self._bucket_s)
        asked = newest, tuple(alarms), frozenset(told), tuple(around.devices)
        before = self._hidden_before.get(known.bundle)
        if before is None or before[0] != asked:
            found = hidden_causes(connection, known, alarms, around, asked[2], bucket_s=self._bucket_s)
            before = self._hidden_before[known.bundle] = asked, found
        return [one for one in before[1] if not _told(one, causes)]

    def _incidents(
        self,
        connection: Connection,
        model: str,
        attributes: Mapping[str, Mapping[str, str]],
        watched: set[tuple[str, str]],
        now_ms: int,
    ) -> list[Incident]:
        """The model's active incidents, and those resolved recently enough to be reopened."""
        query = select(incidents).where(
            incidents.c.model == model,
            incidents.c.state.in_(("open", "acknowledged", "muted"))
            | ((incidents.c.state == "resolved") & (incidents.c.resolved_ms >= now_ms - self._reopen_ms)),
        )
        rows = connection.execute(query).all()
        held: dict[str, set[str]] = {row.incident: set() for row in rows}
        for part in connection.execute(
            select(incident_devices.c.incident, incident_devices.c.device).where(
                incident_devices.c.incident.in_(held), incident_devices.c.cleared_ms.is_(None)
            )
        ):
            held[part.incident].add(part.device)
        return [
            Incident(
                incident=row.incident,
                kind=Kind(row.kind),
                scope=row.scope,
                scope_key=row.scope_key,
                state=row.state,
                members=_members(row.scope, row.attributes, attributes, held[row.incident]),
                standing=frozenset(held[row.incident]),
                opened_ms=row.opened_ms,
                resolved_ms=row.resolved_ms,
                muted_until_ms=row.muted_until_ms,
                watched=(row.scope, row.scope_key) in watched,
            )
            for row in rows
        ]


def _last_change(connection: Connection, model: str) -> tuple[int, int]:
    """How many incidents a model has, and when the newest change of any was made."""
    row = connection.execute(
        select(func.count(), func.coalesce(func.max(incidents.c.updated_ms), 0)).where(
            incidents.c.model == model
        )
    ).one()
    return int(row[0]), int(row[1])


def _told(hidden: Cause, causes: list[Cause]) -> bool:
    """Whether devices' own findings already tell of it: of the same scope, or of one that it lies within.

    Where the whole fleet drifts, those that have not said so yet drift as well.
    """
    concept = hidden.kind is Kind.CONCEPT_SHIFT
    alike = [one for one in causes if (one.kind is Kind.CONCEPT_SHIFT) == concept]
    if any((one.scope, one.scope_key) == (hidden.scope, hidden.scope_key) for one in alike):
        return True
    lead = next(((part.stream, part.direction) for part in hidden.streams), None)
    return any(
        one.scope in ("cohort", "fleet")
        and lead in {(part.stream, part.direction) for part in one.streams}
        and set(hidden.members) <= set(one.members)
        for one in alike
    )


def _members(
    scope: str, pairs: list[list[str]], attributes: Mapping[str, Mapping[str, str]], held: set[str]
) -> frozenset[str]:
    if scope == "fleet":
        return frozenset(attributes)
    if scope in ("device", "group"):
        return frozenset(held)
    return frozenset(
        device for device, own in attributes.items() if all(own.get(key) == value for key, value in pairs)
    )
