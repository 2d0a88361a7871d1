from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from driftpost_models import isolated, keeper
from driftpost_models.errors import InferenceFailed, ModelRefused, RuntimeBackingOff, RuntimeCrashed
from driftpost_models.isolated import IsolatedRuntime
from driftpost_models.keeper import Keeper
from models import onnx_files, tflite_files

PROMPT = {"x": np.zeros(1, np.float32)}
HANG = {"x": np.ones(1, np.float32)}
ROW = {"x": np.ones((1, 4), np.float32)}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def opened():
    runtimes: list[IsolatedRuntime] = []

    def opener(content: bytes, **options: object) -> IsolatedRuntime:
        runtimes.append(IsolatedRuntime(content, **options))
        return runtimes[-1]

    yield opener
    for runtime in runtimes:
        runtime.close()


def _gone(pid: int) -> bool:
    """Whether a process has ended and was collected (a zombie still has its entry)."""
    return not Path(f"/proc/{pid}").exists()


def _wait(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGBUS"])
def test_a_crash_in_a_call_names_the_signal_and_the_next_call_restarts_the_model(opened, name: str) -> None:
    runtime = opened(onnx_files.endless(), deadline_s=30)
    pid = runtime.pid
    killer = threading.Timer(0.2, os.kill, (pid, getattr(signal, name)))
    killer.start()
    with pytest.raises(RuntimeCrashed, match=name) as crash:
        runtime.run(HANG)
    killer.join()
    assert (crash.value.cause, crash.value.detail) == ("signal", name)
    assert runtime.last_crash is crash.value
    assert not runtime.alive
    assert runtime.pid is None
    assert _gone(pid)

    assert runtime.run(PROMPT)["y"].shape == (1,)
    assert (runtime.restarts, runtime.alive) == (1, True)
    assert runtime.pid != pid


def test_a_child_that_died_between_calls_is_replaced_without_failing_the_next_call(opened) -> None:
    runtime = opened(onnx_files.identity())
    os.kill(runtime.pid, signal.SIGSEGV)
    assert _wait(lambda: not runtime.alive)
    assert np.array_equal(runtime.run(ROW)["y"], ROW["x"])
    assert runtime.restarts == 1
    assert "SIGSEGV" in str(runtime.last_crash)


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_hanging_model_is_ended_at_its_deadline(opened, kind: str) -> None:
    if kind == "onnx":
        runtime, hang, prompt = opened(onnx_files.endless(), deadline_s=0.3), HANG, PROMPT
    else:
        runtime = opened(tflite_files.endless(), deadline_s=0.3)
        hang, prompt = {"x": np.array([True])}, {"x": np.array([False])}
    runtime.run(prompt)
    pid = runtime.pid
    begin = time.monotonic()
    with pytest.raises(RuntimeCrashed, match=r"did not answer within 0\.3 s") as crash:
        runtime.run(hang)
    assert crash.value.cause == "deadline"
    assert time.monotonic() - begin < 2.0
    assert _gone(pid)
    runtime.run(prompt)
    assert runtime.restarts == 1


def test_a_crash_loop_is_slowed_down_and_forgiven_after_a_stable_while(opened) -> None:
    clock = Clock()
    runtime = opened(onnx_files.endless(), deadline_s=0.15, clock=clock)

    def crash() -> None:
        with pytest.raises(RuntimeCrashed) as error:
            runtime.run(HANG)
        assert not isinstance(error.value, RuntimeBackingOff)

    crash()
    crash()  # the first restart is immediate
    waits = []
    for _ in range(3):
        with pytest.raises(RuntimeBackingOff) as wait:
            runtime.run(PROMPT)
        waits.append(wait.value.retry_in_s)
        clock.now += wait.value.retry_in_s
        crash()
    assert waits == [0.5, 1.0, 2.0]
    assert runtime.restarts == 4

    clock.now += isolated.LONGEST_DELAY_S
    runtime.run(PROMPT)
    clock.now += isolated.STABLE_S + 1
    crash()
    runtime.run(PROMPT)  # immediately: the crash before was long ago


def test_the_delay_never_exceeds_its_limit() -> None:
    delays = [isolated._delay(n) for n in range(200)]
    assert delays[:4] == [0.0, 0.0, 0.5, 1.0]
    assert max(delays) == isolated.LONGEST_DELAY_S


def test_a_refusal_in_the_child_arrives_with_its_reason_and_leaves_no_process(opened) -> None:
    before = _children()
    with pytest.raises(ModelRefused, match="operator") as refused:
        opened(onnx_files.unknown_operator())
    assert "standard operators" in refused.value.remedy
    assert _wait(lambda: _children() == before)


def test_a_model_that_never_finishes_loading_is_refused(opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "spawn", _spawner("import time; time.sleep(60)"))
    with pytest.raises(ModelRefused, match=r"did not answer within 0\.3 s of loading"):
        opened(onnx_files.identity(), start_deadline_s=0.3)


def test_a_model_that_ends_its_process_while_loading_is_refused(
    opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os, sys; sys.stderr.write('heap is broken\\n'); sys.stderr.flush(); os.abort()"
    monkeypatch.setattr(keeper, "spawn", _spawner(script))
    with pytest.raises(ModelRefused, match="SIGABRT; its last words: heap is broken"):
        opened(onnx_files.identity())


def _spawner(script: str):
    """Start another program in the child's place: what a corrupted model might turn it into."""

    def spawn() -> keeper.Child:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", script, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stderr=subprocess.PIPE,
            )
        return keeper.Child(process, ours, 0.0)

    return spawn


GARBAGE = {
    "lengths beyond reason": "struct.pack('<IQ', 2**31, 2**40)",
    "payload beyond reason": "struct.pack('<IQ', 4, 2**40) + bytes(4)",
    "no msgpack": "struct.pack('<IQ', 4, 0) + b'\\xc1\\xc1\\xc1\\xc1'",
    "no map": "struct.pack('<IQ', 1, 0) + b'\\x05'",
    "an empty map": "struct.pack('<IQ', 1, 0) + b'\\x80'",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_from_the_child_is_never_believed(opened, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    script = (
        "import socket, struct, sys, time; s = socket.socket(fileno=int(sys.argv[1])); "
        f"s.sendall({GARBAGE[name]}); time.sleep(60)"
    )
    monkeypatch.setattr(keeper, "spawn", _spawner(script))
    with pytest.raises(ModelRefused, match=r"unreadable|makes no sense"):
        opened(onnx_files.identity())


BAD_REPLIES = {
    "tensors longer than the frame": {"t": [["y", "<f4", [1, 400]]]},
    "another output": {"t": [["z", "<f4", [1, 4]]]},
    "another dtype": {"t": [["y", "<i4", [1, 4]]]},
    "objects": {"t": [["y", "O", [1, 4]]]},
    "negative lengths": {"t": [["y", "<f4", [-1, 4]]]},
    "no layout": {"t": 7},
    "nothing": {},
}


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_a_reply_that_does_not_fit_the_model_ends_the_child(
    opened, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    script = textwrap.dedent(
        f"""
        import socket, sys
        import msgpack
        from driftpost_models import frames
        s = socket.socket(fileno=int(sys.argv[1]))
        spec = {{"name": "x", "shape": [None, 4], "dtype": "<f4", "scale": None, "zero_point": None}}
        facts = {{"kind": "onnx", "version": "1", "provider": "p", "inputs": [spec],
                 "outputs": [{{**spec, "name": "y"}}]}}
        frames.receive_frame(s, None)
        frames.send_frame(s, msgpack.packb(facts), [], None)
        frames.receive_frame(s, None)
        frames.send_frame(s, msgpack.packb({BAD_REPLIES[name]!r}), [bytes(16)], None)
        frames.receive_frame(s, None)
        """
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    monkeypatch.setattr(keeper, "spawn", _spawner(script))
    runtime = opened(onnx_files.identity())
    pid = runtime.pid
    with pytest.raises(RuntimeCrashed) as crash:
        runtime.run(ROW)
    assert crash.value.cause == "protocol"
    assert _gone(pid)


def test_closing_ends_child_and_thread_at_once_and_is_idempotent(opened) -> None:
    before = threading.active_count()
    runtime = opened(onnx_files.identity())
    pid = runtime.pid
    names = [thread.name for thread in threading.enumerate()]
    assert "driftpost-model-keeper" in names
    begin = time.monotonic()
    runtime.close()
    runtime.close()
    assert time.monotonic() - begin < 1.0
    assert _gone(pid)
    assert threading.active_count() == before
    assert not runtime.alive
    with pytest.raises(InferenceFailed, match="closed"):
        runtime.run(ROW)


def test_closing_wakes_a_call_that_hangs(opened) -> None:
    runtime = opened(onnx_files.endless(), deadline_s=60)
    raised: list[BaseException] = []

    def call() -> None:
        try:
            runtime.run(HANG)
        except (RuntimeCrashed, InferenceFailed) as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.1)
    runtime.close()
    thread.join(5.0)
    assert not thread.is_alive()
    # Not a crash: nothing would be reported about the model for having been closed.
    assert [type(error) for error in raised] == [InferenceFailed]


def test_a_closed_keeper_starts_nothing_and_keeps_nobody_waiting() -> None:
    keeper = Keeper()
    keeper.close()
    raised: list[OSError] = []

    def start() -> None:
        try:
            keeper.start()
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(5.0)
    assert len(raised) == 1


def test_a_runtime_that_is_forgotten_does_not_leave_its_child_behind(opened) -> None:
    runtime = IsolatedRuntime(onnx_files.identity())
    pid = runtime.pid
    del runtime
    gc.collect()
    assert _wait(lambda: _gone(pid))


def test_the_child_dies_with_its_parent_even_while_it_hangs(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(onnx_files.endless())
    script = textwrap.dedent(
        f"""
        import os, pathlib, signal, sys, threading
        import numpy as np
        from driftpost_models.isolated import IsolatedRuntime
        runtime = IsolatedRuntime(pathlib.Path({str(model)!r}), deadline_s=60)
        print(runtime.pid, flush=True)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
        runtime.run({{"x": np.ones(1, np.float32)}})
        """
    )
    parent = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL
    pid = int(parent.stdout)
    assert _wait(lambda: _gone(pid) or _state(pid) == "Z")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except OSError:
        return "gone"


def test_the_thread_that_started_the_child_may_end_without_ending_the_child(opened) -> None:
    made: list[IsolatedRuntime] = []
    thread = threading.Thread(target=lambda: made.append(opened(onnx_files.identity())))
    thread.start()
    thread.join()
    time.sleep(0.05)
    assert made[0].alive
    assert made[0].run(ROW)["y"].shape == (1, 4)
    assert made[0].restarts == 0


def test_signals_for_the_group_do_not_end_the_model(opened) -> None:
    runtime = opened(onnx_files.identity())
    os.kill(runtime.pid, signal.SIGINT)
    os.kill(runtime.pid, signal.SIGTERM)
    assert runtime.run(ROW)["y"].shape == (1, 4)
    assert runtime.restarts == 0


def test_what_a_chatty_child_writes_never_blocks_it(opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "_DRAIN_EVERY", 1)
    script = textwrap.dedent(
        """
        import sys
        from driftpost_models import isolated
        served = isolated.views
        def chatty(layout, payload):
            sys.stderr.write("x" * 40_000 + "\\n"); sys.stderr.flush()
            return served(layout, payload)
        isolated.views = chatty
        isolated.main([sys.argv[1], str(__import__("os").getppid())])
        """
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    monkeypatch.setattr(keeper, "spawn", _spawner(script))
    runtime = opened(onnx_files.identity(), deadline_s=5)
    for _ in range(10):
        runtime.run(ROW)
    assert runtime.restarts == 0
    assert len(runtime._child.log) <= keeper.LOG_BYTES


def test_deadlines_must_be_positive() -> None:
    with pytest.raises(ValueError, match="deadlines"):
        IsolatedRuntime(onnx_files.identity(), deadline_s=0)


def _children() -> set[int]:
    mine = str(os.getpid())
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
            except OSError:
                continue
            if fields[1] == mine:
                found.add(int(entry.name))
    return found
