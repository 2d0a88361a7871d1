"""A process that only takes messages: as many of them as there are cores may share a fleet.

The broker's shared subscription spreads messages over the workers, the database keeps what they count exact.
Triage, delivery, retention and the dashboard stay with `driftpost aggregator run`, which may take messages
beside them.
"""

from __future__ import annotations

import logging
import os
import socket
import threading

from sqlalchemy import Engine

from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.intake import Intake
from driftpost_aggregator.loop import Loop
from driftpost_aggregator.settings import database_url
from driftpost_aggregator.store.database import migrate, open_engine
from driftpost_aggregator.times import wall_ms
from driftpost_sync.clock import SystemClock
from driftpost_sync.host_link import HostLink
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.settings import Settings
from driftpost_sync.systemd import Notifier

log = logging.getLogger(__name__)

# As in the service: longer than any honest round.
STALLED_S = 120.0
STOP_S = 10.0
# Group of the shared subscription where the settings name none; one that is alone shares with nobody.
GROUP = "driftpost"


class Worker:
    """One ingest process.

    Args:
        settings: checked aggregator.toml, the same for every worker.
        exit_event: ends everything when set.

    Raises:
        DatabaseUnusable, ConfigurationError, SyncError: it can not start as configured.
    """

    def __init__(self, settings: Settings, exit_event: threading.Event) -> None:
        self._exit = exit_event
        fleet = settings.text("fleet.name")
        self.engine: Engine = open_engine(database_url(settings), pool_size=2)
        try:
            migrate(self.engine)
            ingest = Ingest(
                self.engine,
                fleet=fleet,
                bucket_s=settings.integer("rollups.bucket_s"),
                quarantine_rows=settings.integer("ingest.quarantine_rows"),
                now_ms=wall_ms,
            )
            self.link = HostLink(
                MqttSettings.from_settings(settings),
                fleet,
                # Its session ends with it, so nothing waits for a worker of that name.
                client_id=f"driftpost:{fleet}:_aggregator:{socket.gethostname()}:{os.getpid()}",
                clock=SystemClock(),
                wall_ms=wall_ms,
                exit_event=exit_event,
                group=settings.optional("mqtt.share_group", str) or GROUP,
            )
        except BaseException:
            self.engine.dispose()
            raise
        intake = Intake(self.link, ingest, settings.integer("ingest.batch_messages"), exit_event)
        self._loop = Loop("ingest", intake.round, exit_event)

    def run(self, notifier: Notifier) -> None:
        """Take messages until the exit event; feeds the watchdog while there is progress."""
        try:
            self._loop.start()
            self.link.start()
            notifier.ready("taking messages")
            interval_s = min(notifier.watchdog_interval_s or 5.0, 5.0)
            while not self._exit.wait(interval_s):
                if not self._loop.alive or self._loop.progress_age_s > STALLED_S:
                    log.error("no progress: ingest")
                    continue
                notifier.feed_watchdog()
                status = self.link.status()
                notifier.status(f"{status.received} messages, {status.queued} in hand")
        finally:
            notifier.stopping()
            self._exit.set()
            if not self.link.stop(STOP_S / 2) or not self._loop.join(STOP_S / 2):
                log.error("did not end in time")
            self.engine.dispose()
