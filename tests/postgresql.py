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


@contextmanager
def running_postgresql(*, durable: bool = False) -> Iterator[str]:
    """SQLAlchemy URL of an empty database; the server ends with the block.

    Args:
        durable: whether a commit waits for the disk, as it must outside of tests.
    """
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    account = _account()
    # Short, as a Unix socket path has 107 bytes; not one of pytest folders, which others may not enter.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if account is not None:
            shutil.chown(folder, account)
        data = folder / "data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "driftpost", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=account,
            cwd=folder,
        )
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [
                    binaries / "postgres",
                    "-D",
                    data,
                    "-k",
                    folder,
                    "-c",
                    "listen_addresses=",
                    "-c",
                    f"fsync={'on' if durable else 'off'}",
                ],
                stdout=log,
                stderr=log,
                user=account,
                cwd=folder,
            )
        try:
            _await(folder, server)
            yield f"postgresql+psycopg://driftpost@/postgres?host={folder}"
        finally:
            # SIGINT ends connections; SIGTERM would wait for them.
            server.send_signal(signal.SIGINT)
            server.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
