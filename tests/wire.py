"""A device and an aggregator small enough to look through, on the real link, outbox and broker."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from driftpost_sync.clock import SystemClock
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.host_link import HostLink
from driftpost_sync.link import Link
from driftpost_sync.messages import Ack, Command, Envelope, Presence, Request, ranges_of
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.outbox import Outbox
from driftpost_sync.outbox_schema import create_tables
from driftpost_sync.topics import Identity, parse

CLOCK = SystemClock(trust_wall=True)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    """Fail with `what` unless `condition` comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.005)


class Device:
    """An outbox in SQLite, and a link that drains it."""

    def __init__(
        self,
        settings: MqttSettings,
        name: str,
        fleet: str,
        path: Path | str = ":memory:",
        seed: int = 1,
    ) -> None:
        self.identity = Identity(fleet, name)
        self.settings = settings
        self.lock = threading.RLock()
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        fresh = not self.db.execute("SELECT name FROM sqlite_master").fetchall()
        self.db.execute("BEGIN")
        if fresh:
            create_tables(self.db)
        self.box = Outbox.open(self.db, random.Random(seed), mono=CLOCK.mono_ms(), boot="this boot")
        self.db.execute("COMMIT")
        self.exit = threading.Event()
        self.commands: list[Command] = []
        self.requests: list[Request] = []
        self.wanted: list[str] = []
        self.presence = Presence(True, self.box.incarnation, "0.1.0", attributes={"site": "a"})
        self.link = Link(
            settings,
            self.identity,
            self.outbox,
            lambda: self.presence,
            on_command=self.commands.append,
            on_request=self.requests.append,
            on_wanted=self.wanted.append,
            clock=CLOCK,
            exit_event=self.exit,
            random=random.Random(seed),
        )

    @contextmanager
    def outbox(self) -> Iterator[Outbox]:
        with self.lock:
            self.db.execute("BEGIN")
            try:
                yield self.box
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")

    def record(self, count: int, size: int = 200, rows: int = 10) -> list[int]:
        with self.outbox() as outbox:
            seqs = [
                outbox.put(
                    "window",
                    f"{self.box.incarnation}/{index}/".encode().ljust(size, b"."),
                    mono=CLOCK.mono_ms(),
                    windows=1,
                    rows=rows,
                )
                for index in range(count)
            ]
        self.link.wake()
        return seqs

    def query(self, sql: str) -> list[tuple]:
        with self.lock:
            return self.db.execute(sql).fetchall()

    def pending(self) -> int:
        with self.outbox() as outbox:
            return outbox.pending().messages

    def close(self) -> None:
        assert self.link.stop(), "the link did not end in time"
        self.db.close()

    def die(self) -> None:
        """As SIGKILL would: no goodbye, nothing settled. (The thread has to end all the same.)"""
        self.link._goodbye = lambda: None  # type: ignore[method-assign]
        self.close()


class Aggregator:
    """Commits everything once, in memory, on the real host link."""

    def __init__(
        self, settings: MqttSettings, fleet: str = "test", client_id: str = "host", **options
    ) -> None:
        self.exit = threading.Event()
        self.link = HostLink(
            settings,
            fleet,
            client_id=client_id,
            clock=CLOCK,
            wall_ms=lambda: time.time_ns() // 1_000_000,
            exit_event=self.exit,
            **options,
        )
        self.committed: dict[tuple[str, int, int], bytes] = {}
        self.copies = 0
        self.envelopes: list[Envelope] = []
        self.presence: dict[str, Presence] = {}
        self.malformed: list[str] = []
        self.refuse: dict[int, str] = {}
        self.silent = False
        self.want: tuple[str, ...] = ()
        self._thread = threading.Thread(target=self._ingest, name="test-ingest")
        self.link.start()
        self._thread.start()

    def _ingest(self) -> None:
        while not self.exit.is_set():
            deliveries = self.link.take(64, 0.2)
            for delivery in deliveries:
                try:
                    address = parse(delivery.topic)
                    if address.channel == "state":
                        self.presence[address.device] = Presence.from_bytes(delivery.payload)
                        continue
                    envelope = Envelope.from_bytes(delivery.payload)
                except MalformedMessage as error:
                    self.malformed.append(str(error))
                    continue
                self.envelopes.append(envelope)
                if self.silent:
                    continue
                self._commit(envelope)
            self.link.done(deliveries)

    def _commit(self, envelope: Envelope) -> None:
        refused = []
        for item in envelope.items:
            if item.seq in self.refuse:
                refused.append((item.seq, self.refuse[item.seq]))
                continue
            key = (envelope.device, envelope.incarnation, item.seq)
            self.copies += key in self.committed
            assert self.committed.setdefault(key, item.body) == item.body
        good = [item.seq for item in envelope.items if item.seq not in self.refuse]
        ack = Ack(envelope.incarnation, ranges_of(good), tuple(refused), self.want)
        self.want = ()
        self.link.answer(envelope.device, ack)

    def close(self) -> None:
        assert self.link.stop(), "the host link did not end in time"
        self._thread.join(5)
        assert not self._thread.is_alive()


class Broker(Protocol):
    """Where a broker listens."""

    host: str
    port: int


class World:
    """Makes devices and aggregators on one broker, and ends them with the test."""

    def __init__(self, broker: Broker, stack: ExitStack, fleet: str = "test") -> None:
        self.broker = broker
        self.fleet = fleet
        self._stack = stack

    def settings(self, **changes) -> MqttSettings:
        values = {
            "host": self.broker.host,
            "port": self.broker.port,
            "reconnect_min_s": 0.05,
            "reconnect_max_s": 0.4,
            "ack_timeout_s": 1.0,
            "backlog_bytes_per_s": 1 << 30,
            "connect_timeout_s": 2.0,
        }
        return MqttSettings(**{**values, **changes})

    def device(self, name: str = "device-1", *, start: bool = True, **options) -> Device:
        settings = self.settings(**options.pop("settings", {}))
        device = Device(settings, name, self.fleet, **options)
        self._stack.callback(lambda: device.exit.is_set() or device.close())
        if start:
            device.link.start()
        return device

    def aggregator(self, **options) -> Aggregator:
        settings = self.settings(**options.pop("settings", {}))
        aggregator = Aggregator(settings, self.fleet, **{"client_id": f"{self.fleet}-host", **options})
        self._stack.callback(lambda: aggregator.exit.is_set() or aggregator.close())
        return aggregator
