"""Windows a second through broker, workers and database, with everything's processor time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet.pump import FLEET
from sqlalchemy import Engine, func, select, text

from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import migrate, open_engine, reading
from mosquitto import Mosquitto, running_mosquitto
from postgresql import running_postgresql

_TICKS = os.sysconf("SC_CLK_TCK")
# As in deploy/mosquitto, but for room: nothing is dropped that would have to be sent again. The tests' broker
# saves every second; this one as often as Mosquitto does by itself.
_BROKER = "max_inflight_messages 1024\nmax_queued_messages 200000\nautosave_interval 1800\n"


@dataclass(frozen=True)
class Run:
    """What one run showed.

    Attributes:
        database: sqlite or postgresql.
        workers, devices, windows: of the run.
        seconds: from the first message to the last acknowledgement.
        cpu: processor seconds by part: workers, broker, database, pump.
        memory_mb: resident memory of the largest worker at the end.
        bytes_per_window: database growth.
    """

    database: str
    workers: int
    devices: int
    windows: int
    seconds: float
    cpu: dict[str, float]
    memory_mb: float
    bytes_per_window: float

    @property
    def rate(self) -> float:
        """Windows a second, by the wall clock, with the pump on the same cores."""
        return self.windows / self.seconds

    @property
    def cpu_us(self) -> float:
        """Processor time of a window, everything but the pump, microseconds."""
        return 1e6 * sum(used for part, used in self.cpu.items() if part != "pump") / self.windows


@contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'bench.db'}"
    else:
        with running_postgresql(durable=True) as url:
            yield url


def _cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    # Its own time and that of children it has waited for.
    return sum(int(fields[index]) for index in (11, 12, 13, 14)) / _TICKS


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(one) for one in path.read_text(encoding="ascii").split()]


def _memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def _server_pid(engine: Engine) -> int | None:
    if engine.dialect.name != "postgresql":
        return None
    with reading(engine) as connection:
        folder = connection.execute(text("SHOW data_directory")).scalar_one()
    return int(Path(folder, "postmaster.pid").read_text(encoding="ascii").splitlines()[0])


def _tidy(engine: Engine) -> None:
    """What PostgreSQL does by itself some time after so many births, before the clock starts."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (ANALYZE)"))


def _size(engine: Engine) -> int:
    if engine.dialect.name == "sqlite":
        path = Path(str(engine.url.database))
        return sum(one.stat().st_size for one in (path, Path(f"{path}-wal")) if one.exists())
    with reading(engine) as connection:
        return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())


def _settings(folder: Path, url: str, broker: Mosquitto) -> Path:
    path = folder / "aggregator.toml"
    path.write_text(
        f'[fleet]\nname = "{FLEET}"\n[database]\nurl = "{url}"\n[mqtt]\nhost = "{broker.host}"\n'
        f'port = {broker.port}\nshare_group = "bench"\n[ingest]\nbatch_messages = 500\n',
        encoding="utf-8",
    )
    return path


def measure(database: str, *, workers: int, devices: int, windows: int) -> Run:
    """Play so many windows of so many devices."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-fleet-")))
        broker = stack.enter_context(running_mosquitto(_BROKER))
        url = stack.enter_context(_database(database, folder))
        engine = open_engine(url)
        stack.callback(engine.dispose)
        migrate(engine)
        config = _settings(folder, url, broker)
        running = [
            stack.enter_context(_process("-m", "benchmarks.fleet.work", str(config))) for _ in range(workers)
        ]
        pump = stack.enter_context(
            _process(
                "-m",
                "benchmarks.fleet.pump",
                f"--port={broker.port}",
                f"--devices={devices}",
                f"--windows={windows}",
            )
        )
        _expect(pump, "made")
        for one in running:
            _expect(one, "ready")
        server = _server_pid(engine)
        _tell(pump)
        _expect(pump, "warm")
        _tidy(engine)
        size = _size(engine)
        before = _used(running, broker, server, pump)
        _tell(pump)
        assert pump.stdout is not None
        said = json.loads(pump.stdout.readline())
        after = _used(running, broker, server, pump)
        memory = max(_memory_mb(one.pid) for one in running)
        grown = _size(engine) - size
        with reading(engine) as connection:
            stored = connection.execute(
                select(func.coalesce(func.sum(tables.devices.c.windows), 0))
            ).scalar_one()
            merged = connection.execute(
                select(func.sum(tables.rollups.c.rows)).where(tables.rollups.c.scope == "fleet")
            ).scalar_one()
        if (stored, merged) != (said["books"]["windows"], said["books"]["rows"]):
            raise RuntimeError(f"{stored} windows of {merged} rows are not {said['books']}")
        return Run(
            database,
            workers,
            devices,
            windows,
            said["seconds"],
            {part: after[part] - before[part] for part in after},
            memory,
            grown / windows,
        )


def _used(
    running: list[subprocess.Popen[str]], broker: Mosquitto, server: int | None, pump: subprocess.Popen[str]
) -> dict[str, float]:
    return {
        "workers": sum(_cpu_of(one.pid) for one in running),
        "broker": _cpu_of(broker.pid),
        "database": 0.0
        if server is None
        else _cpu_of(server) + sum(_cpu_of(child) for child in _children(server)),
        "pump": _cpu_of(pump.pid),
    }


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _expect(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    if said != word:
        raise RuntimeError(f"{process.args!r} said {said!r}, not {word!r}")


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    time.sleep(0.0)
