"""A model in a process of its own: what corrupts its heap, aborts or hangs does so there.

The model's bytes travel over the same socket as its tensors, so the child needs no file.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
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
from driftpost_models.frames import (
    Closed,
    Layout,
    Unreadable,
    pack_layout,
    parse_layout,
    raw_parts,
    receive_frame,
    send_frame,
    unpack_header,
    views,
)
from driftpost_models.giving_back import give_back
from driftpost_models.keeper import STOP_S, Child, Keeper
from driftpost_models.providers import PREFERRED
from driftpost_models.runtime import Array, Runtime, TensorSpec, check_inputs, load_model, read_model

_KEPT_HEADERS = 64
"""Distinct shapes whose headers are kept ready."""

_DRAIN_EVERY = 256
"""Calls between looks into the child's standard error, so that its pipe (64 kB) never fills."""

STABLE_S = 60.0
"""Seconds without a crash after which the back-off begins anew."""

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 60.0
"""Seconds of back-off: none after the first crash, then 0.5 doubling to a minute."""

_PR_SET_PDEATHSIG = 1


class IsolatedRuntime:
    """A `Runtime` whose model lives in a child process. Safe to call from several threads; calls take turns.

    A streaming model's internal state is lost when the child is restarted.

    Args:
        source: path of the model, or its bytes.
        kind: `onnx` or `tflite`; told from the content when None.
        threads: threads that one call may use in the child.
        providers: what may compute an ONNX model, the preferred first.
        cpus: numbers of the CPUs that the child may run on; empty leaves it to the kernel.
        cache: folder for engines that an accelerator compiles.
        deadline_s: seconds that one call may take before the child counts as hung.
        start_deadline_s: seconds that starting Python and loading the model may take.
        clock: seconds, monotonic; counts the back-off.
        announce: called with this before the model is loaded: another thread may `close` it meanwhile.

    Raises:
        ModelRefused: the model can not be loaded, or it ends its process while it is loaded.
    """

    def __init__(
        self,
        source: Path | bytes,
        *,
        kind: str | None = None,
        threads: int = 1,
        providers: Sequence[str] = PREFERRED,
        cpus: Sequence[int] = (),
        cache: Path | None = None,
        deadline_s: float = 10.0,
        start_deadline_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        announce: Callable[[IsolatedRuntime], None] = lambda _: None,
    ) -> None:
        if not deadline_s > 0 or not start_deadline_s > 0:
            raise ValueError("deadlines must be above 0 seconds")
        self._content = read_model(source)
        self._load_header = msgpack.packb(
            {
                "op": "load",
                "kind": kind,
                "threads": threads,
                "providers": list(providers),
                "cpus": list(cpus),
                "cache": None if cache is None else str(cache),
            }
        )
        self._deadline_s = deadline_s
        self._start_deadline_s = start_deadline_s
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._child: Child | None = None
        self._crashes_in_a_row = 0
        self._not_before = 0.0
        self._started_at = 0.0
        self._calls = 0
        self._headers: dict[tuple[tuple[int, ...], ...], bytes] = {}
        self._layouts: dict[bytes, Layout] = {}
        self.restarts = 0
        self.last_crash: RuntimeCrashed | None = None
        self._keeper = Keeper()
        self._finalizer = weakref.finalize(self, self._keeper.close)
        announce(self)
        try:
            with self._lock:
                facts = self._start()
            self.kind = str(facts["kind"])
            self.version = str(facts["version"])
            self._computes(facts)
            self.inputs = _specs(facts["inputs"])
            self.outputs = _specs(facts["outputs"])
        except RuntimeCrashed as crash:
            self.close()
            raise ModelRefused(
                f"The model ends its process while it is loaded: {crash}.",
                "It is damaged or meets a defect of the runtime: convert it again, or update the runtime.",
            ) from crash
        except (Unreadable, KeyError, ValueError) as error:
            self.close()
            raise ModelRefused(
                f"The model's process describes it in a way that makes no sense ({error!r}).",
                "Loading it has probably damaged the process: convert it again, or update the runtime.",
            ) from error
        except ModelRefused:
            self.close()
            raise
        self._names = [spec.name for spec in self.inputs]

    def _computes(self, facts: Mapping[str, object]) -> None:
        self.provider = str(facts["provider"])
        self.declined = str(facts.get("declined", ""))

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
                send_frame(child.sock, self._header(tensors), raw_parts(tensors), deadline)
                header, payload = receive_frame(child.sock, deadline)
                layout = self._layouts.get(header)
                if layout is None:
                    layout = self._read_reply(header)
                outputs = views(layout, payload)
            except (TimeoutError, Closed, Unreadable, OSError) as error:
                crash = self._crashed(error, f"{self._deadline_s:g} s")
                if self._closed:
                    raise InferenceFailed("the model was closed") from error
                raise crash from error
            self._calls += 1
            if self._calls % _DRAIN_EVERY == 0:
                child.drain()
            return outputs

    def end_child(self, why: str) -> None:
        """End the child because of what it takes or does; the next call starts it again, with back-off.

        Args:
            why: what `last_crash` says of it.
        """
        # Not while a call is under way, which would find its child gone.
        with self._lock:
            child = self._child
            if child is not None and not self._closed:
                child.kill()
                self._child = None
                self._lost(RuntimeCrashed("ended", why, child.log))

    def close(self) -> None:
        """End the child and its keeper; a second call does nothing."""
        self._closed = True
        self._finalizer()

    def _header(self, tensors: Sequence[Array]) -> bytes:
        shapes = tuple([t.shape for t in tensors])
        header = self._headers.get(shapes)
        if header is None:
            header = cast("bytes", msgpack.packb({"op": "run", "t": pack_layout(self._names, tensors)}))
            if len(self._headers) < _KEPT_HEADERS:
                self._headers[shapes] = header
        return header

    def _read_reply(self, header: bytes) -> Layout:
        plain = unpack_header(header)
        if "failed" in plain:
            raise InferenceFailed(str(plain["failed"]))
        layout = parse_layout(plain.get("t"))
        if [(name, dtype) for name, dtype, _ in layout] != [(s.name, s.dtype) for s in self.outputs]:
            raise Unreadable("other outputs than the model has")
        if len(self._layouts) < _KEPT_HEADERS:
            self._layouts[header] = layout
        return layout

    def _ready(self) -> Child:
        """The running child, started again if its time has come."""
        if self._closed:
            raise InferenceFailed("the model was closed")
        child = self._child
        if child is not None and child.ended.is_set():
            self._crashed(Closed(), "")
            child = None
        if child is None:
            wait = self._not_before - self._clock()
            if wait > 0:
                raise RuntimeBackingOff(wait)
            self.restarts += 1
            try:
                # An accelerator may have gone, or come back.
                self._computes(self._start())
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
            if self._closed:
                raise InferenceFailed("the model was closed") from error
            raise RuntimeCrashed("exit", f"no new process could be started: {error.strerror}") from error
        deadline = time.monotonic() + self._start_deadline_s
        try:
            send_frame(child.sock, self._load_header, [self._content], deadline)
            facts = unpack_header(receive_frame(child.sock, deadline)[0])
        except (TimeoutError, Closed, Unreadable, OSError) as error:
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
        if isinstance(error, (Closed, OSError)) and not isinstance(error, TimeoutError):
            # The socket closes a moment before the process has ended and its status is known.
            child.ended.wait(STOP_S)
        by_itself = child.ended.is_set()
        child.kill()
        self._child = None
        status = child.process.returncode
        if isinstance(error, TimeoutError):
            crash = RuntimeCrashed("deadline", deadline, child.log)
        elif isinstance(error, Unreadable) or not by_itself:
            crash = RuntimeCrashed("protocol", str(error), child.log)
        elif status is not None and status < 0:
            crash = RuntimeCrashed("signal", _signal_name(-status), child.log)
        else:
            crash = RuntimeCrashed("exit", str(status), child.log)
        return self._lost(crash)

    def _lost(self, crash: RuntimeCrashed) -> RuntimeCrashed:
        """Account for it."""
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
        raise Unreadable("signature")
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


