"""What a device sends next: a pure function of what is in flight, what was answered, and the clock.

Two answers come to every message. The broker's says that it has it, which is worth little; the aggregator's
says that it is committed, and only that takes a row out of the outbox. While the aggregator answers, up to 16
messages are under way; while it is silent, one at a time goes out as a probe, less and less often. What was
recorded offline is paced besides, so that a fleet which comes back together does not flood its aggregator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from driftpost_sync.backoff import Backoff, RandomFraction
from driftpost_sync.messages import Range
from driftpost_sync.outbox_row import Batch

# Messages under way at most; brokers commonly grant 20, some clouds 16.
MAX_FLIGHTS = 16
# While the aggregator stays silent the wait for its answer doubles up to this, ms: a probe in ten minutes.
MAX_ACK_TIMEOUT_MS = 600_000
# A refusal by the broker holds sending for at least / at most this long, ms.
HOLD_BASE_MS = 1_000
HOLD_CAP_MS = 300_000
# The aggregator's retained "offline" is believed for this long, ms; then a probe goes out nevertheless,
# because its will may have been published after it came back, or its successor may not announce itself.
HOST_GATE_MS = 300_000
# A connection cut this often in a row, each time with a message unconfirmed: that message is the suspect.
CUTS_ALLOWED = 3
# After this long a suspicion is put to the test again, ms: a single body that was suspected of cutting the
# connection is sent once more, and messages that were made smaller may grow.
DEFER_MS = 3_600_000
# Header, message number and properties of a publish, beside topic and payload, bytes.
PACKET_OVERHEAD = 16
# The longest topic of ours, bytes.
_TOPIC_BYTES = 160

NO_SUBSCRIBER = 0x10
NOT_AUTHORISED = 0x87
SESSION_TAKEN_OVER = 0x8E
TOPIC_INVALID = 0x90
PACKET_TOO_LARGE = 0x95
PAYLOAD_INVALID = 0x99
# Nothing a device can do about these by waiting a little: somebody has to change a configuration.
_CONFIGURATION = frozenset({NOT_AUTHORISED, TOPIC_INVALID, PAYLOAD_INVALID})

REASONS: dict[int, str] = {
    NO_SUBSCRIBER: "no aggregator is subscribed",
    0x80: "unspecified error",
    0x83: "refused by the broker's implementation",
    NOT_AUTHORISED: "not authorised to publish; check the broker's access rules for this device",
    0x89: "the broker is busy",
    SESSION_TAKEN_OVER: "another client took over this identity; two devices with one name?",
    TOPIC_INVALID: "the broker refuses the topic name",
    0x93: "more messages in flight than the broker allows",
    PACKET_TOO_LARGE: "the message is too large for the broker",
    0x96: "messages come too fast for the broker",
    0x97: "the broker's quota is used up",
    PAYLOAD_INVALID: "the broker refuses the payload format",
    0x9C: "the broker asks to use another server; change mqtt.host",
    0x9D: "the broker has moved; change mqtt.host",
    0x9F: "connections come too fast for the broker",
}


def reason_text(code: int) -> str:
    """What an MQTT 5 reason code means here."""
    return REASONS.get(code, f"reason code 0x{code:02X}")


@dataclass(frozen=True)
class Allowance:
    """What may be put together now."""

    max_bytes: int
    historical: bool


class Verdict(Enum):
    """What to do after a publish was answered."""

    FINE = "fine"
    KEEP = "keep"  # rows wait for another try
    TOO_LARGE = "too large"  # a single body that this broker will never take


@dataclass
class _Flight:
    incarnation: int
    ids: dict[int, int]  # seq -> outbox id, of what is not acknowledged
    wire_bytes: int
    sent_ms: int
    single: bool
    at_broker: bool = False


@dataclass
class Counters:
    """Since the link was made."""

    batches: int = 0
    messages: int = 0
    bytes: int = 0
    largest: int = 0
    acknowledged: int = 0
    resent: int = 0


@dataclass
class Drain:
    """State of the drain. All times are monotonic ms.

    Args:
        ack_timeout_ms: wait for the aggregator before sending again.
        message_bytes: largest message put together.
        inflight_bytes: under way at most.
        backlog_bytes_per_s: pace of what was recorded offline.
        random: for jitter.
    """

    ack_timeout_ms: int
    message_bytes: int
    inflight_bytes: int
    backlog_bytes_per_s: int
    random: RandomFraction
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self._flights: dict[int, _Flight] = {}
        self._timeout_ms = self.ack_timeout_ms
        self._window = 1
        self._limit = MAX_FLIGHTS
        self._believed_bytes = self.message_bytes  # what brokers have shown to take, over all connections
        self._message_bytes = self.message_bytes
        self._shrunk_ms = 0
        self._hold_until: int | None = None
        self._hold = Backoff(HOLD_BASE_MS, HOLD_CAP_MS, self.random)
        self._gate_since: int | None = None
        self._backlog_free_at = 0
        self._expired: set[int] = set()
        self._cuts = 0
        self._deferred: dict[int, int] = {}  # outbox id -> until
        self._progress_ms = 0
        self._refusal = ""
        self._silent = False

    # Questions

    @property
    def trouble(self) -> str:
        """What keeps messages from being settled now, "" if nothing does."""
        return self._refusal or ("the aggregator does not answer" if self._silent else "")

    @property
    def silent(self) -> bool:
        """Whether the aggregator has answered nothing for so long that only probes go out."""
        return self._silent

    @property
    def in_flight(self) -> frozenset[int]:
        """Outbox ids under way."""
        return frozenset(row_id for flight in self._flights.values() for row_id in flight.ids.values())

    def not_now(self, now: int) -> frozenset[int]:
        """Outbox ids that must not be taken now: under way, or suspected of cutting the connection."""
        self._deferred = {row_id: until for row_id, until in self._deferred.items() if until > now}
        return self.in_flight.union(self._deferred)

    @property
    def inflight_now(self) -> tuple[int, int]:
        """Messages and bytes under way."""
        return len(self._flights), sum(flight.wire_bytes for flight in self._flights.values())

    def _window_used(self) -> int:
        # What an earlier connection left with the broker takes none of this one's window.
        return sum(mid >= 0 for mid in self._flights)

    @property
    def host_offline(self) -> bool:
        """Whether the aggregator has said that it is away."""
        return self._gate_since is not None

    def incarnation_of(self, mid: int) -> int | None:
        """Incarnation of the rows in message `mid`, or None if it is not under way."""
        flight = self._flights.get(mid)
        return None if flight is None else flight.incarnation

    def allowance(self, now: int) -> Allowance | None:
        """What may be sent now, or None."""
        if self._hold_until is not None and now < self._hold_until:
            return None
        if self._gate_since is not None and now - self._gate_since < HOST_GATE_MS:
            return None
        _, size = self.inflight_now
        if self._window_used() >= self._window or size >= self.inflight_bytes:
            return None
        room = min(self._message_bytes, self.inflight_bytes - size)
        return Allowance(room, historical=now >= self._backlog_free_at)

    def wait_ms(self, now: int) -> int | None:
        """Until `allowance` or `expire` can answer differently by itself; None: only an event changes it."""
        times = [flight.sent_ms + self._timeout_ms for flight in self._flights.values()]
        if self._hold_until is not None:
            times.append(self._hold_until)
        if self._gate_since is not None:
            times.append(self._gate_since + HOST_GATE_MS)
        times.append(self._backlog_free_at)
        ahead = [time - now for time in times if time > now]
        return min(ahead) if ahead else None

    # Events

    def connected(self, receive_maximum: int, maximum_packet: int | None) -> None:
        """A broker accepted the connection and named its limits."""
        self._limit = max(1, min(MAX_FLIGHTS, receive_maximum))
        self._window = 1
        self._message_bytes = self._believed_bytes
        if maximum_packet is not None:
            room = maximum_packet - _TOPIC_BYTES - PACKET_OVERHEAD
            self._message_bytes = max(1, min(self._message_bytes, room))

    def disconnected(self) -> None:
        """What the broker has not confirmed goes back; what it has may still be answered."""
        self._flights = {mid: flight for mid, flight in self._flights.items() if flight.at_broker}
        # Message numbers start again with the next connection, so these flights are only found by content.
        self._flights = {-1 - index: flight for index, flight in enumerate(self._flights.values())}
        self._gate_since = None

    def sent(self, mid: int, batch: Batch, size: int, now: int) -> None:
        """A batch was handed to the broker as message `mid`, `size` bytes large."""
        ids = {row.seq: row.id for row in batch.rows}
        self._flights[mid] = _Flight(batch.incarnation, ids, size, now, len(batch.rows) == 1)
        self.counters.batches += 1
        self.counters.messages += len(ids)
        self.counters.bytes += size
        self.counters.largest = max(self.counters.largest, size)
        self.counters.resent += len(self._expired.intersection(ids.values()))
        self._expired.difference_update(ids.values())
        if batch.historical:
            start = max(self._backlog_free_at, now)
            self._backlog_free_at = start + size * 1000 // self.backlog_bytes_per_s
        if self._gate_since is not None:
            self._gate_since = now  # this was the probe

    def published(self, mid: int, code: int, now: int) -> tuple[Verdict, tuple[int, ...]]:
        """The broker answered message `mid`.

        Returns:
            What to do, and for `Verdict.TOO_LARGE` the sequence number to set aside.
        """
        flight = self._flights.get(mid)
        if flight is None:
            return Verdict.FINE, ()
        if code == 0:
            flight.at_broker = True
            self._cuts = 0
            if self._hold_until is None or now >= self._hold_until:
                self._refusal = ""
            return Verdict.FINE, ()
        del self._flights[mid]
        self._expired.update(flight.ids.values())
        self._refusal = reason_text(code)
        if code == PACKET_TOO_LARGE:
            return self._too_large(flight, now)
        self._window = 1
        wait = self._hold.next_ms(at_least_ms=HOLD_CAP_MS / 5 if code in _CONFIGURATION else 0)
        self._hold_until = now + wait
        return Verdict.KEEP, ()

    def dropped_as_too_large(self, now: int) -> tuple[Verdict, tuple[int, int] | None]:
        """The broker cut the connection because of a message's size; call before `disconnected`.

        Returns:
            What to do, and for `Verdict.TOO_LARGE` the (incarnation, seq) to set aside.
        """
        unconfirmed = [flight for flight in self._flights.values() if not flight.at_broker]
        if not unconfirmed:
            return Verdict.FINE, None
        largest = max(unconfirmed, key=lambda flight: flight.wire_bytes)
        self._refusal = reason_text(PACKET_TOO_LARGE)
        verdict, seqs = self._too_large(largest, now)
        return verdict, (largest.incarnation, seqs[0]) if seqs else None

    def cut(self, now: int, *, certain: bool) -> None:
        """The broker cut the connection without a reason; call before `disconnected`.

        Version 3.1.1 has no other way to refuse a message, so what is under way becomes suspect: at once if
        it is `certain` that the broker objected, else when it happened several times in a row. A suspect is
        made smaller; one that can not be waits while others are tried. It is not set aside for good, because
        the broker itself may be the one in trouble.
        """
        unconfirmed = [flight for flight in self._flights.values() if not flight.at_broker]
        if not unconfirmed:
            return
        self._cuts += 1
        if self._cuts < CUTS_ALLOWED and not certain:
            return
        self._cuts = 0
        largest = max(unconfirmed, key=lambda flight: flight.wire_bytes)
        verdict, _ = self._too_large(largest, now)
        self._refusal = "the broker cuts the connection when it is sent a message"
        if verdict is Verdict.TOO_LARGE:
            self._deferred.update(dict.fromkeys(largest.ids.values(), now + DEFER_MS))

    def _too_large(self, flight: _Flight, now: int) -> tuple[Verdict, tuple[int, ...]]:
        if flight.single:
            return Verdict.TOO_LARGE, tuple(flight.ids)
        # Kept for later connections too: the broker will hardly have grown.
        self._believed_bytes = max(1, flight.wire_bytes // 2)
        self._shrunk_ms = now
        self._message_bytes = min(self._message_bytes, self._believed_bytes)
        return Verdict.KEEP, ()

    def acknowledged(self, incarnation: int, ranges: Iterable[Range], now: int) -> int:
        """The aggregator settled these (committed or refused).

        Returns:
            How many of them were under way.
        """
        spans = tuple(ranges)
        done = 0
        for mid in list(self._flights):
            flight = self._flights[mid]
            if flight.incarnation != incarnation:
                continue
            for seq in [seq for seq in flight.ids if any(low <= seq <= high for low, high in spans)]:
                del flight.ids[seq]
                done += 1
            if not flight.ids:
                del self._flights[mid]
        if done:
            self._progress_ms = now
            if self._believed_bytes < self.message_bytes and now - self._shrunk_ms >= DEFER_MS:
                # A broker that merely died often, or was replaced, must not keep messages small for ever.
                self._believed_bytes = min(self.message_bytes, self._believed_bytes * 2)
                self._shrunk_ms = now
            self.counters.acknowledged += done
            self._timeout_ms = self.ack_timeout_ms
            self._window = min(self._limit, self._window * 2)
            self._hold.reset()
            self._hold_until = None
            self._gate_since = None
            self._refusal = ""
            self._silent = False
        return done

    def expire(self, now: int) -> int:
        """Give up waiting where the aggregator has been silent too long; the rows will be sent again.

        Returns:
            How many rows.
        """
        late = [mid for mid, flight in self._flights.items() if now - flight.sent_ms >= self._timeout_ms]
        if not late:
            return 0
        silent = now - self._progress_ms >= self._timeout_ms
        if silent:
            # Not one lost message, but nobody there: everything comes back, and one message goes as a probe.
            late = list(self._flights)
            self._window = 1
            # Jittered, so that devices which lost their aggregator together do not probe together.
            grown = self._timeout_ms * (1.5 + self.random.random())
            self._timeout_ms = round(min(MAX_ACK_TIMEOUT_MS, grown))
            self._silent = True
        count = 0
        for mid in late:
            flight = self._flights.pop(mid)
            count += len(flight.ids)
            self._expired.update(flight.ids.values())
        return count

    def host_is(self, online: bool, now: int) -> None:
        """The aggregator's presence changed."""
        if online:
            self._gate_since = None
            # It may have been restarted since the last probe: there is no need to wait out the long timeout.
            self._timeout_ms = self.ack_timeout_ms
        elif self._gate_since is None:
            self._gate_since = now
