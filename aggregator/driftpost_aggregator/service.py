"""The aggregator as a process: what runs, in which order it starts and stops, how it shows that it lives."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
import uuid

from sqlalchemy import Engine

from driftpost_aggregator.alerts.channels import channels
from driftpost_aggregator.alerts.telling import Telling, tell
from driftpost_aggregator.delivery.due import deliver_due
from driftpost_aggregator.delivery.targets import targets
from driftpost_aggregator.escalation import escalate_overdue
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.intake import Intake
from driftpost_aggregator.labels.forwarding import forward_due
from driftpost_aggregator.loop import Loop
from driftpost_aggregator.policy_history import Losses
from driftpost_aggregator.retention import Keep, Retention
from driftpost_aggregator.retrain import request_retraining
from driftpost_aggregator.settings import RetrainPolicy, database_url, fleet_budget
from driftpost_aggregator.store.database import migrate, open_engine
from driftpost_aggregator.times import wall_ms
from driftpost_aggregator.triage_round import Triage
from driftpost_aggregator.web.options import WebOptions
from driftpost_aggregator.web.server import WebServer
from driftpost_sync.clock import SystemClock
from driftpost_sync.host_link import HostLink
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.settings import Settings
from driftpost_sync.systemd import Notifier

log = logging.getLogger(__name__)

# A loop that made no progress for this long keeps the watchdog from being fed, seconds: longer than the
# slowest honest round (a webhook's timeout, a busy database), shorter than any patience.
STALLED_S = 120.0
# Between looks at what is due for delivery, seconds.
DELIVERY_S = 1.0
# Between looks at labels that wait for their devices, seconds.
LABELS_S = 2.0
# Between looks at changes that people are told of, seconds.
ALERTS_S = 2.0
# For all threads together to end, seconds; systemd's own patience is 90.
STOP_S = 10.0


class Aggregator:
    """Everything that runs in one aggregator process.

    Args:
        settings: checked aggregator.toml.
        exit_event: ends everything when set.

    Raises:
        DatabaseUnusable, ConfigurationError, SyncError: it can not start as configured.
    """

    def __init__(self, settings: Settings, exit_event: threading.Event) -> None:
        self._exit = exit_event
        self._fleet = settings.text("fleet.name")
        self._policy = RetrainPolicy.from_settings(settings)
        self._targets = targets(settings)
        self._losses = Losses()
        self._answer_s = settings.number("retrain.answer_s")
        self._finish_s = settings.number("retrain.finish_s")
        self._public_url = settings.optional("web.public_url", str)
        self._interval_s = settings.number("triage.interval_s")
        self._random = random.SystemRandom()
        self._telling = Telling(
            channels=channels(settings),
            group_s=settings.number("alerts.group_s"),
            fleet=self._fleet,
            public_url=self._public_url,
            new_id=lambda: f"al-{uuid.uuid4().hex}",
            jitter=self._random,
        )
        options = WebOptions.from_settings(settings)
        self.engine: Engine = open_engine(database_url(settings))
        try:
            for revision in migrate(self.engine):
                log.info("database migrated to %s", revision)
            bucket_s = settings.integer("rollups.bucket_s")
            ingest = Ingest(
                self.engine,
                fleet=self._fleet,
                bucket_s=bucket_s,
                quarantine_rows=settings.integer("ingest.quarantine_rows"),
                now_ms=wall_ms,
            )
            self._triage = Triage(
                self.engine,
                budget=fleet_budget(settings),
                bucket_s=bucket_s,
                settle_windows=settings.number("triage.settle_windows"),
                reopen_s=settings.number("triage.reopen_s"),
                now_ms=wall_ms,
                new_id=lambda: f"inc-{uuid.uuid4().hex[:12]}",
            )
            self.link = HostLink(
                MqttSettings.from_settings(settings),
                self._fleet,
                client_id=settings.optional("mqtt.client_id", str)
                or f"driftpost:{self._fleet}:_aggregator:{socket.gethostname()}",
                clock=SystemClock(),
                wall_ms=wall_ms,
                exit_event=exit_event,
                group=settings.optional("mqtt.share_group", str),
            )
            intake = Intake(self.link, ingest, settings.integer("ingest.batch_messages"), exit_event)
            retention = Retention(
                self.engine,
                bucket_s=bucket_s,
                keep=Keep(
                    settings.integer("retention.raw_days"),
                    settings.integer("retention.hours_days"),
                    settings.integer("retention.days_days"),
                ),
                now_ms=wall_ms,
            )
            self.web = WebServer(self.engine, options, exit_event)
        except BaseException:
            self.engine.dispose()
            raise
        self.loops = (
            Loop("ingest", intake.round, exit_event),
            Loop("triage", self._judge, exit_event),
            Loop("delivery", self._deliver, exit_event),
            Loop("labels", self._forward, exit_event),
            Loop("alerts", self._tell, exit_event),
            Loop("retention", retention.round, exit_event),
        )

    def start(self) -> None:
        """Start every thread; returns when the dashboard answers."""
        self.web.start()
        for loop in self.loops:
            loop.start()
        self.link.start()

    def run(self, notifier: Notifier) -> None:
        """Start, feed the watchdog while every loop makes progress, and stop on the exit event."""
        try:
            self.start()
            status = self.link.status()
            notifier.ready(f"dashboard at {self.web.address}")
            log.info("dashboard at %s", self.web.address)
            interval_s = min(notifier.watchdog_interval_s or 5.0, 5.0)
            while not self._exit.wait(interval_s):
                stalled = self.stalled()
                if stalled:
                    log.error("no progress: %s", ", ".join(stalled))
                    continue
                notifier.feed_watchdog()
                now = self.link.status()
                if now.connected != status.connected or now.last_error != status.last_error:
                    log.info(
                        "broker: %s", "connected" if now.connected else now.last_error or "not connected"
                    )
                notifier.status(self.summary())
                status = now
        finally:
            notifier.stopping()
            self.stop()

    def stalled(self) -> list[str]:
        """Names of what has made no progress for too long."""
        names = [loop.name for loop in self.loops if not loop.alive or loop.progress_age_s > STALLED_S]
        if not self.web.alive:
            names.append("web")
        if SystemClock().mono_ms() - self.link.status().round_mono > STALLED_S * 1000:
            names.append("link")
        return names

    def summary(self) -> str:
        """One line for `systemctl status`."""
        status = self.link.status()
        broker = f"MQTT {status.protocol}" if status.connected else f"no broker ({status.last_error})"
        return f"{broker}, {status.received} messages, {status.queued} in hand; {self.web.address}"

    def stop(self) -> None:
        """End every thread, in bounded time, and let go of the database."""
        self._exit.set()
        deadline = time.monotonic() + STOP_S
        late = []
        if not self.link.stop(STOP_S / 2):
            late.append("link")
        for loop in self.loops:
            if not loop.join(max(deadline - time.monotonic(), 0.1)):
                late.append(loop.name)
        try:
            self.web.stop()
        except TimeoutError:
            late.append("web")
        if late:
            log.error("did not end in time: %s", ", ".join(late))
        self.engine.dispose()

    def _judge(self) -> float:
        self._triage.round()
        request_retraining(
            self.engine,
            self._policy,
            fleet=self._fleet,
            public_url=self._public_url,
            targets=[target.name for target in self._targets],
            now_ms=wall_ms(),
            new_id=lambda: f"rr-{uuid.uuid4().hex}",
            losses=self._losses,
        )
        for request in escalate_overdue(
            self.engine, answer_s=self._answer_s, finish_s=self._finish_s, now_ms=wall_ms()
        ):
            log.warning("request %s needs a person", request)
        return self._interval_s

    def _deliver(self) -> float:
        if self._targets:
            for (request, target), answer in deliver_due(
                self.engine, self._targets, now_ms=wall_ms(), jitter=self._random, post=self.link.post
            ).items():
                log.info("request %s to %s: %s", request, target, answer.error or answer.status)
        return DELIVERY_S

    def _forward(self) -> float:
        forward_due(self.engine, self.link.answer, wall_ms())
        return LABELS_S

    def _tell(self) -> float:
        for message, answer in tell(self.engine, self._telling, wall_ms()).items():
            log.info("alert %s: %s", message, answer.error or "sent")
        return ALERTS_S
