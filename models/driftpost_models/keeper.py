"""Starting a model's process, ending it, and never leaving a zombie."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

LOG_BYTES = 4096
"""Bytes of the child's standard error that are kept for its last words."""

STOP_S = 1.0
"""Seconds that a child gets to end by itself."""


class Child:
    """One started process with our end of its socket."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket, started: float) -> None:
        self.process = process
        self.sock = sock
        self.started = started
        self.ended = threading.Event()
        self._log = b""
        self._lock = threading.Lock()
        stderr = process.stderr
        assert stderr is not None
        os.set_blocking(stderr.fileno(), False)
        self._stderr = stderr

    def drain(self) -> None:
        """Read what the child wrote to its standard error, keeping the last of it."""
        with self._lock:
            self._drain()

    def _drain(self) -> None:
        if self._stderr.closed:
            return
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._stderr.fileno(), 1 << 16):
                self._log = (self._log + chunk)[-LOG_BYTES:]

    @property
    def log(self) -> str:
        """The last of what the child wrote to its standard error."""
        return self._log.decode(errors="replace")

    def kill(self) -> None:
        """End the process and wait for the keeper to have collected it; a second call does nothing."""
        # Whoever closes and whoever was waiting for an answer come here at the same time.
        with self._lock:
            self.sock.close()
            if not self.ended.wait(0):
                self.process.kill()
                self.ended.wait(STOP_S)
            self._drain()
            self._stderr.close()

    def stop(self) -> None:
        """Let the process end by itself, then end it."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.ended.wait(STOP_S)
        self.kill()


class Keeper:
    """The one thread that starts children and collects them.

    Linux sends the parent-death signal when the *thread* that started the child ends. A request handler's
    thread would take the model with it; this one lives as long as the runtime.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[queue.SimpleQueue[Child | OSError] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="driftpost-model-keeper", daemon=True)
        self._current: Child | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._thread.start()

    def start(self) -> Child:
        """Start a process; raises OSError where the system has none left, and after `close`."""
        answer: queue.SimpleQueue[Child | OSError] = queue.SimpleQueue()
        with self._lock:
            # Behind the end of the thread nobody would answer.
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "closed")
            self._requests.put(answer)
        child = answer.get()
        if isinstance(child, OSError):
            raise child
        return child

    def close(self) -> None:
        """End the child and the thread."""
        with self._lock:
            self._closed = True
        child = self._current
        if child is not None:
            child.stop()
        self._requests.put(None)
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while (answer := self._requests.get()) is not None:
            try:
                child = spawn()
            except OSError as error:
                answer.put(error)
                continue
            self._current = child
            if self._closed:
                # Started while `close` was under way, which may not have seen it.
                child.process.kill()
            answer.put(child)
            child.process.wait()
            child.ended.set()


def spawn() -> Child:
    """Start `python -m driftpost_models.isolated` with a socket to us."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "driftpost_models.isolated", str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",  # `-m` puts the working directory first on the path; nothing there may shadow us
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(str(Path(p).resolve()) for p in sys.path if p),
                },
            )
        except OSError:
            ours.close()
            raise
    return Child(process, ours, time.monotonic())
