"""The agent's process: one supervisor that owns every thread, starts them in order and stops them in time.

Threads: `driftpost-server` accepts requests, `driftpost-recorder` flushes rows and closes windows,
`driftpost-store` stores these, `driftpost-link` talks to the broker, `driftpost-folder` and
`driftpost-topics` take inputs where they are configured, and `driftpost-watchdog` tells systemd that all of
them turn. The main thread supervises: it follows the pointer to the active bundle, watches the budgets and
the board, sends ledgers and keeps the store small.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from driftpost_agent import site_request, status
from driftpost_agent.activation import Activation, PointerStamp
from driftpost_agent.board import read_board
from driftpost_agent.board_log import BoardLog
from driftpost_agent.budgets import Actions, Budgets, folder_bytes
from driftpost_agent.budgets import Reading as BudgetReading
from driftpost_agent.description import description
from driftpost_agent.disk_room import DiskRoom, room_to_start
from driftpost_agent.errors import ActivationFailed, AgentError, ConfigurationInvalid, RequestRefused
from driftpost_agent.footprint import footprint
from driftpost_agent.guard import Guard
from driftpost_agent.health import Health, Heartbeat, Signs, assess, stalled
from driftpost_agent.interruptible_start import InterruptibleStart
from driftpost_agent.label_checks import Label, LabelChecks
from driftpost_agent.latency import LatencyHistogram
from driftpost_agent.ledger_schedule import LedgerSchedule
from driftpost_agent.loading import loader, trusted_keys
from driftpost_agent.local_mqtt import LocalTopics, TopicRules
from driftpost_agent.meter import Meter
from driftpost_agent.metrics import metrics
from driftpost_agent.model_watch import ModelWatch
from driftpost_agent.private_windows import PrivacyPolicy
from driftpost_agent.runtime_findings import (
    BOARD,
    MODEL_FAULT,
    OVER_BUDGET,
    ROLLED_BACK,
    STORE_DAMAGED,
    RuntimeFindings,
)
from driftpost_agent.server import InferenceServer
from driftpost_agent.serving import Serving
from driftpost_agent.store import Store
from driftpost_agent.store_file import unusable
from driftpost_agent.uplink import Uplink
from driftpost_agent.verdict import GuardedResult
from driftpost_agent.watched_folder import FolderRules, WatchedFolder
from driftpost_models.bundle import Bundle
from driftpost_models.errors import ConfigError, ModelError
from driftpost_models.giving_back import give_back
from driftpost_models.policy import Policy
from driftpost_models.runtime import Runtime, TensorSpec
from driftpost_sync.clock import Clock
from driftpost_sync.errors import MalformedMessage, SyncError
from driftpost_sync.messages import BoardBody, DescribeBody
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.settings import Settings
from driftpost_sync.systemd import Notifier
from driftpost_sync.topics import Identity

log = logging.getLogger(__name__)

# Seconds between two rounds of the supervisor.
ROUND_S = 0.5
# Seconds a loop may take to come round: a window's transaction on a slow card takes one or two.
LOOP_LIMIT_S = 30.0
# Seconds after the start at which the aggregator is told how the board fares, for the first time.
BOARD_FIRST_S = 60.0
# Seconds between two looks at what the agent takes of its board.
BUDGET_S = 5.0
# Looks at the budgets between two walks over the store's folder: every file of it is asked for its size.
DISK_EVERY = 12
# Seconds between two looks at the room on the disk while nothing is wrong.
ROOM_S = 10.0
# Seconds between two looks at the size of the local history.
PRUNE_S = 86_400.0
# A clean stop takes at most 5 s; what may be used of them, in seconds.
STOP_DRAIN_S = 1.5
STOP_LINK_S = 1.0
STOP_CALLS_S = 0.5
# What the aggregator sends becomes a file's name, so it must be an id: a SHA-256 in hex.
# The outcome of an activation that a command asked for.
ACTIVATED = "activated"

_BUNDLE_ID = re.compile(r"[0-9a-f]{64}")


class Daemon:
    """One agent. Build it, then `run` it in the main thread.

    Args:
        settings: agent.toml, parsed by `driftpost_agent.settings.TABLE`.
        clock: monotonic and wall time.
        exit_event: set by a signal; ends `run`.
        notifier: the service manager.
        monotonic: seconds, for heartbeats.

    Raises:
        ConfigurationInvalid: settings that contradict each other.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        exit_event: threading.Event,
        notifier: Notifier,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._exit = exit_event
        self._notifier = notifier
        self._monotonic = monotonic
        self._started = monotonic()
        self._identity = _identity(settings)
        self._mqtt = MqttSettings.from_settings(settings) if settings.flag("sync.enabled") else None
        store_path = settings.path("store.path")
        self._starting = InterruptibleStart(exit_event)
        self._start_runtime = loader(settings, self._starting.announce)
        self._activation = Activation(
            store_path.parent / "bundles",
            trusted_keys(settings),
            allow_unsigned=settings.flag("model.allow_unsigned"),
            start=self._start_runtime,
        )
        room_to_start(store_path.parent)
        self._store = Store.open(
            store_path,
            clock=clock,
            synchronous=settings.text("store.synchronous"),
            outbox_bytes=round(settings.number("store.outbox_mb") * 2**20),
            privacy=PrivacyPolicy.from_settings(settings),
        )
        self._findings = RuntimeFindings(self._store, clock)
        self._meter = Meter()
        self._latency = LatencyHistogram()
        self._serving: Serving | None = None
        self._watch = ModelWatch(
            self._findings,
            monotonic,
            memory_mb=settings.optional("model.memory_mb", float),
            crash_limit=settings.integer("model.crash_limit"),
            stop=settings.text("model.on_crash_loop") == "stop",
        )
        self._self_test_problem = ""
        # Why another bundle serves than the one that was asked for, "" while that is not so.
        self._bundle_problem = ""
        self._refused: PointerStamp | None = None
        self._said = ""
        self._link_exit = threading.Event()
        self._uplink: Uplink | None = None
        self._server: InferenceServer | None = None
        self._server_beat = Heartbeat("server", LOOP_LIMIT_S, monotonic)
        self._recorder_beat = Heartbeat(
            "recorder", LOOP_LIMIT_S + settings.number("windows.flush_seconds"), monotonic
        )
        self._store_beat = Heartbeat(
            "store", LOOP_LIMIT_S + settings.number("windows.flush_seconds"), monotonic
        )
        self._threads: list[threading.Thread] = []
        # A file of many rows takes its time: the limit is the server's for a request.
        slow_s = LOOP_LIMIT_S + 3 * settings.number("model.deadline_seconds")
        self._input_beats = {name: Heartbeat(name, slow_s, monotonic) for name in ("folder", "local broker")}
        self._folder: WatchedFolder | None = None
        self._topics: LocalTopics | None = None
        self._topic_rules = TopicRules.from_settings(settings, f"{self._identity.client_id}-inputs")
        self._ledgers = LedgerSchedule(settings.number("sync.ledger_seconds"), monotonic())
        self._prune_due = monotonic()
        reserve = round(settings.number("store.reserve_mb") * 2**20)
        self._room = DiskRoom(self._store, store_path.parent, reserve, self._findings)
        self._room_due = monotonic()
        self._board = BoardLog(clock.mono_ms())
        self._board_due = self._budgets_due = monotonic()
        # The first one tells what an hour would hide: how the board fares at its start.
        self._board_report_due = monotonic() + min(BOARD_FIRST_S, settings.number("board.report_seconds"))
        self._disk = (0, 0)
        actions = Actions(
            give_back=self._give_back,
            shrink=self._store.shrink,
            hold_windows=self._hold_windows,
            pace_uplink=self._pace_uplink,
            stretch=self._stretch,
        )
        self._budgets = Budgets(settings, store_path.parent, actions, clock.mono_ms())

    # The server's side; called from many threads.

    def model_metadata(self) -> dict[str, Any]:
        """The active model in the protocol's words."""
        return self._now_serving().metadata

    def infer(self, inputs: Mapping[str, NDArray[Any]], inference_id: str) -> GuardedResult:
        """One guarded call."""
        before = self._monotonic()
        try:
            return self._now_serving().infer(inputs, inference_id)
        finally:
            self._latency.add(self._monotonic() - before)

    def label(self, pairs: Sequence[tuple[str, Label | list[Label]]]) -> dict[str, int]:
        """Compare labels with remembered answers."""
        return self._now_serving().label(pairs)

    def _label_checks(self) -> LabelChecks | None:
        serving = self._serving
        return None if serving is None else serving.guard.labels

    def ready(self) -> bool:
        """Whether inferences are served."""
        return self._serving is not None and not self._exit.is_set() and not self._watch.stopped

    def status(self) -> dict[str, Any]:
        """The status document, see `driftpost_agent.status`."""
        serving, uplink = self._serving, self._uplink
        health, reasons = self._health()
        pid = getattr(serving.guard.runtime, "pid", None) if serving else None
        return {
            "version": version("driftpost"),
            "pid": os.getpid(),
            "uptime_s": round(self._monotonic() - self._started, 1),
            "incarnation": self._store.incarnation,
            "device": {
                "id": self._identity.device,
                "fleet": self._identity.fleet,
                "attributes": self._settings.text_map("device.attributes"),
            },
            "health": {"state": health.value, "reasons": list(reasons)},
            "server": {"port": self._server.port if self._server else None},
            "model": status.model_facts(serving) if serving else {},
            "window_seconds": self._window_seconds(serving.bundle) if serving else None,
            "inferences": status.inference_facts(self._meter.read()),
            "latency": self._latency.facts(),
            "labels": serving.guard.labels.status() if serving and serving.guard.labels else {},
            "windows": status.window_facts(serving, self._store),
            "findings": status.finding_facts(self._store),
            "site": serving.guard.checks.site() if serving else {"baseline": "training", "mode": "off"},
            "link": status.link_facts(uplink.status() if uplink else None, uplink.address if uplink else ""),
            "store": status.store_facts(self._store, self._store_problem()),
            "process": status.process_facts(footprint(pid)),
            "inputs": self._inputs(),
            "budgets": self._budgets.facts(),
            "board": self._board.facts(),
            "clock": {"mono_ms": self._clock.mono_ms(), "wall_good": self._clock.wall_ms() is not None},
            "activations": [asdict(entry) for entry in self._store.activations(status.SHOWN)],
        }

    def metrics(self) -> str:
        """The numbers of the status document for Prometheus."""
        return metrics(self.status())

    # The main thread.

    def run(self) -> None:
        """Start everything, serve until the exit event, stop everything.

        Raises:
            AgentError: it can't start; nothing is left running.
        """
        try:
            try:
                with self._starting:
                    self._start()
            except sqlite3.Error as error:
                raise unusable(self._store.path, error) from error
            except (AgentError, ModelError):
                if not self._starting.interrupted:
                    raise
            if self._starting.interrupted:
                log.info("stopped while it was starting")
                return
            give_back()
            self._notifier.ready(self._summary())
            log.info("ready", extra={"address": f"{self._settings.text('server.host')}:{self._port()}"})
            while not self._exit.wait(ROUND_S):
                try:
                    self._round()
                except (AgentError, ModelError, SyncError, sqlite3.Error) as error:
                    log.exception("supervision failed for this round: %s", error)
                self._store.end_if_damaged()
        finally:
            self._notifier.stopping()
            self._stop()

    def _start(self) -> None:
        settings = self._settings
        if self._store.set_aside is not None:
            salvaged = self._store.salvaged
            self._findings.raise_(STORE_DAMAGED, salvaged.text if salvaged else str(self._store.set_aside))
        if self._mqtt is not None:
            self._uplink = Uplink(
                self._mqtt,
                self._identity,
                settings.text_map("device.attributes"),
                self._store,
                describe=self._describe_again,
                labels=self._label_checks,
                clock=self._clock,
                exit_event=self._link_exit,
            )
        bundle, problem = self._activation.at_start(settings.path("model.bundle"))
        self._go_on_starting()
        if problem:
            self._store.record_activation(bundle.id, bundle.name, bundle.version, "kept", problem)
        try:
            runtime = self._started_model(bundle)
        except ActivationFailed as error:
            self._go_on_starting()
            # A board whose runtime was changed may refuse what it served yesterday; the bundle before may do.
            log.error("%s", error)
            problem = f"{problem}; {error}" if problem else str(error)
            self._store.record_activation(bundle.id, bundle.name, bundle.version, "rolled back", str(error))
            bundle = self._activation.roll_back(bundle.id, error.problem)
            runtime = self._started_model(bundle)
        # A start that went back from a bundle has a successor that would have nothing to tell.
        problem = problem or self._activation.standing_problem()
        if problem:
            self._served_instead(bundle, problem)
        self._serve(bundle, "started", runtime)
        self._findings.settle()
        self._server = self._open_server()
        self._spawn("driftpost-server", self._server.serve_forever)
        self._open_inputs()
        if self._uplink is not None:
            self._uplink.start()
        if self._notifier.watchdog_interval_s is not None:
            self._spawn("driftpost-watchdog", self._feed_watchdog)

    def _open_inputs(self) -> None:
        """Start the ways in beside the server."""
        settings = self._settings
        path = settings.optional("folder.path", Path)
        if path is not None:
            rules = FolderRules(
                path=path,
                poll_s=settings.number("folder.poll_seconds"),
                settle_s=settings.number("folder.settle_seconds"),
                max_bytes=round(settings.number("folder.max_file_mb") * 2**20),
                keep_bytes=round(settings.number("folder.keep_mb") * 2**20),
                answers=settings.flag("folder.answers"),
            )
            self._folder = folder = WatchedFolder(
                rules,
                specs=self._specs,
                infer=self.infer,
                monotonic=self._monotonic,
                progress=self._input_beats["folder"].beat,
            )
            self._spawn("driftpost-folder", lambda: folder.run(self._exit))
        if self._topic_rules is not None:
            self._topics = topics = LocalTopics(
                self._topic_rules,
                model=lambda: self._specs()[1:],
                infer=self.infer,
                progress=self._input_beats["local broker"].beat,
            )
            self._spawn("driftpost-topics", lambda: topics.run(self._exit))

    def _specs(self) -> tuple[tuple[TensorSpec, ...], str, str]:
        """The served model's inputs, name and version."""
        bundle, runtime = self._now_serving().bundle, self._now_serving().guard.runtime
        return runtime.inputs, bundle.name, bundle.version

    def _inputs(self) -> dict[str, Any]:
        """The ways in beside the server, for the status document."""
        ways = {"folder": self._folder, "local_mqtt": self._topics}
        return {name: way.facts() for name, way in ways.items() if way is not None}

    def _go_on_starting(self) -> None:
        """What fails after a stop fails because of it, and must not be taken for a fault of the bundle.

        Raises:
            ActivationFailed: the agent is being stopped.
        """
        if self._starting.interrupted:
            raise ActivationFailed("the model", "start", "the agent was stopped meanwhile")

    def _open_server(self) -> InferenceServer:
        settings = self._settings
        host, port = settings.text("server.host"), settings.integer("server.port")
        try:
            return InferenceServer(
                (host, port),
                self,
                max_request_bytes=round(settings.number("server.max_request_mb") * 2**20),
                max_connections=settings.integer("server.max_connections"),
                progress=self._server_beat.beat,
            )
        except OSError as error:
            raise ConfigurationInvalid(
                "server.host and server.port",
                f"{host}:{port} can't be listened on ({error.strerror or error})",
                "Stop what uses that port, or choose another.",
            ) from error

    def _round(self) -> None:
        """What the supervisor looks after, every half second."""
        now = self._monotonic()
        self._follow_pointer()
        if self._serving is not None:
            self._watch.look(self._serving.guard.runtime, self._serving.bundle.id)
        serving = self._serving
        if serving is not None:
            if not serving.guard.checks.holding:
                serving.guard.checks.retry()
            if now >= self._room_due or self._store_problem():
                self._room_due = now + ROOM_S
                self._room.look(self._store_problem())
            self._follow_site_request(serving)
        if self._uplink is not None:
            acknowledged = not self._ledgers.begun and self._uplink.window_acknowledged()
            if self._ledgers.due(now, acknowledged=acknowledged):
                self._uplink.queue_ledger()
            self._uplink.problem()
        if now >= self._board_due:
            self._board_due = now + self._settings.number("board.seconds")
            self._board.add(
                read_board(self._store.path.parent, self._settings.path("board.root")), self._clock.mono_ms()
            )
            self._tell(BOARD, self._board.problems())
        if self._uplink is not None and now >= self._board_report_due:
            self._board_report_due = now + self._settings.number("board.report_seconds")
            self._report_board(self._uplink)
        if now >= self._budgets_due:
            self._budgets_due = now + BUDGET_S
            self._budgets.look(self._taken(), self._clock.mono_ms())
            self._tell(OVER_BUDGET, self._budgets.problems(self._clock.mono_ms()))
        if now >= self._prune_due:
            self._prune_due = now + PRUNE_S
            self._store.prune(round(self._settings.number("store.history_mb") * 2**20))
        summary = self._summary()
        if summary != self._said:
            self._said = summary
            self._notifier.status(summary)

    def _tell(self, kind: str, problems: Sequence[str]) -> None:
        """A finding of this kind while there are problems."""
        if problems:
            self._findings.raise_(kind, "; ".join(problems))
        else:
            self._findings.clear(kind, "it is over")

    def _report_board(self, uplink: Uplink) -> None:
        now = self._clock.mono_ms()
        span, readings = self._board.report(now)
        if readings:
            self._store.queue_board(BoardBody(now, self._clock.wall_ms(), span, readings))
            uplink.wake()

    def _taken(self) -> BudgetReading:
        """What this agent takes of its board now."""
        looks, size = self._disk
        if looks <= 0:
            looks, size = DISK_EVERY, folder_bytes(self._store.path.parent)
        self._disk = looks - 1, size
        pid = getattr(self._serving.guard.runtime, "pid", None) if self._serving else None
        taken = footprint(pid)
        link = self._uplink.status() if self._uplink else None
        return BudgetReading(
            memory=round((taken.agent_mb + taken.model_mb) * 2**20),
            disk=size,
            written=round(taken.written_mb * 2**20),
            sent=link.sent_bytes if link else 0,
            largest_message=link.largest_message if link else 0,
            cpu_ms=time.process_time() * 1000,
        )

    def _give_back(self) -> None:
        give_back()

    def _hold_windows(self, held: bool) -> None:
        if self._serving is not None:
            self._serving.guard.checks.holding = held

    def _pace_uplink(self, held: bool) -> None:
        if self._uplink is not None:
            self._uplink.hold_windows(held)

    def _stretch(self, times: int) -> None:
        if self._serving is not None:
            self._serving.guard.stretch(times)

    def _stop(self) -> None:
        """Stop within 5 s: take no more requests, record the open window, say what there is to say, end."""
        server, serving, uplink = self._server, self._serving, self._uplink
        if server is not None:
            server.shutdown()
            server.close_connections()
        if serving is not None:
            serving.drain(STOP_CALLS_S)
            serving.guard.flush()
        if uplink is not None:
            try:
                uplink.queue_ledger()
                self._drain(uplink)
            except sqlite3.Error as error:
                log.error("the last account could not be queued: %s", error)
            self._link_exit.set()
            if not uplink.stop(STOP_LINK_S):
                log.warning("the link did not end in time")
        self._exit.set()
        for thread in self._threads:
            thread.join(ROUND_S)
        if serving is not None:
            serving.guard.close(STOP_CALLS_S)
        self._budgets.keep(self._clock.mono_ms())
        self._store.close()
        log.info("stopped")

    def _drain(self, uplink: Uplink) -> None:
        """Give the link a moment to deliver the last window, if it delivers at all."""
        uplink.wake()
        deadline = self._monotonic() + STOP_DRAIN_S
        while self._monotonic() < deadline and not uplink.problem()[0]:
            if self._store.outbox_pending().messages == 0:
                return
            time.sleep(0.02)

    # Bundles.

    def _replay_golden(self, bundle: Bundle) -> None:
        """Test the active bundle on this very hardware; a difference is reported, not fatal."""
        try:
            self._activation.self_test(bundle)
            self._self_test_problem = ""
            self._findings.clear(MODEL_FAULT, f"{bundle.name} {bundle.version} answers as it was built to")
        except ActivationFailed as error:
            if error.step != "self-test" or self._starting.interrupted:
                raise
            self._self_test_problem = error.problem
            self._findings.raise_(MODEL_FAULT, error.problem, bundle.id, error.differing, "share")

    def _started_model(self, bundle: Bundle) -> Runtime:
        """The bundle's model, tested on this hardware and started to serve.

        Raises:
            ActivationFailed: it does not start here.
        """
        self._replay_golden(bundle)
        return self._loaded(bundle)

    def _loaded(self, bundle: Bundle) -> Runtime:
        try:
            return self._start_runtime(bundle)
        except ModelError as error:
            raise ActivationFailed(bundle.name, "start", str(error)) from error

    def _served_instead(self, bundle: Bundle, problem: str) -> None:
        """Another bundle serves than was asked for: say so until one is activated."""
        self._bundle_problem = f"{bundle.name} {bundle.version} serves instead: {problem}"
        log.warning("%s", self._bundle_problem)
        self._findings.raise_(ROLLED_BACK, self._bundle_problem, bundle.id)

    def _serve(self, bundle: Bundle, outcome: str, runtime: Runtime) -> None:
        """Make a bundle the one that is served by a started model, and let the one before go."""
        with ExitStack() as undo:
            undo.callback(runtime.close)
            guard = self._guard(bundle, runtime)
            undo.pop_all()
        before, self._serving = self._serving, Serving(bundle, guard)
        if before is not None:
            self._watch.begin()
        if outcome == ACTIVATED:
            # Before the record, on which the command waits, and before the old one is drained.
            self._self_test_problem = self._bundle_problem = ""
        if self._uplink is not None:
            self._uplink.active(bundle.id, bundle.schema.id, f"{runtime.version} {runtime.provider}")
        log.info("serving", extra={"bundle": bundle.id[:12], "model": bundle.name, "version": bundle.version})
        try:
            self._store.record_activation(bundle.id, bundle.name, bundle.version, outcome)
            self._store.describe(self._description(bundle))
            self._wake_uplink()
        finally:
            # Also when the store fails: nobody comes back to a model that is no longer served.
            if before is not None:
                before.drain()
                before.guard.close()
                why = f"{bundle.name} {bundle.version} was activated instead"
                before.guard.checks.abandon(why)
                if before.guard.labels is not None:
                    before.guard.labels.abandon(why)

    def _guard(self, bundle: Bundle, runtime: Runtime) -> Guard:
        policy = self._policy(bundle)
        return Guard(
            bundle,
            runtime,
            store=self._store,
            fallback=self._start_fallback(policy),
            policy=policy,
            clock=self._clock,
            window_seconds=self._settings.optional("windows.seconds", float),
            window_rows=self._settings.optional("windows.rows", int),
            flush_seconds=self._settings.number("windows.flush_seconds"),
            passes=self._settings.text("windows.passes"),
            on_window=lambda _: self._wake_uplink(),
            on_failure=self._model_failed,
            progress=self._recorder_beat.beat,
            stored=self._store_beat.beat,
            meter=self._meter,
        )

    def _start_fallback(self, policy: Policy) -> Runtime | None:
        path = self._settings.optional("model.fallback", Path)
        if path is not None:
            bundle = self._activation.verify(path)
            try:
                return self._start_runtime(bundle)
            except ModelError as error:
                raise ActivationFailed(str(path), "start", str(error)) from error
        if "fallback" in {policy.on_bad_verdict, *policy.reasons.values()}:
            log.warning("the policy says fallback, but model.fallback names none: the guard abstains")
        return None

    def _follow_pointer(self) -> None:
        """Serve what the pointer names when a command has moved it; go back when that does not start."""
        # The stamp first: a pointer that is moved in between is then looked at again.
        stamp, serving = self._activation.stamp(), self._serving
        if serving is None or stamp is None or stamp == self._refused:
            return
        pointer = self._activation.pointer()
        if pointer is None or pointer.active == serving.bundle.id:
            return
        try:
            bundle = self._activation.verify(self._activation.installed(pointer.active))
            self._serve(bundle, ACTIVATED, self._loaded(bundle))
        except (ActivationFailed, ModelError, ConfigError) as error:
            log.error("%s", error)
            # Not tried again until somebody activates anew, also where the pointer can't be moved back.
            self._refused = stamp
            try:
                self._activation.roll_back(pointer.active, str(error))
            finally:
                self._store.record_activation(pointer.active, "", "", "rolled back", str(error))
                self._served_instead(serving.bundle, str(error))
        else:
            for kind in (ROLLED_BACK, MODEL_FAULT):
                self._findings.clear(kind, f"{bundle.name} {bundle.version} was activated")

    def _follow_site_request(self, serving: Serving) -> None:
        """Take up a person's word on the site baseline."""
        folder = self._store.path.parent
        decision = site_request.waiting(folder)
        if decision is None:
            return
        # Removed only when it is in the store: a kill in between does the same once more.
        if serving.guard.checks.decide(accept=decision == site_request.ACCEPT):
            log.warning("site baseline: %s, as a person asked", decision)
            self._wake_uplink()
        else:
            log.warning("a request to %s was left, but the policy has no site baseline", decision)
        site_request.done(folder)

    def _policy(self, bundle: Bundle) -> Policy:
        changes = {
            name: self._settings[f"policy.{name}"]
            for name in ("on_bad_verdict", "min_confidence", "budget")
            if self._settings[f"policy.{name}"] is not None
        }
        return bundle.policy.with_(**changes) if changes else bundle.policy

    def _window_seconds(self, bundle: Bundle) -> float:
        return self._settings.optional("windows.seconds", float) or bundle.policy.window_seconds

    def _description(self, bundle: Bundle) -> DescribeBody:
        budget = self._policy(bundle).budget
        return description(bundle, window_seconds=self._window_seconds(bundle), budget=budget)

    def _describe_again(self, wanted: str | None) -> None:
        """The aggregator asks for a description: of the active bundle, or of an earlier one that is kept."""
        serving = self._serving
        if serving is not None and wanted in (None, serving.bundle.id):
            self._store.describe(self._description(serving.bundle), again=True)
        elif wanted is not None and _BUNDLE_ID.fullmatch(wanted) is None:
            log.warning("the aggregator asks for a description of %.80r, which is no bundle's id", wanted)
        elif wanted is not None:
            try:
                bundle = self._activation.verify(self._activation.installed(wanted))
                self._store.describe(self._description(bundle), again=True)
            except (ActivationFailed, MalformedMessage) as error:
                log.warning("bundle %s can't be described any more: %s", wanted[:12], error)
        self._wake_uplink()

    # Health.

    def _model_failed(self, error: Exception) -> None:
        """Called from a request's thread when the model gave no answer."""
        serving = self._serving
        if serving is not None and self._watch.failed(error, serving.bundle.id):
            self._wake_uplink()

    def _health(self) -> tuple[Health, tuple[str, ...]]:
        problem, down_s = self._uplink.problem() if self._uplink else ("", 0.0)
        runtime = self._serving.guard.runtime if self._serving else None
        return assess(
            Signs(
                serving=runtime is not None
                and bool(getattr(runtime, "alive", True))
                and not self._watch.stopped,
                stalled=self._stalled(),
                model_problem=self._watch.stopped or self._watch.problem,
                store_problem=self._store_problem(),
                link_problem=problem,
                link_down_s=down_s,
                self_test_problem=self._self_test_problem,
                bundle_problem=self._bundle_problem,
                board_problems=self._board.problems(),
                budget_problems=self._budgets.problems(self._clock.mono_ms()),
            )
        )

    def _stalled(self) -> tuple[str, ...]:
        if self._server is None:
            return ()
        beats = [self._server_beat, self._recorder_beat, self._store_beat]
        if self._folder is not None:
            beats.append(self._input_beats["folder"])
        if self._topics is not None:
            beats.append(self._input_beats["local broker"])
        found = list(stalled(beats))
        # A call can wait its turn behind others; far beyond the model's deadline nothing moves any more.
        if self._server.oldest_request_s() > LOOP_LIMIT_S + 3 * self._settings.number(
            "model.deadline_seconds"
        ):
            found.append("inference")
        if self._uplink is not None:
            behind_ms = self._clock.mono_ms() - self._uplink.status().round_mono
            if behind_ms > 1000 * LOOP_LIMIT_S and self._monotonic() - self._started > LOOP_LIMIT_S:
                found.append("link")
        return tuple(found)

    def _feed_watchdog(self) -> None:
        """Feed systemd's watchdog while every loop proves progress."""
        interval = self._notifier.watchdog_interval_s or ROUND_S
        while not self._exit.wait(min(interval, ROUND_S * 10)):
            missing = self._stalled()
            if missing:
                log.error("the watchdog is not fed", extra={"stalled": ",".join(missing)})
            else:
                self._notifier.feed_watchdog()

    def _store_problem(self) -> str:
        return self._serving.guard.checks.store_problem if self._serving else ""

    def _summary(self) -> str:
        health, reasons = self._health()
        serving = self._serving
        model = f"{serving.bundle.name} {serving.bundle.version}" if serving else "no model"
        return f"{health.value}: {reasons[0]}" if reasons else f"{health.value}: serving {model}"

    def _now_serving(self) -> Serving:
        serving = self._serving
        if serving is None:
            raise RequestRefused("the model is not loaded yet; try again", 503)
        if self._watch.stopped:
            raise RequestRefused(self._watch.stopped, 503)
        return serving

    def _wake_uplink(self) -> None:
        if self._uplink is not None:
            self._uplink.wake()

    def _port(self) -> int:
        return self._server.port if self._server else 0

    def _spawn(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)


def _identity(settings: Settings) -> Identity:
    try:
        return Identity(settings.text("device.fleet"), settings.text("device.id"))
    except MalformedMessage as error:
        raise ConfigurationInvalid(
            "device.id and device.fleet",
            error.reason,
            "They become part of a topic: use letters, digits, '.', '_' and '-'.",
        ) from error
