"""Child processes of the demo: each has a name and a log, and every one is ended before the demo ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType

STOP_SECONDS = 15.0  # an agent closes its last window and hands it over before it goes
TAIL_LINES = 25
POLL_SECONDS = 0.02


class ChildFailed(Exception):
    """A child process ended by itself, or did not get ready.

    Attributes:
        name: Which one.
        problem: What happened to it.
        tail: The last lines of its log.
    """

    def __init__(self, name: str, problem: str, tail: str) -> None:
        super().__init__(f"{name} {problem}")
        self.name = name
        self.problem = problem
        self.tail = tail


class Interrupted(Exception):
    """Someone asked the demo to end."""


class Child:
    """One process, in a session of its own: Ctrl-C reaches the demo alone, which then ends it in order.

    Args:
        name: Names it in messages, and its log file.
        command: Program and arguments.
        logs: Folder for the log.
    """

    def __init__(self, name: str, command: Sequence[str], logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id, which is also its group's."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None and self._exit_status() is None

    def _exit_status(self) -> int | None:
        """How it ended, without reaping it: while it is a zombie, its group's id is nobody else's."""
        result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return None if result is None else result.si_status

    @property
    def ended_badly(self) -> str:
        """What is wrong with how it ended; empty if it left with status 0."""
        result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is None:
            return "did not stop when asked"
        if result.si_code != os.CLD_EXITED:
            return f"was ended by signal {result.si_status}"
        return f"ended with status {result.si_status}" if result.si_status else ""

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join(text[-lines:])

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            ChildFailed: It has ended.
        """
        if not self.running:
            raise ChildFailed(self.name, f"ended with status {self._exit_status()}", self.tail())

    def ask_to_stop(self) -> None:
        """Send SIGTERM, the polite request; harmless if it has ended."""
        if self.running:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether it came in time."""
        deadline = time.monotonic() + seconds
        while self.running:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def end(self) -> None:
        """End what is left of it and of its own children (an agent's model process)."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


class Processes:
    """All children of the demo."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all that still run."""
        self.stop(self._children)

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a process and own it."""
        child = Child(name, command, self._logs)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Make sure that all that were started and not stopped still run.

        Raises:
            ChildFailed: One has ended.
        """
        for child in self._children:
            child.check()

    def stop(self, children: Sequence[Child]) -> list[str]:
        """Ask these to stop, together, and end those that do not; returns what went wrong with which."""
        for child in children:
            child.ask_to_stop()
        for child in children:
            child.wait(STOP_SECONDS)
        problems = [f"{child.name} {child.ended_badly}" for child in children if child.ended_badly]
        for child in children:
            child.end()
        self._children = [child for child in self._children if child not in children]
        return problems

    def wait_until(
        self, child: Child, ready: Callable[[], bool], seconds: float, pause: Callable[[float], bool]
    ) -> None:
        """Wait until a child is ready.

        Args:
            child: The process that is getting ready.
            ready: Asks it.
            seconds: How long that may take.
            pause: Sleeps; returns True, and early, when the demo is to end.

        Raises:
            ChildFailed: It ended, or was not ready in time.
            Interrupted: The demo is to end.
        """
        step = 0.1
        for _ in range(int(seconds / step)):
            child.check()
            if ready():
                return
            if pause(step):
                raise Interrupted
        raise ChildFailed(child.name, f"was not ready within {seconds:.0f} seconds", child.tail())


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody uses now, all different."""
    with_sockets = [socket.socket() for _ in range(count)]
    try:
        for one in with_sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in with_sockets]
    finally:
        for one in with_sockets:
            one.close()


def listening(port: int) -> bool:
    """Whether something accepts connections on that loopback port."""
    with closing(socket.socket()) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
