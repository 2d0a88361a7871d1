"""A throw-away PostgreSQL on a Unix socket, for tests that need one.

with running_postgresql() as url:
    open_engine(url)
"""

from __future__ import annotations

import importlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _binaries() -> Path | None:
    """Debian keeps them outside the path, one folder a major version; the newest is taken."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    return folders[-1].parent if folders else None


def _account() -> str | None:
    """The server refuses to run as root; its package brings an account of its own."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("running as root, and there is no postgres account")


class PostgreSQL:
    """A server in a folder of its own, which can be killed and started again."""

    def __init__(self, *, durable: bool = False) -> None:
        pytest.importorskip("psycopg", reason="psycopg is not installed")
        binaries = _binaries()
        if binaries is None:
            pytest.skip("PostgreSQL is not installed")
        self._binaries = binaries
        self._account = _account()
        self._durable = durable
        self._server: subprocess.Popen[bytes] | None = None
        # Short, as a Unix socket path has 107 bytes; not one of pytest folders, which others may not enter.
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        try:
            if self._account is not None:
                shutil.chown(self._folder, self._account)
            subprocess.run(
                [
                    *(binaries / "initdb", "-D", self._folder / "data", "-U", "driftpost", "-A", "trust"),
                    *("-E", "UTF8", "--no-sync"),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
                user=self._account,
                cwd=self._folder,
            )
            self.start()
        except BaseException:
            self.remove()
            raise

    @property
    def url(self) -> str:
        """For SQLAlchemy, of an empty database."""
        return f"postgresql+psycopg://driftpost@/postgres?host={self._folder}"

    def start(self) -> None:
        """Start it, again if need be, and wait until it answers."""
        options = {"listen_addresses": "", "fsync": "on" if self._durable else "off"}
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    *(self._binaries / "postgres", "-D", self._folder / "data", "-k", self._folder),
                    *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
                ],
                stdout=log,
                stderr=log,
                user=self._account,
                cwd=self._folder,
            )
        _await(self._folder, self._server)

    def crash(self) -> None:
        """End it at once, without a checkpoint: the next start has to recover."""
        self._end(signal.SIGQUIT)

    def _end(self, number: signal.Signals) -> None:
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait(30)
            self._server = None

    def remove(self) -> None:
        """End it and remove its folder."""
        # SIGINT ends connections; SIGTERM would wait for them.
        self._end(signal.SIGINT)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def running_postgresql(*, durable: bool = False) -> Iterator[str]:
    """SQLAlchemy URL of an empty database; the server ends with the block.

    Args:
        durable: whether a commit waits for the disk, as it must outside of tests.
    """
    server = PostgreSQL(durable=durable)
    try:
        yield server.url
    finally:
        server.remove()


def _await(folder: Path, server: subprocess.Popen[bytes]) -> None:
    psycopg = importlib.import_module("psycopg")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"postgres ended: {(folder / 'log').read_text(errors='replace')[-2000:]}")
        try:
            psycopg.connect(host=str(folder), user="driftpost", dbname="postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("postgres does not answer")
