"""A model in a process of its own: what corrupts its heap, aborts or hangs does so there.

Parent and child speak over a socket pair in frames: two lengths, a msgpack header, then raw tensors, each
padded to `_ALIGN` bytes. The model's bytes travel the same way, so the child needs no file. Everything that
comes from the child is checked as if from a stranger: a model that writes where it should not may have
written over the reply.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import msgpack
import numpy as np

from driftpost_models.errors import (
    InferenceFailed,
    InputMismatch,
    ModelRefused,
    RuntimeBackingOff,
    RuntimeCrashed,
)
from driftpost_models.runtime import Array, Runtime, TensorSpec, check_inputs, load_model, read_model

_LENGTHS = struct.Struct("<IQ")
_ALIGN = 16
"""Bytes. Runtimes read tensors with vector instructions; views into the frame keep to them."""

_MAX_HEADER = 1 << 20
"""Bytes. A thousand tensors with long names fit in a tenth of it."""

_MAX_PAYLOAD = 1 << 30
"""Bytes. Twice the largest model; a reply beyond it is garbage."""

_SMALL = 1 << 16
"""Bytes up to which one joined send beats several."""

_KEPT_HEADERS = 64
"""Distinct shapes whose headers are kept ready."""

_LOG_BYTES = 4096
"""Bytes of the child's standard error that are kept for its last words."""

_DRAIN_EVERY = 256
"""Calls between looks into the child's standard error, so that its pipe (64 kB) never fills."""

_STOP_S = 1.0
"""Seconds that a child gets to end by itself."""

STABLE_S = 60.0
"""Seconds without a crash after which the back-off begins anew."""

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 60.0
"""Seconds of back-off: none after the first crash, then 0.5 doubling to a minute."""

_PR_SET_PDEATHSIG = 1


class _Closed(Exception):
    """The other end is gone."""


class _Unreadable(Exception):
    """The frame makes no sense."""


def _receive(sock: socket.socket, size: int, deadline: float | None) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        if deadline is not None:
            sock.settimeout(max(deadline - time.monotonic(), 1e-4))
        got = sock.recv_into(view)
        if got == 0:
            raise _Closed
        view = view[got:]
    return buffer


def _receive_frame(sock: socket.socket, deadline: float | None) -> tuple[bytes, bytearray]:
    header_size, payload_size = _LENGTHS.unpack(_receive(sock, _LENGTHS.size, deadline))
    if header_size > _MAX_HEADER or payload_size > _MAX_PAYLOAD:
        raise _Unreadable(f"lengths {header_size} and {payload_size}")
    if payload_size > _SMALL:
        return bytes(_receive(sock, header_size, deadline)), _receive(sock, payload_size, deadline)
    # One read for both; what is then moved to the front, so that tensors are aligned, is small.
    body = _receive(sock, header_size + payload_size, deadline)
    header = bytes(body[:header_size])
    del body[:header_size]
    return header, body


def _send_frame(
    sock: socket.socket, header: bytes, parts: Sequence[memoryview | bytes], deadline: float | None
) -> None:
    size = sum(len(part) for part in parts)
    head = _LENGTHS.pack(len(header), size) + header
    if deadline is not None:
        sock.settimeout(max(deadline - time.monotonic(), 1e-4))
    if size <= _SMALL:
        sock.sendall(b"".join((head, *parts)))
        return
    sock.sendall(head)
    for part in parts:
        if deadline is not None:
            sock.settimeout(max(deadline - time.monotonic(), 1e-4))
        sock.sendall(part)


def _raw(tensors: Sequence[Array]) -> list[memoryview | bytes]:
    parts: list[memoryview | bytes] = []
    for tensor in tensors:
        raw = np.ascontiguousarray(tensor).tobytes() if tensor.nbytes <= _SMALL else _flat(tensor)
        parts.append(raw)
        if len(raw) % _ALIGN:
            parts.append(bytes(-len(raw) % _ALIGN))
    return parts


def _flat(tensor: Array) -> memoryview:
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


_Layout = tuple[tuple[str, "np.dtype[np.generic]", tuple[int, ...]], ...]


def _pack_layout(names: Sequence[str], tensors: Sequence[Array]) -> list[object]:
    return [[name, t.dtype.str, list(t.shape)] for name, t in zip(names, tensors, strict=True)]


