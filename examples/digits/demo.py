"""The main job, end to end: a fleet of guarded models, a drift, an incident, a retrain request.

    python examples/digits/demo.py [--keep] [--no-drift] [--short] [--seed N]

Everything is real: eight agents with their models, a broker, the aggregator and a receiver, each a process of
its own on loopback; signed bundles built from a recorded baseline; handwriting that no model was trained on.
The summary is computed from what the stores, the database and the receiver hold in the end. `docs/demo.md`
explains each step.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import books
from camera import NORMAL, Camera
from digits import load_pool
from feeder import Feeder
from fleet import Fleet
from inference_client import InferenceClient
from layout import Layout, Ports
from processes import ChildFailed, Interrupted, Processes
from progress import Progress, Snapshot
from receiver import read_log
from report import print_summary
from scenario import DEVICES, FRAMES_PER_SECOND, MODEL, SHORT, Schedule, effect_of
from summary import Account, Facts, drift_found, passed
from watch import Watch

LOOK_EVERY_S = 0.5
EXIT_INTERRUPTED = 130


class CameraFailed(Exception):
    """A camera could not go on feeding its agent."""


class Demo:
    """One run.

    Args:
        layout: Where it keeps everything.
        schedule: How long its phases last.
        drift: Whether anything goes wrong with the cameras.
        seed: Of the cameras.
        progress: Shows how it goes.
        exit_event: Ends it early.
    """

    def __init__(
        self,
        layout: Layout,
        schedule: Schedule,
        *,
        drift: bool,
        seed: int,
        progress: Progress,
        exit_event: threading.Event,
    ) -> None:
        self._layout = layout
        self._schedule = schedule
        self._drift = drift
        self._seed = seed
        self._progress = progress
        self._exit = exit_event
        self._ports = Ports.choose()
        self._processes = Processes(layout.logs)
        self._fleet = Fleet(layout, self._ports, self._processes, exit_event.wait)
        self._watch = Watch(layout, self._ports)
        self._feeders: list[Feeder] = []
        self._stop_feeding = threading.Event()
        self._drift_ms = sys.maxsize

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop_cameras()
        self._watch.close()
        self._processes.close()

    def run(self, *, keep: bool) -> Facts:
        """Play it and gather the facts.

        Args:
            keep: Leave agents and aggregator running.

        Raises:
            ChildFailed: A process ended, or did not get ready.
            CameraFailed: A camera could not go on.
            Interrupted: The exit event was set.
        """
        self._set_up()
        self._start_cameras()
        started = time.monotonic()
        self._stretch("quiet stretch: nothing is wrong, any alarm would be false", self._schedule.quiet)
        self._drift_ms = int(time.time() * 1000)
        self._second_phase()
        self._stop_cameras()
        fed_s = time.monotonic() - started
        self._stretch("cameras stopped: everything fed has to arrive", self._schedule.drain, self._drained)
        statuses = self._watch.statuses()
        failures = [] if keep else self.stop()
        self._progress.say("measuring what the guard costs")
        facts = self._facts()
        accounts = {
            name: closed(account, statuses[name], fed_s, running=keep) if statuses[name] else account
            for name, account in facts.accounts.items()
        }
        failures += [f"{name} did not tell its status" for name, status in statuses.items() if not status]
        return replace(facts, accounts=accounts, failures=failures, overheads=self._fleet.measure_overheads())

    def stop(self) -> list[str]:
        """Stop cameras and processes, the agents first, as in the field; what went wrong with which."""
        self._stop_cameras()
        return self._fleet.stop_agents() + self._fleet.stop_services()

    def linger(self) -> None:
        """Feed on, with whatever is wrong, until the exit event is set."""
        self._start_cameras()
        self._enter_drift()
        while not self._exit.wait(LOOK_EVERY_S):
            self._look("running on; Ctrl-C ends everything", None)

    def _set_up(self) -> None:
        self._progress.say("recording the baseline and building two signed bundles")
        self._fleet.build()
        if self._exit.is_set():
            raise Interrupted
        self._progress.say("starting broker, receiver, aggregator and eight agents")
        self._fleet.start()
        self._progress.say(f"dashboard: {self._fleet.dashboard}")

    def _start_cameras(self) -> None:
        self._stop_feeding = threading.Event()
        pool = load_pool("test")
        seeds = np.random.SeedSequence(self._seed).spawn(len(DEVICES))
        self._feeders = [
            Feeder(
                device.name,
                InferenceClient(self._ports.agents[device.name], MODEL),
                Camera(pool, np.random.default_rng(seed)),
                FRAMES_PER_SECOND,
                exit_event=self._stop_feeding,
            )
            for device, seed in zip(DEVICES, seeds, strict=True)
        ]
        for feeder in self._feeders:
            feeder.start()

    def _stop_cameras(self) -> None:
        self._stop_feeding.set()
        for feeder in self._feeders:
            feeder.join()

    def _enter_drift(self) -> None:
        for device, feeder in zip(DEVICES, self._feeders, strict=True):
            feeder.enter("drift", effect_of(device) if self._drift else NORMAL)

    def _second_phase(self) -> None:
        self._enter_drift()
        if self._drift:
            phase = "drift: the B cameras are fogged, the sensor of one A camera is frozen"
            self._stretch(phase, self._schedule.detect, self._found)
            self._stretch("watching on: nothing more may follow", self._schedule.settle)
        else:
            self._stretch("still nothing is wrong", self._schedule.calm)

    def _stretch(self, phase: str, seconds: float, done: Callable[[], bool] | None = None) -> None:
        """Watch for some time, or until it is done."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._exit.wait(min(LOOK_EVERY_S, left)):
                raise Interrupted
            self._look(phase, left)
            if done is not None and done():
                return

    def _look(self, phase: str, left_s: float | None) -> None:
        self._processes.check()
        for feeder in self._feeders:
            if feeder.failure is not None:
                raise CameraFailed(f"camera of {feeder.device}: {feeder.failure}")
        seen = self._watch.look(self._feeders)
        snapshot = Snapshot(phase, left_s, self._fleet.dashboard, seen.devices, seen.incidents, seen.request)
        self._progress.show(snapshot, time.monotonic())

    def _found(self) -> bool:
        return drift_found(self._facts())

    def _drained(self) -> bool:
        return all(account.arrived for account in self._accounts().values())

    def _accounts(self) -> dict[str, Account]:
        fleet = books.fleet_books(self._layout.database)
        accounts = {}
        for device, feeder in zip(DEVICES, self._feeders, strict=True):
            here, there = (
                books.device_book(self._layout.store(device)),
                fleet.get(device.name, books.FleetBook()),
            )
            accounts[device.name] = Account(
                fed=feeder.fed,
                recorded=here.recorded,
                stored=there.stored,
                merged=there.merged,
                windows=there.windows,
                pending=here.pending,
                quarantined=here.quarantined + there.quarantined,
                lost=here.lost,
                unsent_findings=here.unsent_findings,
            )
        return accounts

    def _facts(self) -> Facts:
        return Facts(
            drift=self._drift,
            drift_ms=self._drift_ms,
            incidents=books.incidents(self._layout.database),
            findings=books.findings(self._layout.database),
            deliveries=read_log(self._layout.received),
            requests=books.requests(self._layout.database),
            tallies={feeder.device: feeder.tallies for feeder in self._feeders},
            accounts=self._accounts(),
        )


