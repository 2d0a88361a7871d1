import os
import sys
import threading
from pathlib import Path

import pytest

from processes import ChildFailed, Interrupted, Processes, free_ports, listening

PYTHON = sys.executable
FOREVER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + FOREVER
PARENT = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True); time.sleep(600)"
)


def pause(seconds: float) -> bool:
    return threading.Event().wait(seconds)


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_leaving_the_context_ends_every_child(tmp_path):
    with Processes(tmp_path) as processes:
        children = [processes.start(f"child-{index}", [PYTHON, "-c", FOREVER]) for index in range(3)]
        processes.check()
        assert all(child.running for child in children)
    assert not any(child.running for child in children)


def test_children_are_ended_when_the_body_fails(tmp_path):
    started = []

    def interrupted():
        with Processes(tmp_path) as processes:
            started.append(processes.start("child", [PYTHON, "-c", FOREVER]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not started[0].running


def test_a_child_that_does_not_listen_is_ended_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr("processes.STOP_SECONDS", 0.2)
    with Processes(tmp_path) as processes:
        child = processes.start("stubborn", [PYTHON, "-c", STUBBORN])
        processes.wait_until(child, lambda: "up" in child.tail(), 10, pause)
        assert processes.stop([child]) == ["stubborn did not stop when asked"]
        assert not child.running


@pytest.mark.parametrize(
    ("handler", "problems"),
    [
        ("lambda *_: sys.exit(0)", []),
        ("lambda *_: sys.exit(3)", ["child ended with status 3"]),
        ("signal.SIG_DFL", ["child was ended by signal 15"]),
    ],
)
def test_a_child_that_ends_badly_when_it_is_asked_to_is_told_of(tmp_path, handler, problems):
    code = f"import signal, sys; signal.signal(signal.SIGTERM, {handler}); {FOREVER}"
    with Processes(tmp_path) as processes:
        child = processes.start("child", [PYTHON, "-c", code])
        processes.wait_until(child, lambda: "up" in child.tail(), 10, pause)
        assert processes.stop([child]) == problems


def test_a_childs_own_children_go_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("processes.STOP_SECONDS", 0.2)
    with Processes(tmp_path) as processes:
        child = processes.start("parent", [PYTHON, "-c", PARENT])
        processes.wait_until(child, lambda: child.tail().strip().isdigit(), 10, pause)
        grandchild = int(child.tail())
        assert alive(grandchild)
    for _ in range(200):
        if not alive(grandchild):
            break
        pause(0.02)
    assert not alive(grandchild)


def test_a_child_that_ends_by_itself_is_reported_with_the_end_of_its_log(tmp_path):
    with Processes(tmp_path) as processes:
        child = processes.start("broken", [PYTHON, "-c", "print('the reason'); raise SystemExit(3)"])
        child.wait(10)
        with pytest.raises(ChildFailed, match="broken ended with status 3") as failed:
            processes.check()
        assert failed.value.tail == "the reason"


def test_a_child_that_is_never_ready_is_reported(tmp_path):
    with Processes(tmp_path) as processes:
        child = processes.start("slow", [PYTHON, "-c", FOREVER])
        with pytest.raises(ChildFailed, match="slow was not ready within 0 seconds"):
            processes.wait_until(child, lambda: False, 0.3, pause)


def test_waiting_ends_when_the_demo_is_to_end(tmp_path):
    with Processes(tmp_path) as processes:
        child = processes.start("slow", [PYTHON, "-c", FOREVER])
        with pytest.raises(Interrupted):
            processes.wait_until(child, lambda: False, 600, lambda seconds: True)


def test_a_child_ignores_the_terminals_interrupt(tmp_path):
    with Processes(tmp_path) as processes:
        child = processes.start("child", [PYTHON, "-c", FOREVER])
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)


def test_free_ports_are_different_and_nobody_listens():
    ports = free_ports(12)
    assert len(set(ports)) == 12
    assert not any(listening(port) for port in ports)
