"""A small real fleet on loopback whose parts can be killed: Mosquitto, aggregator, agents."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np

from camera import SIDE, Camera, record, to_model_input
from digits import CLASSES, MODELS, load_pool
from fleet import run_to_end
from inference_client import InferenceClient, InferenceRefused
from mosquitto import Mosquitto
from processes import Child, free_ports
from toml_text import toml_text

DRIFTPOST = str(Path(sys.executable).with_name("driftpost"))
FLEET = "fire"
MODEL = "digits"
WINDOW_S = 1.0
REFERENCE_FRAMES = 4000
FRAMES_PER_SECOND = 40.0
READY_S = 60.0


def build_bundle(folder: Path, runtime: str) -> Path:
    """A bundle of one of the digit readers."""
    frames, labels = record(load_pool("reference"), REFERENCE_FRAMES, np.random.default_rng(5))
    rows = to_model_input(frames)
    reference, bundle = folder / f"{runtime}.npz", folder / f"{runtime}.bundle"
    np.savez(reference, image=rows.reshape(-1, 1, SIDE, SIDE) if runtime == "onnx" else rows, digit=labels)
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    command = [DRIFTPOST, "bundle", "build", "--model", str(MODELS[runtime]), "--reference", str(reference)]
    command += ["--labels", "digit", "--classes", str(folder / "classes.txt"), "--name", MODEL]
    command += ["--smallest-effect", "0.3", "--window-seconds", str(WINDOW_S), "--out", str(bundle)]
    run_to_end(f"bundle-{runtime}", command, folder)
    return bundle


class Feed(threading.Thread):
    """A camera that goes on whatever happens to its agent; counts the answers it got."""

    def __init__(self, device: str, port: int, stop: threading.Event) -> None:
        super().__init__(name=f"feed-{device}", daemon=True)
        self._camera = Camera(load_pool("test"), np.random.default_rng(abs(hash(device)) % 2**32))
        self._port, self._over = port, stop
        self.answered = 0
        self.unknown = 0  # sent, but the connection broke before an answer: counted by the agent or not

    def run(self) -> None:
        while not self._over.is_set():
            client = InferenceClient(self._port, MODEL)
            try:
                client.connect()
                self._serve(client)
            except (OSError, InferenceRefused, httpx.HTTPError, ValueError):
                self._over.wait(0.1)
            finally:
                client.close()

    def _serve(self, client: InferenceClient) -> None:
        while not self._over.wait(1.0 / FRAMES_PER_SECOND):
            pixels = self._camera.shoot().pixels
            self.unknown += 1
            client.infer(pixels)
            self.unknown -= 1
            self.answered += 1


class FleetUnderFire:
    """Starts everything and kills what it is told to."""

    def __init__(self, folder: Path, broker: Mosquitto, devices: Mapping[str, str]) -> None:
        self.folder, self._broker, self._devices = folder, broker, devices
        web, *ports = free_ports(1 + len(devices))
        self._ports = dict(zip(devices, ports, strict=True))
        self.dashboard = f"http://127.0.0.1:{web}"
        self.database = folder / "fleet.db"
        bundles = {runtime: build_bundle(folder, runtime) for runtime in sorted(set(devices.values()))}
        self._aggregator_toml = folder / "aggregator.toml"
        self._aggregator_toml.write_text(
            toml_text(
                {
                    "fleet": {"name": FLEET},
                    "database": {"url": f"sqlite:///{self.database}"},
                    "mqtt": {"host": broker.host, "port": broker.port},
                    "rollups": {"bucket_s": 1},
                    "web": {"port": web},
                }
            )
        )
        for device, runtime in devices.items():
            (folder / f"{device}.toml").write_text(
                toml_text(
                    {
                        "device": {"id": device, "fleet": FLEET, "attributes": {"runtime": runtime}},
                        "model": {"bundle": bundles[runtime], "allow_unsigned": True},
                        "server": {"port": self._ports[device]},
                        "store": {"path": self.store(device)},
                        "mqtt": {"host": broker.host, "port": broker.port},
                        "clock": {"trust_wall": True},
                    }
                )
            )
        self._over = threading.Event()
        self.feeds = {device: Feed(device, self._ports[device], self._over) for device in devices}
        self._children: dict[str, Child] = {}

    def __enter__(self) -> FleetUnderFire:
        try:
            self.start_aggregator()
            for device in self._devices:
                self.start_agent(device)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.stop_feeding()
        finally:
            for child in self._children.values():
                child.ask_to_stop()
            for child in self._children.values():
                child.wait(10.0)
                child.end()

    def store(self, device: str) -> Path:
        """The device's database."""
        return self.folder / device / "agent.db"

    def start_aggregator(self) -> None:
        """Start it and wait until its dashboard answers."""
        self._start("aggregator", ["aggregator", "run", "--config", str(self._aggregator_toml)])
        self.wait("the aggregator serves", lambda: _ok(f"{self.dashboard}/health"))

    def start_agent(self, device: str) -> None:
        """Start it and wait until its model is ready."""
        self._start(device, ["agent", "run", "--config", str(self.folder / f"{device}.toml")])
        address = f"http://127.0.0.1:{self._ports[device]}/v2/health/ready"
        self.wait(f"{device} is ready", lambda: _ok(address))

    def _start(self, name: str, arguments: list[str]) -> None:
        self._children[name] = Child(name, [DRIFTPOST, *arguments], self.folder)

    def kill(self, name: str) -> None:
        """SIGKILL to the process alone: its own children have to notice by themselves."""
        child = self._children[name]
        child.check()
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(5.0)
        child.end()

    def stop(self, name: str) -> None:
        """An orderly end."""
        child = self._children[name]
        child.ask_to_stop()
        assert child.wait(15.0), child.tail()
        child.end()

    def start_feeding(self) -> None:
        """Let the cameras run."""
        for feed in self.feeds.values():
            feed.start()

    def stop_feeding(self) -> None:
        """Stop the cameras."""
        self._over.set()
        for feed in self.feeds.values():
            if feed.is_alive():
                feed.join(20.0)

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = READY_S) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n{child.tail()}" for name, child in self._children.items())
                raise AssertionError(f"not within {seconds} s: {what}\n{logs}")
            time.sleep(0.1)

    def recorded_windows(self) -> int:
        """Windows that the aggregator has stored so far."""
        try:
            return int(read(self.database, "select count(*) from windows")[0][0])
        except sqlite3.OperationalError:
            return 0

    def accounts(self, device: str) -> tuple[int, int, int, int, int]:
        """The device's own ledger: rows recorded, acknowledged, pending, quarantined, lost in a kill."""
        row = read(
            self.store(device),
            "select total(recorded_rows), total(acked_rows), total(pending_rows), total(quarantined_rows),"
            " total(lost_rows_at_start) from ledger",
        )[0]
        return int(row[0]), int(row[1]), int(row[2]), int(row[3]), int(row[4])


def read(path: Path, query: str) -> list[tuple[object, ...] | sqlite3.Row]:
    """Rows of a database that another process may be writing."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
        return connection.execute(query).fetchall()


def _ok(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2.0).is_success
    except httpx.HTTPError:
        return False
