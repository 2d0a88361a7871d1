"""The agent's link to its aggregator: presence, descriptions and ledgers around `driftpost_sync.link`."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version

from driftpost_agent.errors import StoreUnusable
from driftpost_agent.guard import Guard
from driftpost_agent.label_checks import LabelChecks
from driftpost_agent.requests import Requests
from driftpost_agent.store import Store
from driftpost_sync.clock import Clock, SystemClock
from driftpost_sync.errors import SyncError
from driftpost_sync.link import Link, LinkStatus
from driftpost_sync.messages import Command, LedgerBody, Presence
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.topics import Identity

log = logging.getLogger(__name__)


class Uplink:
    """Sends what the store holds, and answers what the aggregator asks for.

    Args:
        settings: of the broker.
        identity: fleet and device.
        attributes: what cohorts are formed by.
        store: whose outbox is drained.
        describe: queues the description of a bundle: the active one for None, else the one with that id.
        labels: takes labels for the model that is served, None where it takes none.
        clock: for all times.
        exit_event: ends the link's thread.
    """

    def __init__(
        self,
        settings: MqttSettings,
        identity: Identity,
        attributes: Mapping[str, str],
        store: Store,
        *,
        describe: Callable[[str | None], None],
        labels: Callable[[], LabelChecks | None],
        clock: Clock,
        exit_event: threading.Event,
    ) -> None:
        self._attributes = dict(attributes)
        self._store = store
        self._describe = describe
        self._clock = clock
        self._started = clock.wall_ms()
        self._active: tuple[str, bytes, str] = ("", b"", "")
        self._last_ledger: LedgerBody | None = None
        self._settled_seen = 0
        self._working_since = clock.mono_ms()
        self._requests = Requests(store, clock, labels=labels, ledger=self._ledger_again)
        self.address = f"{settings.host}:{settings.port}"
        self._link = Link(
            settings,
            identity,
            store.outbox_transaction,
            self._presence,
            on_command=self._command,
            on_request=self._requests.take,
            on_wanted=self._wanted,
            clock=clock,
            exit_event=exit_event,
        )

    def start(self) -> None:
        """Start the link's thread."""
        self._link.start()

    def wake(self) -> None:
        """Something new is in the outbox."""
        self._link.wake()

    def hold_windows(self, held: bool) -> None:
        """Keep windows in the outbox for now, or send them again."""
        self._link.hold_windows(held)

    def active(self, bundle: str, schema_id: bytes, runtime: str) -> None:
        """Another bundle is active: tell the aggregator."""
        self._active = (bundle, schema_id, runtime)
        self._link.announce()

    def queue_ledger(self) -> None:
        """Queue the account of all windows, unless it is as it was."""
        ledger = self._store.outbox_ledger()
        if ledger != self._last_ledger:
            self._last_ledger = self._store.queue_ledger()
            self._link.wake()

    def window_acknowledged(self) -> bool:
        """Whether the aggregator has acknowledged a window of this incarnation.

        Reads the store only when something was acknowledged since the last time.
        """
        settled = self._link.status().acked_messages
        if settled == self._settled_seen:
            return False
        self._settled_seen = settled
        return self._store.outbox_ledger().acked.windows > 0

    def status(self) -> LinkStatus:
        """The link's latest snapshot."""
        return self._link.status()

    def problem(self) -> tuple[str, float]:
        """Why nothing is delivered now ("" if it is), and for how long that has been so, in seconds."""
        trouble = self._link.status().trouble
        now = self._clock.mono_ms()
        if not trouble:
            self._working_since = now
        return trouble, (now - self._working_since) / 1000

    def stop(self, timeout_s: float) -> bool:
        """Say goodbye and end the thread; whether it ended in time."""
        return self._link.stop(timeout_s)

    @classmethod
    def of_guard(
        cls,
        guard: Guard,
        settings: MqttSettings,
        identity: Identity,
        attributes: Mapping[str, str],
        *,
        clock: Clock | None = None,
    ) -> Uplink:
        """A started link for a guard inside an application; call `stop` before the guard is closed.

        Args:
            guard: one with a store.
            settings: of the broker.
            identity: fleet and device.
            attributes: what cohorts are formed by.
            clock: the machine's if None.

        Raises:
            StoreUnusable: the guard keeps no store, so there is nothing to send.
        """
        store = guard.store
        if store is None:
            raise StoreUnusable("of this guard", "it has none", "Open the guard with store=...")
        description = guard.description()

        def describe(wanted: str | None) -> None:
            if wanted in (None, description.bundle):
                store.describe(description, again=True)

        uplink = cls(
            settings,
            identity,
            attributes,
            store,
            describe=describe,
            labels=lambda: guard.labels,
            clock=clock or SystemClock(),
            exit_event=threading.Event(),
        )
        store.describe(description)
        uplink.active(guard.bundle.id, guard.bundle.schema.id, guard.runtime.version)
        uplink.start()
        return uplink

    def _presence(self) -> Presence:
        bundle, schema_id, runtime = self._active
        return Presence(
            online=True,
            incarnation=self._store.incarnation,
            agent_version=version("driftpost"),
            bundle=bundle,
            schema_id=schema_id,
            attributes=self._attributes,
            runtime=runtime,
            started=self._started,
            clock_good=self._clock.wall_ms() is not None,
        )

    def _wanted(self, what: str) -> None:
        kind, _, bundle = what.partition(":")
        try:
            if kind == "describe":
                self._describe(bundle or None)
            elif kind == "ledger":
                self._ledger_again()
            else:
                log.info("the aggregator asks for %r, which this version does not know", what)
        except (sqlite3.Error, SyncError) as error:
            log.warning("what the aggregator asked for could not be queued: %s", error, extra={"asked": what})

    def _command(self, command: Command) -> None:
        # Commands are carried out only once they can be verified against the owner's keys.
        log.warning("ignored a command", extra={"command": command.name, "id": command.id})

    def _ledger_again(self) -> None:
        self._last_ledger = self._store.queue_ledger()
