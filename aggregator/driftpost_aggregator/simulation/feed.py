"""Sending a simulated fleet's messages through a broker, as often as it takes until each is acknowledged.

One connection speaks for many devices. Like a device's outbox it forgets a message only when the aggregator
says that it is committed; what is not answered in time goes out again.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator

from driftpost_aggregator.simulation.fleet import Message, SimulatedFleet
from driftpost_sync.backoff import RandomFraction
from driftpost_sync.clock import Clock
from driftpost_sync.connection import Lost, Received, Subscribed, Will
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.line import Line
from driftpost_sync.messages import Ack, decode_down
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.topics import ROOT

log = logging.getLogger(__name__)

# Messages that may wait for the aggregator at a time.
IN_FLIGHT = 1_000
# What is not acknowledged by then is sent again, ms.
RESEND_MS = 5_000
_ROUND_S = 0.2


class Feed:
    """Publishes messages and waits for their acknowledgements; for one thread.

    Args:
        settings: the broker.
        fleet: whose messages they are.
        fleet_name: in its topics.
        clock: for resending.
        random: for jitter.
        exit_event: ends `send` early.
        in_flight: messages that may wait for the aggregator at a time.
        resend_ms: after which an unanswered one is sent again.
    """

    def __init__(
        self,
        settings: MqttSettings,
        fleet: SimulatedFleet,
        fleet_name: str,
        *,
        clock: Clock,
        random: RandomFraction,
        exit_event: threading.Event,
        in_flight: int = IN_FLIGHT,
        resend_ms: int = RESEND_MS,
    ) -> None:
        self._fleet = fleet
        self._clock = clock
        self._exit = exit_event
        self._in_flight = in_flight
        self._resend_ms = resend_ms
        self._ready = False
        self._waiting: OrderedDict[int, tuple[int, Message]] = OrderedDict()  # by number: when sent, what
        self._numbers: dict[tuple[int, int], int] = {}  # (device, seq) -> number
        self._left: dict[int, int] = {}  # number -> sequence numbers not acknowledged
        self._next = 0
        self.refused = 0
        self.resent = 0
        branch = f"{ROOT}/{fleet_name}"
        self._line = Line(
            settings,
            f"driftpost:{fleet_name}:_simulated",
            filters=(f"{branch}/+/down",),
            will=lambda: Will(f"{branch}/_simulated/gone", b"", 0),
            session_expiry_s=0,
            receive_maximum=in_flight,
            manual_ack=False,
            clock=clock,
            random=random,
            log=log,
        )

    @property
    def waiting(self) -> int:
        """Messages that are not acknowledged."""
        return len(self._waiting)

    def send(self, messages: Iterator[Message]) -> None:
        """Send all of them, as many at a time as may wait."""
        for message in messages:
            while self.waiting >= self._in_flight or not self._ready:
                if self._exit.is_set():
                    return
                self._step(_ROUND_S)
            self._publish(message)
            if self._next % 32 == 0:
                self._step(0.0)

    def settle(self) -> None:
        """Wait until everything is acknowledged."""
        while self._waiting and not self._exit.is_set():
            self._step(_ROUND_S)

    def close(self) -> None:
        """End the connection."""
        self._line.close(flush_s=1.0)

    def _publish(self, message: Message) -> None:
        if not message.seqs:
            # A presence is retained: the broker keeps it, and who subscribes later still sees it.
            self._line.publish(message.topic, message.payload, retain=True)
            self._next += 1
            return
        keys = [(message.device, seq) for seq in message.seqs]
        if keys[0] not in self._numbers:
            self._next += 1
            self._waiting[self._next] = (self._clock.mono_ms(), message)
            self._left[self._next] = len(keys)
            self._numbers |= dict.fromkeys(keys, self._next)
        self._line.publish(message.topic, message.payload)

    def _step(self, timeout_s: float) -> None:
        for event in self._line.step(timeout_s):
            if isinstance(event, Subscribed):
                if event.refused:
                    self._line.fail(f"the broker does not let us read {', '.join(event.refused)}")
                    return
                self._ready = True
                self._again(everything=True)
            elif isinstance(event, Lost):
                self._ready = False
            elif isinstance(event, Received):
                self._received(event)
        if self._ready:
            self._again(everything=False)

    def _again(self, *, everything: bool) -> None:
        """Send again what has waited too long; after a new connection, all that waits."""
        now = self._clock.mono_ms()
        due = []
        for number, (sent_ms, _) in self._waiting.items():
            if not everything and now - sent_ms < self._resend_ms:
                break
            due.append(number)
        for number in due:
            _, message = self._waiting.pop(number)
            self._waiting[number] = (now, message)
            self._line.publish(message.topic, message.payload)
            self.resent += 1

    def _received(self, event: Received) -> None:
        name = event.topic.split("/")[-2]
        device = self._fleet.index(name)
        if device is None:
            return
        try:
            ack = decode_down(event.payload)
        except MalformedMessage as error:
            log.warning("an answer to %s can not be read: %s", name, error)
            return
        if not isinstance(ack, Ack) or ack.incarnation != self._fleet.incarnation:
            return
        for first, last in ack.ranges:
            for seq in range(first, last + 1):
                self._acknowledged(device, seq)
        for seq, reason in ack.refused:
            log.error("message %d of %s was refused: %s", seq, name, reason)
            self.refused += 1
            self._acknowledged(device, seq)
        if "birth" in ack.wanted:
            self._publish(Message(device, self._state_topic(event.topic), self._fleet.presence(device)))

    @staticmethod
    def _state_topic(down: str) -> str:
        return down.removesuffix("down") + "state"

    def _acknowledged(self, device: int, seq: int) -> None:
        number = self._numbers.pop((device, seq), None)
        if number is None:
            return
        self._left[number] -= 1
        if not self._left[number]:
            del self._left[number], self._waiting[number]
