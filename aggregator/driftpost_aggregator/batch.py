"""One batch of messages inside one transaction: decode, check, count what is new, merge it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, case, delete, func, insert, select, text, tuple_, update

from driftpost_aggregator import presence
from driftpost_aggregator.catch_up import attributes_of, catch_up
from driftpost_aggregator.checks import CheckedWindow, check_envelope, check_window
from driftpost_aggregator.errors import BundleRejected, MessageRejected
from driftpost_aggregator.label_rollups import LabelContribution, check_labels, merge_labels
from driftpost_aggregator.merge import Contribution, merge_into_rollups
from driftpost_aggregator.registry import Registry, register
from driftpost_aggregator.seen import Seen
from driftpost_aggregator.store.database import upsert
from driftpost_aggregator.store.tables import (
    devices,
    findings,
    ledgers,
    quarantine,
    seen,
    windows,
)
from driftpost_aggregator.times import Sent, moment
from driftpost_sync import topics
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages import (
    MAX_ITEMS,
    Ack,
    Body,
    DescribeBody,
    Envelope,
    FindingBody,
    Item,
    LabelsBody,
    LedgerBody,
    WindowBody,
    decode_body,
    printable,
    ranges_of,
)

# A rejected message is kept up to this length, bytes; messages themselves are limited to 64 KiB.
MAX_KEPT_BYTES = 64 * 1024
# Workers that share one PostgreSQL merge one after the other: this arbitrary number is their advisory lock.
_MERGE_LOCK = 0x6472_6968
# Refusals in one acknowledgement: with reasons of 200 characters at 4 bytes each they take 39 kB, so that
# 512 ranges fit beside them into the 64 KiB that a device reads.
MAX_REFUSED = 48
# Keys asked for in one statement.
_KEYS_PER_QUERY = 2_000


@dataclass(frozen=True)
class Incoming:
    """A message as it came from the broker; `received_ms` is our clock, Unix ms."""

    topic: str
    payload: bytes
    received_ms: int


@dataclass(frozen=True)
class Reply:
    """An acknowledgement for a device, to be sent once its content is committed."""

    device: str
    ack: Ack


@dataclass(frozen=True)
class _Place:
    incoming: Incoming
    envelope: Envelope
    item: Item

    @property
    def device(self) -> str:
        return self.envelope.device

    @property
    def key(self) -> tuple[str, int]:
        return self.envelope.device, self.envelope.incarnation

    @property
    def sent(self) -> Sent:
        return Sent(self.envelope.mono, self.envelope.wall, self.incoming.received_ms)


@dataclass
class _Answer:
    acked: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    wanted: set[str] = field(default_factory=set)


@dataclass
class _Growth:
    """What the batch adds to a device's row."""

    last_seen_ms: int
    incarnation: int = 0
    windows: int = 0
    parts: int = 0
    rows: int = 0
    quarantined: int = 0
    last_window_ms: int | None = None
    evidence: float | None = None