def _parse_layout(plain: object) -> _Layout:
    layout = []
    try:
        for name, dtype, shape in cast("list[tuple[str, str, list[int]]]", plain):
            parsed = np.dtype(dtype)
            if (
                not isinstance(name, str)
                or parsed.kind not in "biuf"
                or any(type(d) is not int or d < 0 for d in shape)
            ):
                raise _Unreadable(f"tensor {name!r}")
            layout.append((name, parsed, tuple(shape)))
    except (TypeError, ValueError) as error:
        raise _Unreadable("tensor layout") from error
    return tuple(layout)


def _views(layout: _Layout, payload: bytearray) -> dict[str, Array]:
    at = 0
    tensors: dict[str, Array] = {}
    for name, dtype, shape in layout:
        count = 1
        for d in shape:
            count *= d
        size = count * dtype.itemsize
        if size > len(payload) - at:
            raise _Unreadable("tensors longer than the frame")
        tensors[name] = np.frombuffer(payload, dtype, count, at).reshape(shape)
        at += size + (-size % _ALIGN)
    return tensors


def _unpack(header: bytes) -> dict[str, object]:
    try:
        plain = msgpack.unpackb(header, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise _Unreadable("header") from error
    if not isinstance(plain, dict):
        raise _Unreadable("header")
    return plain


class _Child:
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
                self._log = (self._log + chunk)[-_LOG_BYTES:]

    @property
    def log(self) -> str:
        return self._log.decode(errors="replace")

    def kill(self) -> None:
        """End the process and wait for the keeper to have collected it; a second call does nothing."""
        # Whoever closes and whoever was waiting for an answer come here at the same time.
        with self._lock:
            self.sock.close()
            if not self.ended.wait(0):
                self.process.kill()
                self.ended.wait(_STOP_S)
            self._drain()
            self._stderr.close()

    def stop(self) -> None:
        """Let the process end by itself, then end it."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.ended.wait(_STOP_S)
        self.kill()


class _Keeper:
    """The one thread that starts children and collects them.

    Linux sends the parent-death signal when the *thread* that started the child ends. A request handler's
    thread would take the model with it; this one lives as long as the runtime.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[queue.SimpleQueue[_Child | OSError] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="driftpost-model-keeper", daemon=True)
        self._current: _Child | None = None
        self._thread.start()

    def start(self) -> _Child:
        """Start a process; raises OSError where the system has none left."""
        answer: queue.SimpleQueue[_Child | OSError] = queue.SimpleQueue()
        self._requests.put(answer)
        child = answer.get()
        if isinstance(child, OSError):
            raise child
        return child

    def close(self) -> None:
        """End the child and the thread."""
        child = self._current
        if child is not None:
            child.stop()
        self._requests.put(None)
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        while (answer := self._requests.get()) is not None:
            try:
                child = _spawn()
            except OSError as error:
                answer.put(error)
                continue
            self._current = child
            answer.put(child)
            child.process.wait()
            child.ended.set()


def _spawn() -> _Child:
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
    return _Child(process, ours, time.monotonic())


class IsolatedRuntime:
    """A `Runtime` whose model lives in a child process. Safe to call from several threads; calls take turns.

    A streaming model's internal state is lost when the child is restarted.

    Args:
        source: path of the model, or its bytes.
        kind: `onnx` or `tflite`; told from the content when None.
        threads: threads that one call may use in the child.
        deadline_s: seconds that one call may take before the child counts as hung.
        start_deadline_s: seconds that starting Python and loading the model may take.
        clock: seconds, monotonic; counts the back-off.

    Raises:
        ModelRefused: the model can not be loaded, or it ends its process while it is loaded.
    """

    def __init__(
        self,
        source: Path | bytes,
        *,
        kind: str | None = None,
        threads: int = 1,
        deadline_s: float = 10.0,
        start_deadline_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not deadline_s > 0 or not start_deadline_s > 0:
            raise ValueError("deadlines must be above 0 seconds")
        self._content = read_model(source)
        self._load_header = msgpack.packb({"op": "load", "kind": kind, "threads": threads})
        self._deadline_s = deadline_s
        self._start_deadline_s = start_deadline_s
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._child: _Child | None = None
        self._crashes_in_a_row = 0
        self._not_before = 0.0
        self._started_at = 0.0
        self._calls = 0
        self._headers: dict[tuple[tuple[int, ...], ...], bytes] = {}
        self._layouts: dict[bytes, _Layout] = {}
        self.restarts = 0
        self.last_crash: RuntimeCrashed | None = None
        self._keeper = _Keeper()
        self._finalizer = weakref.finalize(self, self._keeper.close)
        try:
            with self._lock:
                facts = self._start()
            self.kind = str(facts["kind"])
            self.version = str(facts["version"])
            self.provider = str(facts["provider"])
            self.inputs = _specs(facts["inputs"])
            self.outputs = _specs(facts["outputs"])
        except RuntimeCrashed as crash:
            self.close()
            raise ModelRefused(
                f"The model ends its process while it is loaded: {crash}.",
                "It is damaged or meets a defect of the runtime: convert it again, or update the runtime.",
            ) from crash
        except (ModelRefused, _Unreadable, KeyError, ValueError):
            self.close()
            raise
        self._names = [spec.name for spec in self.inputs]

    @property
    def alive(self) -> bool:
        """Whether the child runs now."""
        child = self._child
        return child is not None and not child.ended.is_set()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        child = self._child
        return child.process.pid if child is not None and not child.ended.is_set() else None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call of the model, starting it again first where it crashed before.

        Raises:
            InputMismatch: a tensor is missing, unknown or does not fit.
            InferenceFailed: the runtime reported an error, or this was closed.
            RuntimeBackingOff: the child crashed and its time has not come yet.
            RuntimeCrashed: the child ended or hung in this call.
        """
        check_inputs(self.inputs, inputs)
        tensors = [inputs[name] for name in self._names]
        with self._lock:
            child = self._ready()
            deadline = time.monotonic() + self._deadline_s
            try:
                _send_frame(child.sock, self._header(tensors), _raw(tensors), deadline)
                header, payload = _receive_frame(child.sock, deadline)
                layout = self._layouts.get(header)
                if layout is None:
                    layout = self._read_reply(header)
                outputs = _views(layout, payload)
            except (TimeoutError, _Closed, _Unreadable, OSError) as error:
                raise self._crashed(error, f"{self._deadline_s:g} s") from error
            self._calls += 1
            if self._calls % _DRAIN_EVERY == 0:
                child.drain()
            return outputs

    def close(self) -> None:
        """End the child and its keeper; a second call does nothing."""
        self._closed = True
        self._finalizer()

    def _header(self, tensors: Sequence[Array]) -> bytes:
        shapes = tuple([t.shape for t in tensors])
        header = self._headers.get(shapes)
        if header is None:
            header = cast("bytes", msgpack.packb({"op": "run", "t": _pack_layout(self._names, tensors)}))
            if len(self._headers) < _KEPT_HEADERS:
                self._headers[shapes] = header
        return header

    def _read_reply(self, header: bytes) -> _Layout:
        plain = _unpack(header)
        if "failed" in plain:
            raise InferenceFailed(str(plain["failed"]))
        layout = _parse_layout(plain.get("t"))
        if [(name, dtype) for name, dtype, _ in layout] != [(s.name, s.dtype) for s in self.outputs]:
            raise _Unreadable("other outputs than the model has")
        if len(self._layouts) < _KEPT_HEADERS:
            self._layouts[header] = layout
        return layout

    def _ready(self) -> _Child:
        """The running child, started again if its time has come."""
        if self._closed:
            raise InferenceFailed("the model was closed")
        child = self._child
        if child is not None and child.ended.is_set():
            self._crashed(_Closed(), "")
            child = None
        if child is None:
            wait = self._not_before - self._clock()
            if wait > 0:
                raise RuntimeBackingOff(wait)
            self.restarts += 1
            try:
                self._start()
            except ModelRefused as error:
                raise InferenceFailed(f"the model does not load again: {error}") from error
            child = self._child
            assert child is not None
        return child

    def _start(self) -> dict[str, object]:
        self._layouts.clear()
        self._started_at = self._clock()
        try:
            self._child = child = self._keeper.start()
        except OSError as error:
            raise RuntimeCrashed("exit", f"no new process could be started: {error.strerror}") from error
        deadline = time.monotonic() + self._start_deadline_s
        try:
            _send_frame(child.sock, self._load_header, [self._content], deadline)
            facts = _unpack(_receive_frame(child.sock, deadline)[0])
        except (TimeoutError, _Closed, _Unreadable, OSError) as error:
            raise self._crashed(error, f"{self._start_deadline_s:g} s of loading") from error
        refused = facts.get("refused")
        if refused is not None:
            child.kill()
            self._child = None
            reason, remedy = cast("list[str]", refused)
            raise ModelRefused(str(reason), str(remedy))
        return facts

    def _crashed(self, error: Exception, deadline: str) -> RuntimeCrashed:
        """Account for a child that is lost, and say how."""
        child = self._child
        assert child is not None
        if self._closed:
            child.kill()
            return RuntimeCrashed("exit", "closed")
        if isinstance(error, (_Closed, OSError)) and not isinstance(error, TimeoutError):
            # The socket closes a moment before the process has ended and its status is known.
            child.ended.wait(_STOP_S)
        by_itself = child.ended.is_set()
        child.kill()
        self._child = None
        status = child.process.returncode
        if isinstance(error, TimeoutError):
            crash = RuntimeCrashed("deadline", deadline, child.log)
        elif isinstance(error, _Unreadable) or not by_itself:
            crash = RuntimeCrashed("protocol", str(error), child.log)
        elif status is not None and status < 0:
            crash = RuntimeCrashed("signal", _signal_name(-status), child.log)
        else:
            crash = RuntimeCrashed("exit", str(status), child.log)
        now = self._clock()
        self._crashes_in_a_row = 1 if now - self._started_at > STABLE_S else self._crashes_in_a_row + 1
        self._not_before = now + _delay(self._crashes_in_a_row)
        self.last_crash = crash
        return crash


def _delay(crashes_in_a_row: int) -> float:
    """Seconds before the next start."""
    if crashes_in_a_row <= 1:
        return 0.0
    return float(min(FIRST_DELAY_S * 2.0 ** min(crashes_in_a_row - 2, 16), LONGEST_DELAY_S))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _specs(plain: object) -> tuple[TensorSpec, ...]:
    if not isinstance(plain, list):
        raise _Unreadable("signature")
    return tuple(TensorSpec.from_dict(item) for item in plain)


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process when the keeper's thread ends."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux the closed socket must do
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    # If memory runs out, the model goes before the agent does: the agent can start it again.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _serve(sock: socket.socket) -> None:
    runtime: Runtime | None = None
    layouts: dict[bytes, _Layout] = {}
    while True:
        header, payload = _receive_frame(sock, None)
        layout = layouts.get(header)
        if layout is None:
            order = _unpack(header)
            if order.get("op") == "load":
                kind, threads = order.get("kind"), order.get("threads")
                try:
                    runtime = load_model(
                        bytes(payload),
                        kind=kind if isinstance(kind, str) else None,
                        threads=threads if isinstance(threads, int) else 1,
                    )
                except ModelRefused as refused:
                    _send_frame(sock, msgpack.packb({"refused": [refused.reason, refused.remedy]}), [], None)
                    continue
                facts = {
                    "kind": runtime.kind,
                    "version": runtime.version,
                    "provider": runtime.provider,
                    "inputs": [spec.to_dict() for spec in runtime.inputs],
                    "outputs": [spec.to_dict() for spec in runtime.outputs],
                }
                _send_frame(sock, msgpack.packb(facts), [], None)
                continue
            layout = _parse_layout(order.get("t"))
            if len(layouts) < _KEPT_HEADERS:
                layouts[header] = layout
        assert runtime is not None
        try:
            outputs = runtime.run(_views(layout, payload))
        except (InferenceFailed, InputMismatch, MemoryError) as error:
            _send_frame(sock, msgpack.packb({"failed": str(error) or "out of memory"}), [], None)
            continue
        names = [spec.name for spec in runtime.outputs]
        tensors = [np.asarray(outputs[name]) for name in names]
        _send_frame(sock, msgpack.packb({"t": _pack_layout(names, tensors)}), _raw(tensors), None)


def main(arguments: Sequence[str]) -> None:
    """The child: serve one model over the socket whose number is given, until the other end is gone."""
    # Ctrl-C and a service manager's stop reach the whole group; the parent decides when the model ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with(int(arguments[1]))
    with socket.socket(fileno=int(arguments[0])) as sock, contextlib.suppress(_Closed, ConnectionError):
        _serve(sock)
    # Past this point only destructors of a possibly corrupted heap would run.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
