"""A real Mosquitto on a free loopback port, for tests that need one.

with running_mosquitto() as broker:
    broker.host, broker.port
    broker.kill()      # SIGKILL, as a power cut
    broker.restart()   # same port, same persistence
"""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_BINARY = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")

needs_mosquitto = pytest.mark.skipif(_BINARY is None, reason="mosquitto is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A broker process; `extra` is appended to its configuration."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        if _BINARY is None:
            pytest.skip("mosquitto is not installed")
        self.host = "127.0.0.1"
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        listener = "" if "\nlistener " in f"\n{extra}" else f"listener {self.port} {self.host}\n"
        anonymous = "" if "allow_anonymous" in extra else "allow_anonymous true\n"
        # As root it would become another user, who may not write into the folder.
        user = f"user {getpass.getuser()}\n"
        persistence = f"persistence true\npersistence_location {folder}/\nautosave_interval 1\n"
        self._config.write_text(
            listener + anonymous + user + persistence + extra.replace("{port}", str(self.port)) + "\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.restart()

    @property
    def pid(self) -> int:
        """Of the running broker."""
        assert self._process is not None
        return self._process.pid

    def restart(self) -> None:
        """Start it (again) and wait until it accepts connections."""
        assert _BINARY is not None
        self.kill()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([_BINARY, "-c", str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"mosquitto ended: {self._log.read_text(errors='replace')[-2000:]}")
            try:
                with socket.create_connection((self.host, self.port), timeout=0.2):
                    return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("mosquitto does not accept connections")

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._end(by_kill=True)

    def stop(self) -> None:
        """End it in an orderly way, so that it saves everything first."""
        self._end(by_kill=False)

    def _end(self, *, by_kill: bool) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                if by_kill:
                    self._process.kill()
                else:
                    self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None


@contextmanager
def running_mosquitto(extra: str = "") -> Iterator[Mosquitto]:
    """Start a broker in a folder of its own; `{port}` in `extra` is replaced by its port."""
    with tempfile.TemporaryDirectory(prefix="mosquitto-") as folder:
        broker = Mosquitto(Path(folder), extra)
        try:
            yield broker
        finally:
            broker.kill()