def closed(account: Account, status: dict[str, Any], fed_s: float, *, running: bool) -> Account:
    """An account with what the agent said of itself at the end.

    Args:
        account: From the books.
        status: The agent's last status document.
        fed_s: How long it was fed, seconds.
        running: Whether the agent still runs. Then its own word on what is pending counts, as it writes
            acknowledgements down with the next window; for findings it has none.
    """
    return replace(
        account,
        pending=int(status["windows"]["rows"]["pending"]) if running else account.pending,
        unsent_findings=0 if running else account.unsent_findings,
        sent_bytes=int(status["link"]["sent_bytes"]),
        guard_us=float(status["inferences"]["guard_us"]),
        model_us=float(status["inferences"]["model_us"]),
        seconds=fed_s,
    )


def main() -> int:
    """Run the demo; the exit status says whether every promise was kept."""
    parser = argparse.ArgumentParser(description="driftpost's main job, end to end, on this machine")
    parser.add_argument("--keep", action="store_true", help="leave it running afterwards, until Ctrl-C")
    parser.add_argument("--no-drift", action="store_true", help="inject nothing: no incident may come")
    parser.add_argument("--short", action="store_true", help="a shorter quiet stretch, for tests")
    parser.add_argument("--seed", type=int, help="repeat the cameras of another run")
    options = parser.parse_args()

    exit_event = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: exit_event.set())
    console = Console()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    layout = Layout(Path(tempfile.mkdtemp(prefix="driftpost-demo-")))
    status = 1
    with Progress(console) as progress:
        progress.say(f"everything is kept in {layout.root}; cameras' seed {seed}")
        with Demo(
            layout,
            SHORT if options.short else Schedule(),
            drift=not options.no_drift,
            seed=seed,
            progress=progress,
            exit_event=exit_event,
        ) as demo:
            try:
                facts = demo.run(keep=options.keep)
                print_summary(facts, console)
                status = 0 if passed(facts) else 1
                if options.keep:
                    demo.linger()
                    for problem in demo.stop():
                        progress.say(f"FAILED: {problem}")
                        status = 1
            except ChildFailed as failure:
                progress.say(f"FAILED: {failure}; the end of its log:\n{failure.tail}")
                status = 1  # with --keep it may fail after every promise was kept
            except CameraFailed as failure:
                progress.say(f"FAILED: {failure}")
                status = 1
            except Interrupted:
                progress.say("interrupted")
                status = EXIT_INTERRUPTED
    if status == 0:
        shutil.rmtree(layout.root)
    else:
        console.print(f"logs and databases are in {layout.root}", highlight=False)
    return status


if __name__ == "__main__":
    sys.exit(main())
