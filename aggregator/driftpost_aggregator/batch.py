"""One batch of messages inside one transaction: count what is new, merge it, say what to acknowledge.

On PostgreSQL any number of workers do this side by side. Devices' rows are locked in the order of their
names, and with them everything that is kept by device, so one message that two workers hold counts once; what
all devices share is locked at the very end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from driftpost_aggregator import device_rows, presence
from driftpost_aggregator.catch_up import attributes_of, catch_up
from driftpost_aggregator.checks import (
    CheckedWindow,
    check_circumstances,
    check_envelope,
    check_window,
    joint_of,
)
from driftpost_aggregator.device_rows import Growth
from driftpost_aggregator.errors import BundleRejected, MessageRejected
from driftpost_aggregator.horizons import Horizons
from driftpost_aggregator.label_rollups import LabelContribution, check_labels, merge_labels
from driftpost_aggregator.labels.forwarding import settle
from driftpost_aggregator.merge import Contribution, merge_into_rollups
from driftpost_aggregator.places import Incoming, Place, ReadSketch, decode, read_sketches
from driftpost_aggregator.registry import Registry, register
from driftpost_aggregator.seen import Seen
from driftpost_aggregator.store import bulk, locks
from driftpost_aggregator.store.database import upsert
from driftpost_aggregator.store.tables import boards, findings, ledgers, quarantine, seen, windows
from driftpost_aggregator.times import moment
from driftpost_sketches.window_batch import WindowBatch
from driftpost_sync import topics
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages import (
    MAX_ITEMS,
    Ack,
    AnswerBody,
    BoardBody,
    Body,
    DescribeBody,
    FindingBody,
    LabelsBody,
    LedgerBody,
    WindowBody,
    printable,
    ranges_of,
)

__all__ = ["Batch", "Incoming", "Reply"]

# A rejected message is kept up to this length, bytes; messages themselves are limited to 64 KiB.
MAX_KEPT_BYTES = 64 * 1024
# Refusals in one acknowledgement: with reasons of 200 characters at 4 bytes each they take 39 kB, so that
# 512 ranges fit beside them into the 64 KiB that a device reads.
MAX_REFUSED = 48
_WINDOW_COLUMNS = (
    "device",
    "incarnation",
    "seq",
    "bundle",
    "schema_id",
    "start_ms",
    "end_ms",
    "clock",
    "received_ms",
    "rows",
    "parts",
    "window",
    "evidence",
    "merged",
)


@dataclass(frozen=True)
class Reply:
    """An acknowledgement for a device, to be sent once its content is committed."""

    device: str
    ack: Ack


@dataclass
class _Answer:
    acked: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    wanted: set[str] = field(default_factory=set)


class Batch:
    """The work of one transaction.

    `add` and `prepare` need no transaction, `finish` does everything that does.

    Args:
        registry: known bundles.
        fleet: whose topics we take.
        bucket_s: length of a rollup's bucket, seconds.
        quarantine_rows: rejected messages kept.
        now_ms: Unix ms.
    """

    _connection: Connection
    _horizons: Horizons

    def __init__(
        self, registry: Registry, *, fleet: str, bucket_s: int, quarantine_rows: int, now_ms: int
    ) -> None:
        self._registry = registry
        self._fleet = fleet
        self._bucket_s = bucket_s
        self._quarantine_rows = quarantine_rows
        self._now_ms = now_ms
        self._items: list[Place] = []
        self._bodies: list[Body | MalformedMessage] = []
        self._sketches: dict[int, ReadSketch] = {}
        self._refused: list[tuple[Place, str]] = []  # before anything was looked at
        self._states: list[presence.Told] = []
        self._growth: dict[str, Growth] = {}
        self._unborn: frozenset[str] = frozenset()
        self._answers: dict[tuple[str, int], _Answer] = {}
        self._seen: dict[tuple[str, int], Seen] = {}
        self._changed: set[tuple[str, int]] = set()
        self._windows: list[bulk.Values] = []
        self._contributions: list[Contribution] = []
        self._labels: list[LabelContribution] = []
        self._undescribed: set[str] = set()  # bundles of labels that nobody has described
        self._quarantined: list[dict[str, object]] = []
        self._refused_before: dict[str, set[tuple[int, int]]] = {}

    def add(self, incoming: Incoming, refuse: str | None = None) -> None:
        """Decode a message's outside; with `refuse`, everything in it goes to quarantine for that reason."""
        if incoming.topic.endswith("/state"):
            self._presence(incoming, refuse)
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
            place = Place(incoming, envelope, item)
            if refuse is None:
                self._items.append(place)
            else:
                self._refused.append((place, refuse))

    def prepare(self, engine: Engine) -> None:
        """Decode what was added, and read its sketches; looks only for bundles that are new here."""
        self._bodies = decode(self._items)
        self._sketches = read_sketches(self._bodies, self._registry, engine)

    def finish(self, connection: Connection) -> list[Reply]:
        """Do everything that needs the database, and say what to acknowledge after the commit.

        Args:
            connection: in a write transaction; the caller commits.
        """
        self._connection = connection
        bulk.by_keys(connection)
        if self._describes_news():
            locks.hold(connection, locks.INGEST)
        else:
            locks.share(connection, locks.INGEST)
        self._horizons = Horizons.read(connection, self._bucket_s)
        seen_ms = {told.device: told.received_ms for told in reversed(self._states)}
        seen_ms |= {device: growth.last_seen_ms for device, growth in self._growth.items()}
        locked = device_rows.lock(connection, seen_ms)
        self._unborn = locked.unborn - {told.device for told in self._states}
        presence.take(connection, self._states, locked.made)
        self._load_seen()
        for place, reason in self._refused:
            self._refuse(place, reason)
        # Descriptions first: the windows beside them can then be checked and merged at once.
        order = sorted(
            range(len(self._items)), key=lambda index: not isinstance(self._bodies[index], DescribeBody)
        )
        for index in order:
            self._count(index)
        self._write()
        return list(self._replies())

    def _describes_news(self) -> bool:
        """Whether a description may make windows count that other workers have stored, or store just now."""
        return any(
            isinstance(body, DescribeBody) and self._registry.find(self._connection, body.bundle) is None
            for body in self._bodies
        )

    def _growing(self, device: str, received_ms: int) -> Growth:
        growth = self._growth.setdefault(device, Growth(received_ms))
        growth.last_seen_ms = max(growth.last_seen_ms, received_ms)
        return growth

    def _presence(self, incoming: Incoming, refuse: str | None) -> None:
        try:
            if refuse is not None:
                raise MessageRejected(refuse)
            told = presence.read(incoming.topic, incoming.payload, self._fleet, incoming.received_ms)
        except MessageRejected as error:
            self._set_aside(incoming, "state", error.reason)
        else:
            if told is not None:
                self._states.append(told)

    def _load_seen(self) -> None:
        keys = sorted({place.key for place in self._items})
        columns = (seen.c.device, seen.c.incarnation)
        for device, incarnation, through, beyond in bulk.fetch(
            self._connection, seen, columns, keys, (*columns, seen.c.through, seen.c.beyond)
        ):
            self._seen[device, incarnation] = Seen.from_row(through, beyond)
        for key in keys:
            self._seen.setdefault(key, Seen())

    def _count(self, index: int) -> None:
        """Take one body, unless it was taken before, or by an earlier message of this very batch."""
        place, body = self._items[index], self._bodies[index]
        taken = self._seen[place.key]
        if place.item.seq in taken:
            self._answers[place.key].acked.append(place.item.seq)
            return
        try:
            # Before anything is counted: what is refused must leave no trace.
            taken.check(place.item.seq)
            if isinstance(body, MalformedMessage):
                raise MessageRejected(str(body))
            if isinstance(body, WindowBody):
                self._window(place, body, self._sketches.get(index))
            elif isinstance(body, FindingBody):
                self._finding(place, body)
            elif isinstance(body, LabelsBody):
                self._label(place, body)
            elif isinstance(body, LedgerBody):
                self._ledger(place, body)
            elif isinstance(body, BoardBody):
                self._board(place, body)
            elif isinstance(body, AnswerBody):
                settle(self._connection, place.device, body, self._now_ms)
            else:
                self._describe(place, body)
            taken.add(place.item.seq)
        except (MessageRejected, BundleRejected) as error:
            self._refuse(place, str(error))
            return
        self._changed.add(place.key)
        self._answers[place.key].acked.append(place.item.seq)

    def _window(self, place: Place, body: WindowBody, sketch: ReadSketch | None) -> None:
        known = self._registry.find(self._connection, body.bundle)
        if sketch is not None and sketch.known is known:
            sketch.check()
            checked = check_circumstances(body, sketch, known, place.sent)
        else:
            # Its bundle became known in this very batch, or is not yet: nothing read it together with others.
            sketch = None
            checked = check_window(body, known, place.sent)
        if known is None:
            self._answers[place.key].wanted.add(f"describe:{body.bundle}")
        else:
            if sketch is None:
                batch = WindowBatch(known.schema, [body.window], joint_of(known))
                sketch = ReadSketch(known, batch, 0)
            self._contributions.append(
                Contribution(
                    place.device,
                    body.bundle,
                    self._horizons.length_for(checked.start_ms),
                    checked.start_ms,
                    sketch.batch,
                    sketch.place,
                    body.window,
                )
            )
        self._windows.append(_window_row(place, checked, merged=known is not None))
        growth = self._growth[place.device]
        growth.windows += 1
        growth.parts += checked.parts
        growth.rows += checked.rows
        if growth.last_window_ms is None or checked.end_ms >= growth.last_window_ms:
            growth.last_window_ms = checked.end_ms
            growth.evidence = checked.evidence

    def _finding(self, place: Place, body: FindingBody) -> None:
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

    def _label(self, place: Place, body: LabelsBody) -> None:
        known = self._registry.find(self._connection, body.bundle)
        sketch = check_labels(body, known)
        if known is None:
            self._undescribed.add(body.bundle)
            self._answers[place.key].wanted.add(f"describe:{body.bundle}")
        end_ms, _ = moment(place.sent, body.mono_end, body.wall_end)
        self._labels.append(LabelContribution(place.device, body.bundle, end_ms, sketch, body.unknown))

    def _ledger(self, place: Place, body: LedgerBody) -> None:
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

    def _board(self, place: Place, body: BoardBody) -> None:
        name = (place.envelope.incarnation, place.item.seq)
        row = self._connection.execute(
            select(boards.c.incarnation, boards.c.seq).where(boards.c.device == place.device)
        ).first()
        if row is not None and (row.incarnation, row.seq) > name:
            return
        at_ms, _ = moment(place.sent, body.mono, body.wall)
        values = {
            "device": place.device,
            "incarnation": name[0],
            "seq": name[1],
            "at_ms": at_ms,
            "span_ms": body.span_ms,
            "readings": {sensor: list(values) for sensor, values in body.readings.items()},
        }
        upsert(self._connection, boards, [values])

    def _describe(self, place: Place, body: DescribeBody) -> None:
        if register(self._connection, body, source=place.device, now_ms=self._now_ms):
            self._registry.forget(body.bundle)
            catch_up(
                self._connection, self._registry, body.bundle, bucket_s=self._bucket_s, now_ms=self._now_ms
            )

    def _refuse(self, place: Place, reason: str) -> None:
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

    def _set_aside(self, incoming: Incoming, kind: str, reason: str, place: Place | None = None) -> None:
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
        bulk.insert(self._connection, windows, _WINDOW_COLUMNS, self._windows)
        bulk.replace(
            self._connection,
            seen,
            ("device", "incarnation", "through", "beyond"),
            [(*key, self._seen[key].through, self._seen[key].beyond) for key in sorted(self._changed)],
        )
        if self._quarantined:
            self._connection.execute(insert(quarantine), self._quarantined)
            newest = self._connection.execute(select(func.max(quarantine.c.id))).scalar_one()
            self._connection.execute(
                delete(quarantine).where(quarantine.c.id <= newest - self._quarantine_rows)
            )
        device_rows.grow(self._connection, self._growth)
        names = {part.device for part in self._contributions} | {part.device for part in self._labels}
        attributes = attributes_of(self._connection, names) if names else {}
        written = merge_into_rollups(self._connection, self._contributions, attributes, now_ms=self._now_ms)
        self._horizons.queue(self._connection, written)
        if self._labels:
            locks.hold(self._connection, locks.WIDE)
            merge_labels(self._connection, self._labels, attributes, self._now_ms, self._undescribed)

    def _replies(self) -> Iterable[Reply]:
        for (device, incarnation), answer in self._answers.items():
            wanted = sorted(answer.wanted)[:15]
            if device in self._unborn:
                # Nothing is known of it: a new device, or a database that was lost.
                wanted += ["birth", "ledger"]
            ranges, refused = ranges_of(answer.acked), tuple(answer.refused)
            while True:
                ack = Ack(incarnation, ranges[:MAX_ITEMS], refused[:MAX_REFUSED], tuple(wanted))
                yield Reply(device, ack)
                ranges, refused, wanted = ranges[MAX_ITEMS:], refused[MAX_REFUSED:], []
                if not ranges and not refused:
                    break


def _window_row(place: Place, checked: CheckedWindow, *, merged: bool) -> bulk.Values:
    """The values of `_WINDOW_COLUMNS`."""
    return (
        place.device,
        place.envelope.incarnation,
        place.item.seq,
        checked.body.bundle,
        checked.body.schema_id,
        checked.start_ms,
        checked.end_ms,
        checked.clock,
        place.incoming.received_ms,
        checked.rows,
        checked.parts,
        checked.body.window,
        checked.body.evidence,
        merged,
    )
