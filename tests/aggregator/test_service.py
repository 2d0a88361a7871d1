"""The whole aggregator on a real Mosquitto, with devices on the real outbox and link."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, func, select

from driftpost_aggregator import settings as aggregator_settings
from driftpost_aggregator.service import Aggregator
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import open_engine, reading
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.systemd import Notifier
from mosquitto import Mosquitto, needs_mosquitto, running_mosquitto
from paper_fleet import PaperBundle, PaperDevice, draw, make_bundle
from wire import CLOCK, Device, wait_until

pytestmark = needs_mosquitto
FLEET = "meters"
DRIFTPOST = Path(sys.executable).with_name("driftpost")


@pytest.fixture(scope="module")
def bundle() -> PaperBundle:
    return make_bundle()


@pytest.fixture
def broker() -> Iterator[Mosquitto]:
    with running_mosquitto() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, broker: Mosquitto) -> Path:
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(b"k" * 32).decode())
    path = tmp_path / "aggregator.toml"
    path.write_text(
        f"""
        [fleet]
        name = "{FLEET}"
        [database]
        url = "sqlite:///fleet.db"
        [mqtt]
        host = "{broker.host}"
        port = {broker.port}
        reconnect_min_s = 0.05
        reconnect_max_s = 0.2
        [web]
        port = 0
        [rollups]
        bucket_s = 1
        [triage]
        interval_s = 0.2
        """
    )
    return path


class Sender:
    """A device that puts real windows into a real outbox."""

    def __init__(self, broker: Mosquitto, name: str, bundle: PaperBundle, folder: Path) -> None:
        settings = MqttSettings(
            host=broker.host,
            port=broker.port,
            reconnect_min_s=0.05,
            reconnect_max_s=0.2,
            ack_timeout_s=0.5,
        )
        self.bundle = bundle
        self.device = Device(settings, name, FLEET, folder / f"{name}.db", seed=len(name))
        self.paper = PaperDevice(name, incarnation=self.device.box.incarnation, booted_ms=0)
        self.generator = np.random.default_rng(4)
        self.device.link.start()

    def put(self, kind: str, body: bytes, rows: int = 0) -> None:
        with self.device.outbox() as outbox:
            outbox.put(kind, body, mono=CLOCK.mono_ms(), windows=1 if rows else 0, rows=rows)  # type: ignore[arg-type]  # kinds are checked by put
        self.device.link.wake()

    def describe(self) -> None:
        self.put("describe", self.bundle.describe.to_bytes())

    def windows(self, count: int, rows: int = 20) -> None:
        for _ in range(count):
            window = self.bundle.window(draw(self.generator, rows))
            item = self.paper.window(window, CLOCK.mono_ms(), wall=False, length_ms=1_000)
            self.put("window", item.body, rows)

    def close(self) -> None:
        self.device.close()


@pytest.fixture
def sender(broker: Mosquitto, bundle: PaperBundle, tmp_path: Path) -> Iterator[Sender]:
    one = Sender(broker, "m1", bundle, tmp_path)
    yield one
    one.close()


def counted(engine: Engine) -> tuple[int, int, int]:
    """Rows in windows, in the device's row, in the fleet's rollups."""
    with reading(engine) as connection:
        return (
            connection.execute(select(func.coalesce(func.sum(tables.windows.c.rows), 0))).scalar_one(),
            connection.execute(select(func.coalesce(func.sum(tables.devices.c.rows), 0))).scalar_one(),
            connection.execute(
                select(func.coalesce(func.sum(tables.rollups.c.rows), 0)).where(
                    tables.rollups.c.scope == "fleet"
                )
            ).scalar_one(),
        )


def test_windows_go_from_an_outbox_into_the_rollups_and_leave_the_outbox(
    config: Path, sender: Sender
) -> None:
    exit_event = threading.Event()
    aggregator = Aggregator(aggregator_settings.load(config), exit_event)
    aggregator.start()
    try:
        sender.describe()
        sender.windows(12)
        wait_until(lambda: sender.device.pending() == 0, "everything acknowledged")
        assert counted(aggregator.engine) == (240, 240, 240)
        with reading(aggregator.engine) as connection:
            device = connection.execute(select(tables.devices)).one()
        assert (device.device, device.online) == ("m1", True)
        with urllib.request.urlopen(aggregator.web.address, timeout=10) as page:
            assert page.status == 200
        assert aggregator.stalled() == []
    finally:
        aggregator.stop()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("driftpost-web")]


def test_an_aggregator_that_is_killed_in_mid_stream_and_started_again_counts_everything_once(
    config: Path, sender: Sender, tmp_path: Path
) -> None:
    sender.describe()
    command = [DRIFTPOST, "aggregator", "run", "--config", config]
    expected = 0
    for lap in range(2):
        with (
            (tmp_path / "log").open("ab") as log,
            subprocess.Popen(command, stdout=log, stderr=log) as process,
        ):
            sender.windows(40)
            expected += 40 * 20
            wait_until(lambda: sender.device.pending() < 40, "some acknowledged", 30)
            if lap < 1:
                process.kill()
            else:
                wait_until(lambda: sender.device.pending() == 0, "all acknowledged", 30)
                process.terminate()
                assert process.wait(20) == 0
            process.wait(20)
    engine = open_engine(f"sqlite:///{config.parent / 'fleet.db'}")
    try:
        assert counted(engine) == (expected, expected, expected)
    finally:
        engine.dispose()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_broker_that_goes_away_and_comes_back_loses_nothing(
    config: Path, broker: Mosquitto, sender: Sender
) -> None:
    aggregator = Aggregator(aggregator_settings.load(config), threading.Event())
    aggregator.start()
    try:
        sender.describe()
        sender.windows(10)
        wait_until(lambda: sender.device.pending() == 0, "the first lot acknowledged")
        broker.kill()
        sender.windows(10)
        broker.restart()
        sender.windows(10)
        wait_until(lambda: sender.device.pending() == 0, "everything acknowledged", 30)
        assert counted(aggregator.engine) == (600, 600, 600)
    finally:
        aggregator.stop()


def test_systemd_hears_ready_status_watchdog_and_stopping(
    config: Path, tmp_path: Path, broker: Mosquitto
) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(20)
        environment = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "400000",
            "WATCHDOG_PID": str(os.getpid()),
        }
        exit_event = threading.Event()
        aggregator = Aggregator(aggregator_settings.load(config), exit_event)
        thread = threading.Thread(target=aggregator.run, args=(Notifier(environment),))
        thread.start()
        heard = []
        try:
            while not any("WATCHDOG=1" in line for line in heard):
                heard.append(listener.recv(4096).decode())
        finally:
            exit_event.set()
            thread.join(20)
        while not any("STOPPING=1" in line for line in heard):
            heard.append(listener.recv(4096).decode())
    assert not thread.is_alive()
    assert heard[0].startswith("READY=1\nSTATUS=dashboard at http://127.0.0.1:")


def test_a_loop_that_stands_still_keeps_the_watchdog_hungry(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aggregator = Aggregator(aggregator_settings.load(config), threading.Event())
    aggregator.start()
    try:
        wait_until(lambda: aggregator.link.status().connected, "connected")
        assert aggregator.stalled() == []
        monkeypatch.setattr("driftpost_aggregator.service.STALLED_S", -1.0)
        every = {"link", *(loop.name for loop in aggregator.loops)}
        assert set(aggregator.stalled()) == every >= {"ingest", "triage", "delivery", "link"}
    finally:
        aggregator.stop()


def test_the_process_ends_cleanly_on_sigterm_with_no_broker_at_all(config: Path, broker: Mosquitto) -> None:
    broker.kill()
    process = subprocess.Popen(
        [DRIFTPOST, "aggregator", "run", "--config", config], stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "dashboard at" in line:
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(20) == 0
    assert "Traceback" not in rest
