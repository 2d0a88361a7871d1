"""Keeps a connection to the broker up: versions, back-off, one attempt after another.

Shared by the device's link and the aggregator's; both call `step` from the one thread that owns them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from driftpost_sync.backoff import Backoff, RandomFraction
from driftpost_sync.clock import Clock
from driftpost_sync.connection import Connected, Connection, Event, Lost, Subscribed, Waker, Will, explain
from driftpost_sync.drain import SESSION_TAKEN_OVER
from driftpost_sync.errors import LinkError
from driftpost_sync.mqtt_settings import MqttSettings, Protocol
from driftpost_sync.negotiation import Negotiation

# A connection that lived this long has proved itself: the next loss starts with a short wait again, ms.
STABLE_MS = 60_000
# A twin takes the session back as soon as we take it; waiting keeps the two from swapping every second.
TWIN_WAIT_MS = 60_000
# Wrong credentials do not become right within seconds, ms.
_AUTH_WAIT_MS = 30_000
# Version 3.1.1 answers 4 and 5, which paho translates to the codes of version 5.
_AUTH_CODES = frozenset({0x86, 0x87})


class Line:
    """A connection that comes back.

    Args:
        settings: the broker and how to reach it.
        client_id: MQTT client identifier.
        filters: subscribed to after every connect.
        will: made anew for every attempt.
        session_expiry_s, receive_maximum, manual_ack: as `Connection` takes them.
        clock: only its monotonic side decides anything.
        random: for jitter.
        log: of the link that owns this.
    """

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        *,
        filters: Sequence[str],
        will: Callable[[], Will],
        session_expiry_s: int,
        receive_maximum: int,
        manual_ack: bool,
        clock: Clock,
        random: RandomFraction,
        log: logging.Logger,
    ) -> None:
        self._settings = settings
        self._client_id = client_id
        self._filters = tuple(filters)
        self._will = will
        self._session_expiry_s = session_expiry_s
        self._receive_maximum = receive_maximum
        self._manual_ack = manual_ack
        self._clock = clock
        self._log = log
        self._backoff = Backoff(settings.reconnect_min_s * 1000, settings.reconnect_max_s * 1000, random)
        self._negotiation = Negotiation(settings.protocol)
        self._connection: Connection | None = None
        self._attempt_ms = 0
        self._subscribed = False
        self._retry_ms = 0
        self.waker = Waker()
        self.connected_since: int | None = None
        self.protocol: Protocol | None = None
        self.connects = 0
        self.last_error = ""

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted."""
        return self.connected_since is not None

    def step(self, timeout_s: float, *, reading: bool = True) -> list[Event]:
        """Connect if it is time to, else wait for traffic at most `timeout_s`; returns what happened.

        Without `reading`, what the broker sends is left with it; see `Connection.poll`.
        """
        now = self._clock.mono_ms()
        if self._connection is None:
            if now < self._retry_ms:
                self.waker.wait(min(timeout_s, (self._retry_ms - now) / 1000))
                return []
            self._attempt(now)
            return []
        events = self._connection.poll(timeout_s, self.waker, reading=reading)
        now = self._clock.mono_ms()
        for event in events:
            if isinstance(event, Connected):
                self._negotiation.accepted()
                self.connected_since = now
                self.protocol = event.protocol
                self.connects += 1
                self._connection.subscribe(self._filters)
                self._log.info("connected to %s with MQTT %s", self._settings.host, event.protocol)
            elif isinstance(event, Subscribed):
                self._subscribed = True
            elif isinstance(event, Lost):
                self._lost(event, now)
        if (
            self._connection is not None
            and not self._subscribed
            and now - self._attempt_ms > self._settings.connect_timeout_s * 1000
        ):
            lost = Lost(0, "the broker accepts the connection but does not answer", answered=self.connected)
            self._lost(lost, now)
            events.append(lost)
        return events

    def _attempt(self, now: int) -> None:
        self._attempt_ms = now
        self._subscribed = False
        try:
            self._connection = Connection(
                self._settings,
                self._negotiation.version,
                self._client_id,
                self._will(),
                session_expiry_s=self._session_expiry_s,
                receive_maximum=self._receive_maximum,
                manual_ack=self._manual_ack,
            )
            self._connection.open()
        except (OSError, ValueError, LinkError) as error:
            # Certificates and password files are read anew each time, and may be mended while we run.
            text = str(error) if isinstance(error, LinkError) else explain(error, self._settings, self._clock)
            self._drop()
            self._wait(text, self._clock.mono_ms(), 0)

    def _lost(self, event: Lost, now: int) -> None:
        since = self.connected_since
        self._drop()
        if since is not None and now - since >= STABLE_MS:
            self._backoff.reset()
        if not event.answered or event.refused_version:
            again = (
                self._negotiation.refused_version()
                if event.refused_version
                else self._negotiation.no_answer()
            )
            if again:
                self._log.info("%s; trying MQTT %s", event.text, self._negotiation.version)
                self._retry_ms = now
                return
        at_least = 0
        if event.code == SESSION_TAKEN_OVER:
            at_least = TWIN_WAIT_MS
        elif event.code in _AUTH_CODES:
            at_least = _AUTH_WAIT_MS
        self._wait(event.text, now, at_least)

    def _wait(self, text: str, now: int, at_least_ms: int) -> None:
        # A cap below the special waits is the user's word.
        at_least_ms = min(at_least_ms, round(self._settings.reconnect_max_s * 1000))
        wait = self._backoff.next_ms(at_least_ms=at_least_ms)
        self._retry_ms = now + wait
        if text != self.last_error:
            self._log.warning("%s; trying again in %.1f s", text, wait / 1000)
        self.last_error = text

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.connected_since = None

    def fail(self, text: str, *, at_least_ms: int = 0) -> None:
        """Give the connection up and wait before the next one."""
        self._drop()
        self._wait(text, self._clock.mono_ms(), at_least_ms)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> int | None:
        """Send, by default with QoS 1; the message number, or None if there is no connection."""
        if self._connection is None or not self.connected:
            return None
        return self._connection.publish(topic, payload, retain=retain, qos=qos)

    def acknowledge(self, mid: int, qos: int) -> None:
        """Acknowledge a received message (`manual_ack`)."""
        if self._connection is not None:
            self._connection.acknowledge(mid, qos)

    def close(self, *, flush_s: float) -> None:
        """Say goodbye and give everything back."""
        if self._connection is not None:
            self._connection.close(flush_s=flush_s)
            self._connection = None
        self.connected_since = None
        self.waker.close()
