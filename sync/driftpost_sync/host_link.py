"""The aggregator's side of the wire: what devices send, as batches to commit; and the way back to them.

A message is acknowledged to the broker only when the aggregator is done with it. While it is busy the broker
holds the rest back (version 5: receive maximum), so memory stays bounded without dropping anything; and what
was not done when the process dies is delivered again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import SystemRandom

from driftpost_sync import topics
from driftpost_sync.backoff import RandomFraction
from driftpost_sync.clock import Clock
from driftpost_sync.connection import (
    Event,
    Lost,
    Published,
    Received,
    Subscribed,
    Will,
    check_files,
)
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.line import Line
from driftpost_sync.messages import MAX_READ_BYTES, Ack, Command, HostPresence, Request
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.topics import Identity

log = logging.getLogger(__name__)

# The broker keeps the session of an aggregator that restarts; beyond this devices send again anyway.
SESSION_EXPIRY_S = 600
# Restarting within this time is not announced to every device of the fleet, s.
WILL_DELAY_S = 5
# Messages taken from the broker and not done; times 64 KiB it bounds memory at 64 MiB.
# More of them are not read: a broker holds to the receive maximum of version 5 only roughly, and version
# 3.1.1 has none.
MAX_QUEUED = 1_024
# One round reads several; what comes beyond this is left to be sent again.
_HARD_LIMIT = 2 * MAX_QUEUED
# Answers waiting to be sent; a device that misses one sends again and is answered again.
MAX_ANSWERS = 8192
_ROUND_S = 1.0
_GOODBYE_S = 1.0
# Messages to other topics that wait for the broker's word; whoever posts more is told so.
MAX_POSTINGS = 64
# Presence is corrected at most this often, ms, so that two workers do not storm.
_BIRTH_EVERY_MS = 2_000


@dataclass(frozen=True)
class Delivery:
    """A message from the fleet.

    Attributes:
        topic, payload: as they came; nothing about them has been checked.
        retain: whether the broker had it from before this subscription.
        mono, wall: when it arrived here, ms.
    """

    topic: str
    payload: bytes
    retain: bool
    mono: int
    wall: int
    connection: int
    mid: int
    qos: int


@dataclass(frozen=True)
class HostLinkStatus:
    """A snapshot.

    Attributes:
        connected: whether the broker has accepted and granted the subscriptions.
        protocol: "5", "3.1.1", or None before the first connection.
        last_error: the last thing that went wrong, "" if nothing ever did.
        connects: connections that were accepted.
        queued: messages here that are not done.
        received, received_bytes: messages taken from the broker.
        overflowed: messages left to be sent again because the queue was full (by a flood in one round).
        answers, answers_dropped: messages to devices, and those that found no room.
        round_mono: monotonic ms of the loop's last round, for the watchdog.
    """

    connected: bool = False
    protocol: str | None = None
    last_error: str = ""
    connects: int = 0
    queued: int = 0
    received: int = 0
    received_bytes: int = 0
    overflowed: int = 0
    answers: int = 0
    answers_dropped: int = 0
    round_mono: int = 0


class _Posting:
    """A message to a topic, until the broker has taken it."""

    def __init__(self, topic: str, payload: bytes) -> None:
        self.topic = topic
        self.payload = payload
        self.error = ""
        self.given_up = False
        self._settled = threading.Event()

    def settle(self, error: str = "") -> None:
        self.error = error
        self._settled.set()

    def wait(self, timeout_s: float) -> bool:
        return self._settled.wait(timeout_s)


class HostLink:
    """Takes the fleet's messages from the broker and answers them.

    Args:
        settings: the broker.
        fleet: name of the fleet.
        client_id: of this worker; must differ between workers and stay the same over restarts.
        clock: monotonic time decides; wall time is only stamped on.
        wall_ms: the aggregator's wall clock, which is taken as good.
        exit_event: ends the thread.
        group: name of a shared subscription, for several workers; None subscribes alone.
        random: for jitter.
    """

    def __init__(
        self,
        settings: MqttSettings,
        fleet: str,
        *,
        client_id: str,
        clock: Clock,
        wall_ms: Callable[[], int],
        exit_event: threading.Event,
        group: str | None = None,
        random: RandomFraction | None = None,
    ) -> None:
        self._fleet = fleet
        self._clock = clock
        self._wall_ms = wall_ms
        self._exit = exit_event
        self._host_topic = topics.host_state(fleet)
        ups = topics.every_up(fleet)
        check_files(settings)
        self._line = Line(
            settings,
            client_id,
            filters=(topics.shared(group, ups) if group else ups, topics.every_state(fleet)),
            will=self._will,
            # A worker that goes must not keep its share of the fleet waiting: the broker gives what it had
            # to the others as soon as its session ends.
            session_expiry_s=0 if group else SESSION_EXPIRY_S,
            receive_maximum=MAX_QUEUED,
            manual_ack=True,
            clock=clock,
            random=SystemRandom() if random is None else random,
            log=log,
        )
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._queue: deque[Delivery] = deque()
        self._open = 0  # taken from the broker, not done: queued or with the ingest
        self._done: deque[Delivery] = deque()
        self._answers: deque[tuple[str, bytes, int]] = deque()
        self._postings: deque[_Posting] = deque()
        self._posted: dict[int, _Posting] = {}
        self._ready = False
        self._birth_ms: int | None = None
        self._birth_wanted = False
        self._received_count = 0
        self._received_bytes = 0
        self._overflowed = 0
        self._answered = 0
        self._answers_dropped = 0
        self._status = HostLinkStatus(round_mono=clock.mono_ms())
        self._thread = threading.Thread(target=self._run, name="driftpost-host-link", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Set the exit event, say goodbye and wait; whether the thread ended in time.

        What is queued or not done stays with the broker, or with the devices, and comes again.
        """
        self._exit.set()
        self._line.waker.wake()
        with self._arrived:
            self._arrived.notify_all()
        if self._thread.ident is None:
            self._line.close(flush_s=0.0)
        else:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def take(self, limit: int, timeout_s: float) -> list[Delivery]:
        """Up to `limit` messages in the order of arrival; waits up to `timeout_s` for the first.

        Every one must be given back with `done` once it is committed or set aside for good.
        """
        with self._arrived:
            if not self._queue and not self._exit.is_set():
                self._arrived.wait(timeout_s)
            return [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]

    def done(self, deliveries: Sequence[Delivery]) -> None:
        """These are dealt with; the broker may forget them."""
        with self._lock:
            self._done.extend(deliveries)
            self._open -= len(deliveries)
        self._line.waker.wake()

    def answer(self, device: str, message: Ack | Command | Request) -> bool:
        """Send a message to a device; from any thread.

        Returns:
            False if too many wait already; the device will ask again by sending again.

        Raises:
            MalformedMessage: no such device can exist.
        """
        topic = Identity(self._fleet, device).down
        payload = message.to_bytes()
        if len(payload) > MAX_READ_BYTES:
            raise MalformedMessage(
                f"{len(payload)} bytes, no device reads more than {MAX_READ_BYTES}", "down"
            )
        with self._lock:
            if len(self._answers) >= MAX_ANSWERS:
                self._answers_dropped += 1
                return False
            # An acknowledgement that is lost costs a repetition, which is acknowledged again; telling the
            # broker twice for every message that came would cost a fifth of a worker's time.
            self._answers.append((topic, payload, 0 if isinstance(message, Ack) else 1))
            first = len(self._answers) == 1
        if first:
            self._line.waker.wake()
        return True

    def post(self, topic: str, payload: bytes, timeout_s: float) -> str:
        """Publish on any topic and wait until the broker has taken it; from any thread but the link's.

        Returns:
            What went wrong, "" if the broker has it. After "not in time" it may have it all the same.
        """
        posting = _Posting(topic, payload)
        with self._lock:
            if len(self._postings) >= MAX_POSTINGS:
                return f"{MAX_POSTINGS} messages wait for the broker already"
            self._postings.append(posting)
        self._line.waker.wake()
        if posting.wait(timeout_s):
            return posting.error
        posting.given_up = True
        return f"the broker did not take it within {timeout_s:g} s"

    def status(self) -> HostLinkStatus:
        """The latest snapshot; from any thread."""
        return self._status

    # The thread

    def _run(self) -> None:
        try:
            while not self._exit.is_set():
                try:
                    self._round()
                except Exception:  # this loop must outlive whatever a packet does
                    log.exception("the host link failed and starts over")
                    self._disconnected()
                    self._line.fail("internal error; see the log")
                self._publish_status()
            self._flush()
            self._announce(online=False)
        finally:
            self._line.close(flush_s=_GOODBYE_S)
            self._ready = False
            self._publish_status()

    def _round(self) -> None:
        with self._lock:
            room = self._open < MAX_QUEUED
        for event in self._line.step(_ROUND_S, reading=room):
            self._handle(event)
        self._flush()
        if self._ready and self._birth_wanted:
            now = self._clock.mono_ms()
            if self._birth_ms is None or now - self._birth_ms >= _BIRTH_EVERY_MS:
                self._birth_wanted = False
                self._birth_ms = now
                self._announce(online=True)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Subscribed):
            if event.refused:
                self._disconnected()
                self._line.fail(f"the broker does not let the aggregator read {', '.join(event.refused)}")
                return
            self._ready = True
            self._birth_wanted = True
        elif isinstance(event, Received):
            self._received(event)
        elif isinstance(event, Lost):
            self._disconnected()
        elif isinstance(event, Published) and event.mid in self._posted:
            refused = f"the broker refuses it: reason code 0x{event.code:02X}" if event.code >= 0x80 else ""
            self._posted.pop(event.mid).settle(refused)
        elif isinstance(event, Published) and event.code >= 0x80:
            log.warning("the broker does not take a message to a device: reason code 0x%02X", event.code)

    def _received(self, message: Received) -> None:
        if message.topic == self._host_topic:
            self._line.acknowledge(message.mid, message.qos)
            self._host_state(message)
            return
        delivery = Delivery(
            message.topic,
            message.payload,
            message.retain,
            self._clock.mono_ms(),
            self._wall_ms(),
            self._line.connects,
            message.mid,
            message.qos,
        )
        with self._arrived:
            self._received_count += 1
            self._received_bytes += len(message.payload)
            if self._open >= _HARD_LIMIT:
                # Not acknowledged and not committed: it comes again.
                self._overflowed += 1
                return
            self._open += 1
            self._queue.append(delivery)
            self._arrived.notify()

    def _host_state(self, message: Received) -> None:
        """Another worker's will, or an old one of ours, must not tell the fleet that nobody is there."""
        try:
            online = HostPresence.from_bytes(message.payload).online
        except MalformedMessage as error:
            log.warning("the aggregator's retained state was not ours: %s", error)
            online = False
        if not online:
            self._birth_wanted = True

    def _disconnected(self) -> None:
        self._ready = False
        for posting in self._posted.values():
            posting.settle("the connection to the broker was lost")
        self._posted.clear()
        with self._lock:
            # What waits here would be delivered again under another number: leave it to that delivery. What
            # the ingest has in hand is committed, and known as a duplicate when it comes again.
            self._open -= len(self._queue)
            self._queue.clear()

    def _flush(self) -> None:
        """Send what waits: acknowledgements to the broker, answers to devices."""
        with self._lock:
            done = list(self._done)
            self._done.clear()
            answers = list(self._answers) if self._ready else []
            if answers:
                self._answers.clear()
            postings = list(self._postings) if self._ready else []
            if postings:
                self._postings.clear()
        for delivery in done:
            if delivery.connection == self._line.connects and self._line.connected:
                self._line.acknowledge(delivery.mid, delivery.qos)
        for topic, payload, qos in answers:
            self._line.publish(topic, payload, qos=qos)
            self._answered += 1
        for posting in postings:
            if posting.given_up:
                continue
            mid = self._line.publish(posting.topic, posting.payload)
            if mid is None:
                posting.settle("there is no connection to the broker")
            else:
                self._posted[mid] = posting

    def _will(self) -> Will:
        return Will(self._host_topic, HostPresence(False, self._wall_ms()).to_bytes(), WILL_DELAY_S)

    def _announce(self, *, online: bool) -> None:
        self._line.publish(self._host_topic, HostPresence(online, self._wall_ms()).to_bytes(), retain=True)

    def _publish_status(self) -> None:
        with self._lock:
            queued = self._open
        self._status = HostLinkStatus(
            connected=self._ready,
            protocol=self._line.protocol,
            last_error=self._line.last_error,
            connects=self._line.connects,
            queued=queued,
            received=self._received_count,
            received_bytes=self._received_bytes,
            overflowed=self._overflowed,
            answers=self._answered,
            answers_dropped=self._answers_dropped,
            round_mono=self._clock.mono_ms(),
        )
