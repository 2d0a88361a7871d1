"""The device's side of the wire: one thread that keeps a connection and empties the outbox over it."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from random import SystemRandom

from driftpost_sync import topics
from driftpost_sync.backoff import RandomFraction
from driftpost_sync.clock import Clock
from driftpost_sync.connection import (
    MALFORMED_PACKET,
    Connected,
    Event,
    Lost,
    Published,
    Received,
    Subscribed,
    Will,
    check_files,
)
from driftpost_sync.drain import (
    PACKET_OVERHEAD,
    PACKET_TOO_LARGE,
    SESSION_TAKEN_OVER,
    Drain,
    Verdict,
    reason_text,
)
from driftpost_sync.errors import MalformedMessage, SyncError
from driftpost_sync.line import TWIN_WAIT_MS, Line
from driftpost_sync.messages import (
    Ack,
    Command,
    Envelope,
    HostPresence,
    Item,
    Presence,
    Request,
    decode_down,
)
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.outbox import Outbox
from driftpost_sync.outbox_row import Batch
from driftpost_sync.topics import Identity

log = logging.getLogger(__name__)

# The broker keeps the session, and with it acknowledgements sent meanwhile, this long.
SESSION_EXPIRY_S = 3600
# Messages the broker may have under way towards the device; they are small and few.
RECEIVE_MAXIMUM = 16
# A connection that flaps within this time is not announced to the fleet, s.
WILL_DELAY_S = 30
# The loop comes round at least this often, so that the watchdog sees that it lives, s.
_ROUND_S = 1.0
# Without a wake the outbox is looked into this often, ms: rows may have been put by another process.
_LOOK_EVERY_MS = 5_000
# After the store failed (disk full, locked) it is left alone for this long, ms.
_STORE_PAUSE_MS = 5_000
# Presence is corrected at most this often, ms, so that two devices with one identity do not storm.
_BIRTH_EVERY_MS = 5_000
# A goodbye waits this long for the socket at most, s.
_GOODBYE_S = 1.0

OutboxProvider = Callable[[], AbstractContextManager[Outbox]]


@dataclass(frozen=True)
class LinkStatus:
    """A snapshot for `driftpost agent status`.

    Attributes:
        connected: whether the broker has accepted.
        protocol: "5", "3.1.1", or None before the first connection.
        last_error: the last thing that went wrong with the connection, "" if nothing ever did.
        trouble: what keeps messages from going now, "" if nothing does.
        host_online: what the aggregator last said about itself; None if it never said anything.
        connects: connections that were accepted.
        in_flight_messages, in_flight_bytes: sent, not acknowledged by the aggregator.
        sent_messages, sent_bytes: handed to the broker, repeats included; bodies and bytes of envelopes.
        largest_message: bytes of the largest envelope so far.
        acked_messages: settled by the aggregator while under way.
        resent_messages: sent once more.
        refused_messages: set aside because the aggregator or the broker will never take them.
        malformed: messages to this device that broke the protocol.
        twins: times that another client with this identity showed.
        round_mono: monotonic ms of the loop's last round, for the watchdog.
    """

    connected: bool = False
    protocol: str | None = None
    last_error: str = ""
    trouble: str = ""
    host_online: bool | None = None
    connects: int = 0
    in_flight_messages: int = 0
    in_flight_bytes: int = 0
    sent_messages: int = 0
    sent_bytes: int = 0
    largest_message: int = 0
    acked_messages: int = 0
    resent_messages: int = 0
    refused_messages: int = 0
    malformed: int = 0
    twins: int = 0
    round_mono: int = 0


class Link:
    """Drains an outbox to the aggregator.

    Args:
        settings: the broker and the limits.
        identity: who this device is.
        outbox: gives the outbox inside a transaction that commits on leaving, with whatever lock its
            connection needs.
        presence: the birth as it is now; the will is made of it.
        on_command: called in the link's thread with a command for this device, unverified.
        on_request: called in the link's thread with a request of the aggregator, which may come again.
        on_wanted: called in the link's thread with what the aggregator asks to be sent again: "ledger",
            "describe", "describe:<bundle>". ("birth" the link answers by itself.)
        clock: for all times.
        exit_event: ends the thread.
        random: for jitter.
    """

    def __init__(
        self,
        settings: MqttSettings,
        identity: Identity,
        outbox: OutboxProvider,
        presence: Callable[[], Presence],
        *,
        on_command: Callable[[Command], None],
        on_request: Callable[[Request], None],
        on_wanted: Callable[[str], None],
        clock: Clock,
        exit_event: threading.Event,
        random: RandomFraction | None = None,
    ) -> None:
        self._identity = identity
        self._outbox = outbox
        self._presence = presence
        self._on_command = on_command
        self._on_request = on_request
        self._on_wanted = on_wanted
        self._clock = clock
        self._exit = exit_event
        self._host_topic = topics.host_state(identity.fleet)
        draw = SystemRandom() if random is None else random
        self._drain = Drain(
            ack_timeout_ms=round(settings.ack_timeout_s * 1000),
            message_bytes=settings.message_bytes,
            inflight_bytes=settings.inflight_bytes,
            backlog_bytes_per_s=settings.backlog_bytes_per_s,
            random=draw,
        )
        check_files(settings)
        self._line = Line(
            settings,
            identity.client_id,
            filters=(identity.down, identity.state, self._host_topic),
            will=self._will,
            session_expiry_s=SESSION_EXPIRY_S,
            receive_maximum=RECEIVE_MAXIMUM,
            manual_ack=False,
            clock=clock,
            random=draw,
            log=log,
        )
        self._ready = False
        self._windows_held = False
        self._look_ms = 0
        self._look_wanted = threading.Event()
        self._pause_until = 0
        self._birth_ms: int | None = None
        self._birth_wanted = threading.Event()
        self._incarnation = 0
        self._announced = False
        self._maximum_packet: int | None = None
        self._host_online: bool | None = None
        self._refused = 0
        self._malformed = 0
        self._twins = 0
        self._store_trouble = ""
        self._status = LinkStatus()
        self._thread = threading.Thread(target=self._run, name="driftpost-link", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """There is something new in the outbox; from any thread."""
        self._look_wanted.set()
        self._line.waker.wake()

    def hold_windows(self, held: bool) -> None:
        """Leave windows in the outbox, or send them again; everything else goes on. From any thread."""
        if held is self._windows_held:
            return
        self._windows_held = held
        if not held:
            self.wake()

    def announce(self) -> None:
        """What `presence` returns has changed: publish it again; from any thread."""
        self._birth_wanted.set()
        self._line.waker.wake()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Set the exit event, say goodbye and wait; whether the thread ended in time."""
        self._exit.set()
        self._line.waker.wake()
        if self._thread.ident is None:
            self._line.close(flush_s=0.0)
        else:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def status(self) -> LinkStatus:
        """The latest snapshot; from any thread."""
        return self._status

    # The thread

    def _run(self) -> None:
        try:
            while not self._exit.is_set():
                try:
                    self._round()
                except (sqlite3.Error, SyncError) as error:
                    self._store_failed(error, self._clock.mono_ms())
                    self._disconnected()
                    self._line.fail(self._store_trouble)
                except Exception:  # this loop must outlive whatever a packet or a callback does
                    log.exception("the link failed and starts over")
                    self._disconnected()
                    self._line.fail("internal error; see the log")
                self._publish_status()
            self._goodbye()
        finally:
            self._disconnected()
            self._line.close(flush_s=_GOODBYE_S)
            self._publish_status()

    def _round(self) -> None:
        for event in self._line.step(self._patience_s()):
            self._handle(event)
        if not self._ready:
            return
        if self._look_wanted.is_set():
            self._look_wanted.clear()  # before looking: what is put while we look sets it again
            self._look_ms = 0
        now = self._clock.mono_ms()
        if self._birth_wanted.is_set() and self._may_announce(now):
            self._announce(now)
        if now >= self._pause_until:
            try:
                self._send(now)
                self._store_trouble = ""
            except (sqlite3.Error, SyncError) as error:
                self._store_failed(error, now)

    def _patience_s(self) -> float:
        now = self._clock.mono_ms()
        waits = [_ROUND_S * 1000.0, self._look_ms - now, self._drain.wait_ms(now)]
        if not self._ready:
            return _ROUND_S
        if now < self._pause_until:
            return min(_ROUND_S, (self._pause_until - now) / 1000)
        return max(min(wait for wait in waits if wait is not None), 0.0) / 1000

    def _handle(self, event: Event) -> None:
        now = self._clock.mono_ms()
        if isinstance(event, Connected):
            self._drain.connected(event.receive_maximum, event.maximum_packet)
            self._maximum_packet = event.maximum_packet
        elif isinstance(event, Subscribed):
            if self._identity.down in event.refused:
                self._disconnected()
                self._line.fail(f"the broker does not let this device read {self._identity.down}")
                return
            self._became_ready(now)
        elif isinstance(event, Published):
            self._published(event, now)
        elif isinstance(event, Received):
            self._received(event, now)
        elif isinstance(event, Lost):
            self._lost(event, now)

    def _became_ready(self, now: int) -> None:
        with self._outbox() as outbox:
            outbox.live = not self._drain.silent
            self._incarnation = outbox.incarnation
        self._ready = True
        self._look_ms = 0
        self._announce(now)

    def _disconnected(self) -> None:
        self._drain.disconnected()
        if self._ready:
            self._ready = False
            try:
                with self._outbox() as outbox:
                    outbox.live = False
            except (sqlite3.Error, SyncError):
                log.warning("the store failed while the link went down", exc_info=True)

    def _lost(self, event: Lost, now: int) -> None:
        if event.code == SESSION_TAKEN_OVER:
            self._twin()
        elif event.code == PACKET_TOO_LARGE:
            verdict, which = self._drain.dropped_as_too_large(now)
            if verdict is Verdict.TOO_LARGE and which is not None:
                self._set_aside(*which, "the broker cuts the connection: too large", now)
        elif event.answered:
            self._drain.cut(now, certain=event.code == MALFORMED_PACKET)
        self._disconnected()

    # Sending

    def _send(self, now: int) -> None:
        if self._drain.expire(now):
            self._look_ms = 0
            if self._drain.silent:
                with self._outbox() as outbox:
                    outbox.live = False
        while (allowance := self._drain.allowance(now)) is not None and self._look_ms <= now:
            with self._outbox() as outbox:
                batch = outbox.next_batch(
                    allowance.max_bytes,
                    now=now,
                    exclude=self._drain.not_now(now),
                    live_since=self._line.connected_since,
                    historical=allowance.historical,
                    probe=self._drain.silent,
                    windows=not self._windows_held,
                )
                comparable = batch is not None and outbox.comparable(batch.incarnation)
            if batch is None:
                self._look_ms = now + _LOOK_EVERY_MS
                if not allowance.historical:
                    self._look_ms = min(self._look_ms, now + (self._drain.wait_ms(now) or 0))
                return
            self._publish(batch, comparable, now)

    def _publish(self, batch: Batch, comparable: bool, now: int) -> None:
        payload = Envelope(
            device=self._identity.device,
            incarnation=batch.incarnation,
            mono=now if comparable else None,
            wall=self._clock.wall_ms(),
            historical=batch.historical,
            items=tuple(Item(row.seq, row.kind, row.body) for row in batch.rows),
        ).to_bytes()
        limit = self._maximum_packet
        if limit is not None and len(payload) + len(self._identity.up) + PACKET_OVERHEAD > limit:
            # A batch is never put together larger than that: this is a single body.
            for row in batch.rows:
                reason = f"the broker takes at most {limit} bytes"
                self._set_aside(row.incarnation, row.seq, reason, now)
            return
        mid = self._line.publish(self._identity.up, payload)
        if mid is not None:
            self._drain.sent(mid, batch, len(payload), now)

    def _published(self, event: Published, now: int) -> None:
        incarnation = self._drain.incarnation_of(event.mid)
        verdict, seqs = self._drain.published(event.mid, event.code, now)
        if event.code:
            self._look_ms = 0
            log.warning("the broker does not take a message: %s", reason_text(event.code))
        if verdict is Verdict.TOO_LARGE and incarnation is not None:
            for seq in seqs:
                self._set_aside(incarnation, seq, "too large for the broker", now)

    def _set_aside(self, incarnation: int, seq: int, reason: str, now: int) -> None:
        try:
            with self._outbox() as outbox:
                self._refused += outbox.quarantine(incarnation, seq, reason, now=now)
        except (sqlite3.Error, SyncError) as error:
            self._store_failed(error, now)

    def _store_failed(self, error: Exception, now: int) -> None:
        text = f"the store failed: {error}"
        if text != self._store_trouble:
            log.warning("%s", text)
        self._store_trouble = text
        self._pause_until = now + _STORE_PAUSE_MS

    # Receiving

    def _received(self, message: Received, now: int) -> None:
        try:
            if message.topic == self._identity.down:
                self._down(decode_down(message.payload), now)
            elif message.topic == self._identity.state:
                self._own_state(Presence.from_bytes(message.payload), retained=message.retain, now=now)
            elif message.topic == self._host_topic:
                self._host_online = HostPresence.from_bytes(message.payload).online
                self._drain.host_is(self._host_online, now)
                if self._host_online:
                    self._look_ms = 0
        except MalformedMessage as error:
            self._malformed += 1
            log.warning("ignored a message on %s: %s", message.topic[:200], error)

    def _down(self, message: Ack | Command | Request | None, now: int) -> None:
        if isinstance(message, Ack):
            self._ack(message, now)
        elif isinstance(message, Command):
            self._on_command(message)
        elif isinstance(message, Request):
            self._on_request(message)

    def _ack(self, ack: Ack, now: int) -> None:
        try:
            with self._outbox() as outbox:
                outbox.live = self._ready
                outbox.acknowledge(ack.incarnation, ack.ranges)
                for seq, reason in ack.refused:
                    text = f"refused by the aggregator: {reason}"
                    self._refused += outbox.quarantine(ack.incarnation, seq, text, now=now)
        except (sqlite3.Error, SyncError) as error:
            # The rows stay pending, are sent again, and the aggregator acknowledges them again.
            self._store_failed(error, now)
            return
        refused = tuple((seq, seq) for seq, _ in ack.refused)
        self._drain.acknowledged(ack.incarnation, ack.ranges + refused, now)
        self._look_ms = 0
        for wanted in ack.wanted:
            if wanted == "birth":
                self._birth_wanted.set()
            else:
                self._on_wanted(wanted)

    def _own_state(self, presence: Presence, *, retained: bool, now: int) -> None:
        """What others read about this device: correct it, and notice a twin (MQTT 3.1.1 has no 0x8E)."""
        if presence.incarnation == self._incarnation:
            # The will of a connection of ours that the broker took longer to give up than we did.
            if not presence.online and not retained:
                self._birth_wanted.set()
            return
        with self._outbox() as outbox:
            own_past = outbox.is_own(presence.incarnation)
        if own_past:
            if not presence.online:
                self._birth_wanted.set()
        elif (presence.online and not retained) or self._announced:
            # Somebody else speaks under this name now, or has since this process last did.
            self._announced = False
            self._twin()
            self._disconnected()
            self._line.fail(reason_text(SESSION_TAKEN_OVER), at_least_ms=TWIN_WAIT_MS)

    def _twin(self) -> None:
        self._twins += 1
        log.warning("%s", reason_text(SESSION_TAKEN_OVER))

    # Presence

    def _will(self) -> Will:
        payload = replace(self._presence(), online=False).to_bytes()
        return Will(self._identity.state, payload, WILL_DELAY_S)

    def _may_announce(self, now: int) -> bool:
        return self._birth_ms is None or now - self._birth_ms >= _BIRTH_EVERY_MS

    def _announce(self, now: int) -> None:
        self._birth_wanted.clear()
        self._birth_ms = now
        self._announced = True
        payload = replace(self._presence(), online=True).to_bytes()
        self._line.publish(self._identity.state, payload, retain=True)

    def _goodbye(self) -> None:
        if self._line.connected:
            payload = replace(self._presence(), online=False).to_bytes()
            self._line.publish(self._identity.state, payload, retain=True)
        try:
            with self._outbox() as outbox:
                outbox.settle()
        except (sqlite3.Error, SyncError):
            log.warning("the store failed at the end; some messages will be sent again", exc_info=True)

    def _publish_status(self) -> None:
        flights, size = self._drain.inflight_now
        counters = self._drain.counters
        self._status = LinkStatus(
            connected=self._line.connected,
            protocol=self._line.protocol,
            last_error=self._line.last_error,
            trouble=self._trouble(),
            host_online=self._host_online,
            connects=self._line.connects,
            in_flight_messages=flights,
            in_flight_bytes=size,
            sent_messages=counters.messages,
            sent_bytes=counters.bytes,
            largest_message=counters.largest,
            acked_messages=counters.acknowledged,
            resent_messages=counters.resent,
            refused_messages=self._refused,
            malformed=self._malformed,
            twins=self._twins,
            round_mono=self._clock.mono_ms(),
        )

    def _trouble(self) -> str:
        if self._store_trouble:
            return self._store_trouble
        if not self._line.connected:
            return self._line.last_error or "not connected yet"
        if self._drain.host_offline:
            return "the aggregator is offline"
        return self._drain.trouble
