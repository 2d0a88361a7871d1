"""Workers, broker and database are killed in mid-ingest, messages repeated and reordered: counts are exact.

`make chaos` plays more and longer; here the number of kills is bounded.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import Engine, func, select

from driftpost_aggregator.simulation.feed import Feed
from driftpost_aggregator.simulation.fleet import Books, SimulatedFleet
from driftpost_aggregator.simulation.script import Disturbance, Script
from driftpost_aggregator.simulation.world import paper_bundle
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import migrate, open_engine, reading
from driftpost_sync.clock import SystemClock
from driftpost_sync.mqtt_settings import MqttSettings
from mosquitto import Mosquitto, needs_mosquitto, running_mosquitto
from postgresql import PostgreSQL

FLEET = "chaos"
KILLS = int(os.environ.get("DRIFTPOST_CHAOS_KILLS", "4"))
DEVICES = int(os.environ.get("DRIFTPOST_CHAOS_DEVICES", "60"))
BETWEEN_S = float(os.environ.get("DRIFTPOST_CHAOS_SECONDS", "1.2"))
DEADLINE_S = 120.0 + KILLS * 20.0
_BROKER = "max_inflight_messages 1024\nmax_queued_messages 1000\n"
SCRIPT = Script(
    rows=40,
    window_s=60.0,
    repeated=0.05,
    reordered=0.05,
    clockless=0.1,
    disturbances=(Disturbance("shift", "input.01", 2.0, {"camera": "B"}, 1.0, 3, 6, 1),),
)


class Workers:
    """Ingest processes that are started again when they end, as a service manager would."""

    def __init__(self, config: Path, count: int) -> None:
        self._config = config
        self._running: list[subprocess.Popen[bytes]] = [self._start() for _ in range(count)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="workers", daemon=True)
        self._thread.start()
        self.started = count

    def _start(self) -> subprocess.Popen[bytes]:
        driftpost = str(Path(sys.executable).with_name("driftpost"))
        with (self._config.parent / "workers.log").open("ab") as log:
            return subprocess.Popen(
                [driftpost, "aggregator", "worker", "--config", str(self._config)], stdout=log, stderr=log
            )

    def _keep(self) -> None:
        while not self._over.wait(0.2):
            for index, process in enumerate(self._running):
                if process.poll() is not None:
                    self._running[index] = self._start()
                    self.started += 1

    def kill(self, chooser: random.Random) -> None:
        """End one at once."""
        chooser.choice(self._running).kill()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(10)
        for process in self._running:
            process.send_signal(signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@contextmanager
def _workers(config: Path, count: int) -> Iterator[Workers]:
    workers = Workers(config, count)
    try:
        yield workers
    finally:
        workers.stop()


def _configuration(folder: Path, url: str, broker: Mosquitto) -> Path:
    path = folder / "aggregator.toml"
    path.write_text(
        f'[fleet]\nname = "{FLEET}"\n[database]\nurl = "{url}"\n[mqtt]\nhost = "{broker.host}"\n'
        f"port = {broker.port}\nreconnect_min_s = 0.2\nreconnect_max_s = 1.0\n"
        f"[rollups]\nbucket_s = 60\n[ingest]\nbatch_messages = 64\n"
    )
    return path


def _totals(engine: Engine) -> dict[str, object]:
    rollups = tables.rollups.c
    with reading(engine) as connection:
        rows = {
            scope: connection.execute(
                select(func.coalesce(func.sum(rollups.rows), 0)).where(rollups.scope == scope)
            ).scalar_one()
            for scope in ("device", "fleet")
        }
        cohorts = connection.execute(
            select(rollups.scope_key, func.sum(rollups.rows))
            .where(rollups.scope == "cohort")
            .group_by(rollups.scope_key)
        )
        devices = tables.devices.c
        counted = connection.execute(
            select(
                func.count(), func.sum(devices.windows), func.sum(devices.rows), func.sum(devices.quarantined)
            )
        ).one()
        stored = connection.execute(
            select(
                func.count(), func.sum(tables.windows.c.rows), func.count().filter(~tables.windows.c.merged)
            )
        ).one()
        return {
            "devices": counted[0],
            "counted": (counted[1], counted[2]),
            "quarantined": counted[3],
            "stored": tuple(stored),
            "by device": rows["device"],
            "by fleet": rows["fleet"],
            "cohorts": {key: int(total) for key, total in cohorts},
            "findings": connection.execute(select(func.count()).select_from(tables.findings)).scalar_one(),
        }


def _expected(books: Books) -> dict[str, object]:
    return {
        "devices": books.devices,
        "counted": (books.windows, books.rows),
        "quarantined": 0,
        "stored": (books.windows, books.rows, 0),
        "by device": books.rows,
        "by fleet": books.rows,
        "cohorts": books.cohorts,
        "findings": books.findings,
    }


@needs_mosquitto
def test_every_count_is_exact_whatever_is_killed_in_mid_ingest(tmp_path: Path) -> None:
    chooser = random.Random(6)
    describe = paper_bundle(6, window_s=60.0, seed=3)
    start_ms = int(time.time() * 1000) - 86_400_000
    fleet = SimulatedFleet(describe, SCRIPT, devices=DEVICES, fleet=FLEET, seed=3, start_ms=start_ms)
    with ExitStack() as stack:
        server = PostgreSQL()
        stack.callback(server.remove)
        broker = stack.enter_context(running_mosquitto(_BROKER))
        engine = open_engine(server.url)
        stack.callback(engine.dispose)
        migrate(engine)
        workers = stack.enter_context(_workers(_configuration(tmp_path, server.url, broker), 2))
        over = threading.Event()
        stack.callback(over.set)
        feed = Feed(
            MqttSettings(host=broker.host, port=broker.port, reconnect_min_s=0.2, reconnect_max_s=1.0),
            fleet,
            FLEET,
            clock=SystemClock(),
            random=random.SystemRandom(),
            exit_event=over,
            in_flight=200,
            resend_ms=3_000,
        )
        enough = threading.Event()

        def play() -> None:
            feed.send(fleet.births())
            window = 0
            while not enough.is_set() or window < 10:
                feed.send(fleet.round(window))
                window += 1
            feed.send(fleet.rest())
            feed.settle()
            feed.close()

        player = threading.Thread(target=play, name="play", daemon=True)
        player.start()
        stack.callback(player.join, 20)
        _await_progress(engine, 1)
        for number in range(KILLS):
            before = _stored(engine)
            what = ("worker", "broker", "database", "everything")[number % 4]
            if what in ("worker", "everything"):
                workers.kill(chooser)
            if what in ("broker", "everything"):
                broker.restart()
            if what in ("database", "everything"):
                server.crash()
                server.start()
            _await_progress(engine, before + 1)
            time.sleep(BETWEEN_S * chooser.random())
        enough.set()
        player.join(DEADLINE_S)
        log = (tmp_path / "workers.log").read_text(errors="replace")
        assert not player.is_alive(), f"{feed.waiting} messages are not acknowledged\n{log[-3000:]}"
        engine.dispose()
        assert feed.refused == 0
        assert _totals(engine) == _expected(fleet.books)
        assert workers.started > 2


def _stored(engine: Engine) -> int:
    engine.dispose()
    with reading(engine) as connection:
        return int(
            connection.execute(select(func.coalesce(func.sum(tables.devices.c.windows), 0))).scalar_one()
        )


def _await_progress(engine: Engine, least: int) -> None:
    """Kill only while something is going on."""
    deadline = time.monotonic() + DEADLINE_S
    while _stored(engine) < least:
        assert time.monotonic() < deadline, "nothing is counted any more"
        time.sleep(0.1)