class Batch:
    """The work of one transaction.

    Args:
        connection: in a write transaction; the caller commits.
        registry: known bundles.
        fleet: whose topics we take.
        bucket_s: length of a rollup's bucket, seconds.
        quarantine_rows: rejected messages kept.
        now_ms: Unix ms.
    """

    def __init__(
        self,
        connection: Connection,
        registry: Registry,
        *,
        fleet: str,
        bucket_s: int,
        quarantine_rows: int,
        now_ms: int,
    ) -> None:
        self._connection = connection
        self._registry = registry
        self._fleet = fleet
        self._bucket_s = bucket_s
        self._quarantine_rows = quarantine_rows
        self._now_ms = now_ms
        self._items: list[_Place] = []
        self._states: list[Incoming] = []
        self._growth: dict[str, _Growth] = {}
        self._answers: dict[tuple[str, int], _Answer] = {}
        self._seen: dict[tuple[str, int], Seen] = {}
        self._changed: set[tuple[str, int]] = set()
        self._windows: list[dict[str, object]] = []
        self._contributions: list[Contribution] = []
        self._labels: list[LabelContribution] = []
        self._undescribed: set[str] = set()  # bundles of labels that nobody has described
        self._quarantined: list[dict[str, object]] = []
        self._refused_before: dict[str, set[tuple[int, int]]] = {}

    def add(self, incoming: Incoming, refuse: str | None = None) -> None:
        """Decode a message's outside; with `refuse`, everything in it goes to quarantine for that reason."""
        if incoming.topic.endswith("/state"):
            if refuse is None:
                self._states.append(incoming)
            else:
                self._set_aside(incoming, "state", refuse)
            return
        try:
            envelope = check_envelope(incoming.topic, incoming.payload, self._fleet)
        except MessageRejected as error:
            self._set_aside(incoming, "message", error.reason)
            return
        growth = self._growing(envelope.device, incoming.received_ms)
        growth.incarnation = max(growth.incarnation, envelope.incarnation)
        self._answers.setdefault((envelope.device, envelope.incarnation), _Answer())
        for item in envelope.items:
            place = _Place(incoming, envelope, item)
            if refuse is None:
                self._items.append(place)
            else:
                self._refuse(place, refuse)

    def finish(self) -> list[Reply]:
        """Do everything that needs the database, and say what to acknowledge after the commit."""
        if self._connection.dialect.name == "postgresql":
            self._connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MERGE_LOCK})
        for incoming in self._states:
            self._presence(incoming)
        self._load_seen()
        self._create_devices()
        decoded = [(place, body) for place in self._items if (body := self._decode(place)) is not None]
        # Descriptions first: the windows beside them can then be checked and merged at once.
        for place, body in decoded:
            if isinstance(body, DescribeBody):
                self._count(place, body)
        for place, body in decoded:
            if not isinstance(body, DescribeBody):
                self._count(place, body)
        self._write()
        return list(self._replies())

    def _growing(self, device: str, received_ms: int) -> _Growth:
        growth = self._growth.setdefault(device, _Growth(received_ms))
        growth.last_seen_ms = max(growth.last_seen_ms, received_ms)
        return growth

    def _presence(self, incoming: Incoming) -> None:
        try:
            presence.take(
                self._connection, incoming.topic, incoming.payload, self._fleet, incoming.received_ms
            )
        except MessageRejected as error:
            self._set_aside(incoming, "state", error.reason)

    def _load_seen(self) -> None:
        keys = sorted({place.key for place in self._items})
        for begin in range(0, len(keys), _KEYS_PER_QUERY):
            query = select(seen).where(
                tuple_(seen.c.device, seen.c.incarnation).in_(keys[begin : begin + _KEYS_PER_QUERY])
            )
            for row in self._connection.execute(query):
                self._seen[row.device, row.incarnation] = Seen.from_row(row.through, row.beyond)
        for key in keys:
            self._seen.setdefault(key, Seen())

    def _create_devices(self) -> None:
        rows: list[dict[str, object]] = [
            {
                "device": device,
                "online": False,
                "first_seen_ms": growth.last_seen_ms,
                "last_seen_ms": growth.last_seen_ms,
                "windows": 0,
                "parts": 0,
                "rows": 0,
                "quarantined": 0,
            }
            for device, growth in self._growth.items()
        ]
        upsert(self._connection, devices, rows, keep=True)

    def _decode(self, place: _Place) -> Body | None:
        if place.item.seq in self._seen[place.key]:
            self._answers[place.key].acked.append(place.item.seq)
            return None
        try:
            return decode_body(place.item.kind, place.item.body)
        except MalformedMessage as error:
            self._refuse(place, str(error))
            return None

    def _count(self, place: _Place, body: Body) -> None:
        """Take one body, unless it was taken by an earlier message of this very batch."""
        taken = self._seen[place.key]
        if place.item.seq in taken:
            self._answers[place.key].acked.append(place.item.seq)
            return
        try:
            # Before anything is counted: what is refused must leave no trace.
            taken.check(place.item.seq)
            if isinstance(body, WindowBody):
                self._window(place, body)
            elif isinstance(body, FindingBody):
                self._finding(place, body)
            elif isinstance(body, LabelsBody):
                self._label(place, body)
            elif isinstance(body, LedgerBody):
                self._ledger(place, body)
            else:
                self._describe(place, body)
            taken.add(place.item.seq)
        except (MessageRejected, BundleRejected) as error:
            self._refuse(place, str(error))
            return
        self._changed.add(place.key)
        self._answers[place.key].acked.append(place.item.seq)

    def _window(self, place: _Place, body: WindowBody) -> None:
        known = self._registry.find(self._connection, body.bundle)
        checked = check_window(body, known, place.sent)
        if known is None:
            self._answers[place.key].wanted.add(f"describe:{body.bundle}")
        else:
            self._contributions.append(
                Contribution(place.device, body.bundle, checked.start_ms, checked.window, body.window)
            )
        self._windows.append(_window_row(place, checked, merged=known is not None))
        growth = self._growth[place.device]
        growth.windows += 1
        growth.parts += checked.window.parts
        growth.rows += checked.window.rows
        if growth.last_window_ms is None or checked.end_ms >= growth.last_window_ms:
            growth.last_window_ms = checked.end_ms
            growth.evidence = checked.evidence

    def _finding(self, place: _Place, body: FindingBody) -> None:
        at_ms, _ = moment(place.sent, body.mono, body.wall)
        onset_ms, _ = moment(place.sent, body.onset_mono, body.onset_wall)
        same = (findings.c.device == place.device) & (findings.c.id == body.id)
        cleared_ms = None
        if body.state == "cleared":
            self._connection.execute(
                update(findings)
                .where(same, findings.c.state == "raised", findings.c.cleared_ms.is_(None))
                .values(cleared_ms=at_ms)
            )
        else:
            # Its end may have overtaken it. Not min() in SQL: it would walk all findings of the device.
            ends = self._connection.execute(
                select(findings.c.at_ms).where(same, findings.c.state == "cleared")
            ).scalars()
            cleared_ms = min(ends, default=None)
        self._connection.execute(
            insert(findings).values(
                device=place.device,
                incarnation=place.envelope.incarnation,
                seq=place.item.seq,
                id=body.id,
                bundle=body.bundle,
                state=body.state,
                kind=body.kind,
                source=body.source,
                streams=[[name, share] for name, share in body.streams],
                log_e=body.log_e,
                effect=body.effect,
                effect_natural=body.effect_natural,
                unit=body.unit,
                direction=body.direction,
                onset_ms=min(onset_ms, at_ms),
                at_ms=at_ms,
                received_ms=place.incoming.received_ms,
                text=printable(body.text, 1_000),
                cleared_ms=cleared_ms,
            )
        )

    def _label(self, place: _Place, body: LabelsBody) -> None:
        known = self._registry.find(self._connection, body.bundle)
        sketch = check_labels(body, known)
        if known is None:
            self._undescribed.add(body.bundle)
            self._answers[place.key].wanted.add(f"describe:{body.bundle}")
        end_ms, _ = moment(place.sent, body.mono_end, body.wall_end)
        self._labels.append(LabelContribution(place.device, body.bundle, end_ms, sketch, body.unknown))

    def _ledger(self, place: _Place, body: LedgerBody) -> None:
        if not body.balanced:
            raise MessageRejected(
                "its ledger does not balance: recorded is not acked + pending + quarantined"
            )
        key = (ledgers.c.device == place.device) & (ledgers.c.incarnation == body.incarnation)
        row = self._connection.execute(select(ledgers.c.sender, ledgers.c.seq).where(key)).first()
        if row is not None and (row.sender, row.seq) > (place.envelope.incarnation, place.item.seq):
            return
        values: dict[str, object] = {
            "device": place.device,
            "incarnation": body.incarnation,
            "sender": place.envelope.incarnation,
            "seq": place.item.seq,
            "received_ms": place.incoming.received_ms,
            "lost_rows_at_start": body.lost_rows_at_start,
        }
        for name in ("recorded", "acked", "pending", "quarantined", "merged"):
            tally = getattr(body, name)
            values |= {f"{name}_windows": tally.windows, f"{name}_rows": tally.rows}
        upsert(self._connection, ledgers, [values])

    def _describe(self, place: _Place, body: DescribeBody) -> None:
        if register(self._connection, body, source=place.device, now_ms=self._now_ms):
            self._registry.forget(body.bundle)
            catch_up(
                self._connection, self._registry, body.bundle, bucket_s=self._bucket_s, now_ms=self._now_ms
            )

    def _refuse(self, place: _Place, reason: str) -> None:
        self._answers[place.key].refused.append((place.item.seq, printable(reason)))
        # A refusal whose acknowledgement was lost comes back: one row in quarantine is enough.
        before = self._refusals(place.device)
        name = place.envelope.incarnation, place.item.seq
        if name not in before:
            before.add(name)
            self._growth[place.device].quarantined += 1
            self._set_aside(place.incoming, place.item.kind[:40], reason, place)

    def _refusals(self, device: str) -> set[tuple[int, int]]:
        """What of a device is in quarantine; asked for once a batch, as one message may hold 512 refusals."""
        if device not in self._refused_before:
            query = select(quarantine.c.incarnation, quarantine.c.seq).where(
                quarantine.c.device == device, quarantine.c.seq.is_not(None)
            )
            self._refused_before[device] = {
                (row.incarnation, row.seq) for row in self._connection.execute(query)
            }
        return self._refused_before[device]

    def _set_aside(self, incoming: Incoming, kind: str, reason: str, place: _Place | None = None) -> None:
        try:
            device: str | None = topics.parse(incoming.topic).device
        except MalformedMessage:
            device = None
        body = incoming.payload if place is None else place.item.body
        self._quarantined.append(
            {
                "received_ms": incoming.received_ms,
                "device": device,
                "topic": printable(incoming.topic, 300),
                "incarnation": None if place is None else place.envelope.incarnation,
                "seq": None if place is None else place.item.seq,
                "kind": printable(kind, 40),
                "reason": printable(reason, 300),
                "size": len(body),
                "body": body[:MAX_KEPT_BYTES],
            }
        )

    def _write(self) -> None:
        if self._windows:
            self._connection.execute(insert(windows), self._windows)
        if self._contributions:
            names = {part.device for part in self._contributions}
            merge_into_rollups(
                self._connection,
                self._contributions,
                attributes_of(self._connection, names),
                bucket_s=self._bucket_s,
                now_ms=self._now_ms,
            )
        if self._labels:
            labelled = {part.device for part in self._labels}
            merge_labels(
                self._connection,
                self._labels,
                attributes_of(self._connection, labelled),
                self._now_ms,
                self._undescribed,
            )
        upsert(
            self._connection,
            seen,
            [
                {
                    "device": device,
                    "incarnation": incarnation,
                    "through": self._seen[device, incarnation].through,
                    "beyond": self._seen[device, incarnation].beyond,
                }
                for device, incarnation in sorted(self._changed)
            ],
        )
        if self._quarantined:
            self._connection.execute(insert(quarantine), self._quarantined)
            newest = self._connection.execute(select(func.max(quarantine.c.id))).scalar_one()
            self._connection.execute(
                delete(quarantine).where(quarantine.c.id <= newest - self._quarantine_rows)
            )
        self._grow_devices()

    def _grow_devices(self) -> None:
        if not self._growth:
            return
        newer = bindparam("p_last_window_ms") >= func.coalesce(devices.c.last_window_ms, 0)
        later = bindparam("p_last_seen_ms") > devices.c.last_seen_ms
        statement = (
            update(devices)
            .where(devices.c.device == bindparam("p_device"))
            .values(
                windows=devices.c.windows + bindparam("p_windows"),
                parts=devices.c.parts + bindparam("p_parts"),
                rows=devices.c.rows + bindparam("p_rows"),
                quarantined=devices.c.quarantined + bindparam("p_quarantined"),
                last_seen_ms=case((later, bindparam("p_last_seen_ms")), else_=devices.c.last_seen_ms),
                # Only a guess until its birth says it: a backlog may be of an earlier one.
                incarnation=func.coalesce(devices.c.incarnation, bindparam("p_incarnation")),
                last_window_ms=case((newer, bindparam("p_last_window_ms")), else_=devices.c.last_window_ms),
                evidence=case((newer, bindparam("p_evidence")), else_=devices.c.evidence),
            )
        )
        self._connection.execute(
            statement,
            [
                {
                    "p_device": device,
                    "p_windows": growth.windows,
                    "p_parts": growth.parts,
                    "p_rows": growth.rows,
                    "p_quarantined": growth.quarantined,
                    "p_last_seen_ms": growth.last_seen_ms,
                    "p_incarnation": growth.incarnation,
                    # Before every window there was: leaves the two columns as they are.
                    "p_last_window_ms": -1 if growth.last_window_ms is None else growth.last_window_ms,
                    "p_evidence": growth.evidence,
                }
                for device, growth in self._growth.items()
            ],
        )

    def _replies(self) -> Iterable[Reply]:
        unborn = self._unborn()
        for (device, incarnation), answer in self._answers.items():
            wanted = sorted(answer.wanted)[:15]
            if device in unborn:
                wanted.append("birth")
            ranges, refused = ranges_of(answer.acked), tuple(answer.refused)
            while True:
                ack = Ack(incarnation, ranges[:MAX_ITEMS], refused[:MAX_REFUSED], tuple(wanted))
                yield Reply(device, ack)
                ranges, refused, wanted = ranges[MAX_ITEMS:], refused[MAX_REFUSED:], []
                if not ranges and not refused:
                    break

    def _unborn(self) -> set[str]:
        """Devices that send but whose birth we never saw."""
        query = select(devices.c.device).where(
            devices.c.device.in_(self._growth), devices.c.clock_good.is_(None)
        )
        return set(self._connection.execute(query).scalars()) if self._growth else set()


def _window_row(place: _Place, checked: CheckedWindow, *, merged: bool) -> dict[str, object]:
    return {
        "device": place.device,
        "incarnation": place.envelope.incarnation,
        "seq": place.item.seq,
        "bundle": checked.body.bundle,
        "schema_id": checked.body.schema_id,
        "start_ms": checked.start_ms,
        "end_ms": checked.end_ms,
        "clock": checked.clock,
        "received_ms": place.incoming.received_ms,
        "rows": checked.window.rows,
        "parts": checked.window.parts,
        "window": checked.body.window,
        "evidence": checked.body.evidence,
        "merged": merged,
    }
