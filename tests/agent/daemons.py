"""A real agent in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosquitto import free_port

# A slower machine, such as an emulated one, multiplies it.
PATIENCE_S = 30.0 * float(os.environ.get("DRIFTPOST_TEST_PATIENCE", "1"))


def toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return str(value) if isinstance(value, (int, float)) else json.dumps(str(value))


class Agent:
    """The command line's agent, its configuration and its answers."""

    def __init__(self, folder: Path, bundle: Path, key: Path, /, **sections: Mapping[str, Any]) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "agent.toml"
        self.log = folder / "agent.log"
        settings: dict[str, dict[str, Any]] = {
            "device": {"id": "cam-1", "fleet": "test", "attributes": {"site": "lab"}},
            "model": {"bundle": bundle, "trusted_keys": [key]},
            "server": {"port": self.port},
            "store": {"path": folder / "state" / "agent.db"},
            "sync": {"enabled": False},
            "clock": {"trust_wall": True},
        }
        for name, section in sections.items():
            settings.setdefault(name, {}).update(section)
        self.configure(settings)
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self.settings = settings
        lines = []
        for name, section in settings.items():
            lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in section.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        self.spawn(environment)
        self.wait(lambda: self.get("/v2/health/ready")[0] == 200, "the agent is ready")

    def spawn(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it without waiting until it serves."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "driftpost", "agent", "run", "--config", str(self.config)],
                stderr=log,
                stdout=log,
                cwd=self.folder,
                env=environment,
            )

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                if condition():
                    return
            assert self.process is None or self.process.poll() is None, f"it ended: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"not in {seconds} s: {what}\n{self.log.read_text()}"
            time.sleep(0.02)

    def get(self, path: str) -> tuple[int, Any]:
        return self._ask("GET", path, None)

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = self.get("/status")[1]
        return document

    def infer(self, model: str, name: str, rows: NDArray[Any]) -> tuple[int, Any]:
        kinds = {"float32": "FP32", "uint8": "UINT8", "int8": "INT8"}
        tensor = {
            "name": name,
            "shape": list(rows.shape),
            "datatype": kinds[rows.dtype.name],
            "data": np.where(np.isfinite(rows), rows, None).ravel().tolist()
            if rows.dtype.kind == "f"
            else rows.ravel().tolist(),
        }
        return self._ask("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[int, Any]:
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path, body)
            answer = connection.getresponse()
            content = answer.read()
            if answer.headers.get_content_type() != "application/json":
                return answer.status, content.decode()
            return answer.status, json.loads(content)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> float:
        """End it cleanly; returns the seconds it took."""
        assert self.process is not None
        started = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE_S)
        return time.monotonic() - started


@contextmanager
def running(folder: Path, bundle: Path, key: Path, /, **sections: Mapping[str, Any]) -> Iterator[Agent]:
    """An agent that serves, ended at the latest here."""
    agent = Agent(folder, bundle, key, **sections)
    try:
        agent.start()
        yield agent
    finally:
        if agent.process is not None and agent.process.poll() is None:
            agent.kill()