def _load(order: Mapping[str, object], content: bytes) -> Runtime:
    kind, cache = cast("str | None", order.get("kind")), cast("str | None", order.get("cache"))
    cpus = cast("list[int]", order.get("cpus", []))
    if cpus:
        try:
            # Before the runtime makes its threads, which inherit it; numpy has made its own by now.
            for thread in Path("/proc/self/task").iterdir():
                os.sched_setaffinity(int(thread.name), cpus)
        except OSError as error:
            here = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
            raise ModelRefused(
                f"The model can not run on the CPUs {cpus} ({error.strerror}).",
                f"Set model.cpus to some of those that this process may use: {here}.",
            ) from error
    return load_model(
        content,
        kind=kind,
        threads=cast("int", order.get("threads", 1)),
        providers=cast("list[str]", order.get("providers", PREFERRED)),
        cache=None if cache is None else Path(cache),
    )


def _serve(sock: socket.socket) -> None:
    runtime: Runtime | None = None
    layouts: dict[bytes, Layout] = {}
    while True:
        header, payload = receive_frame(sock, None)
        layout = layouts.get(header)
        if layout is None:
            order = unpack_header(header)
            if order.get("op") == "load":
                try:
                    runtime = _load(order, bytes(payload))
                except ModelRefused as refused:
                    send_frame(sock, msgpack.packb({"refused": [refused.reason, refused.remedy]}), [], None)
                    continue
                facts = {
                    "kind": runtime.kind,
                    "version": runtime.version,
                    "provider": runtime.provider,
                    "declined": getattr(runtime, "declined", ""),
                    "inputs": [spec.to_dict() for spec in runtime.inputs],
                    "outputs": [spec.to_dict() for spec in runtime.outputs],
                }
                send_frame(sock, msgpack.packb(facts), [], None)
                give_back()
                continue
            layout = parse_layout(order.get("t"))
            if len(layouts) < _KEPT_HEADERS:
                layouts[header] = layout
        assert runtime is not None
        try:
            outputs = runtime.run(views(layout, payload))
        except (InferenceFailed, InputMismatch, MemoryError) as error:
            send_frame(sock, msgpack.packb({"failed": str(error) or "out of memory"}), [], None)
            continue
        names = [spec.name for spec in runtime.outputs]
        tensors = [np.asarray(outputs[name]) for name in names]
        send_frame(sock, msgpack.packb({"t": pack_layout(names, tensors)}), raw_parts(tensors), None)


def main(arguments: Sequence[str]) -> None:
    """The child: serve one model over the socket whose number is given, until the other end is gone."""
    # Ctrl-C and a service manager's stop reach the whole group; the parent decides when the model ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with(int(arguments[1]))
    with socket.socket(fileno=int(arguments[0])) as sock, contextlib.suppress(Closed, ConnectionError):
        _serve(sock)
    # Past this point only destructors of a possibly corrupted heap would run.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
