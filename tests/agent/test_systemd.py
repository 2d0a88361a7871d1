"""Notifications to a service manager, over a real datagram socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from driftpost_sync.systemd import MAX_STATUS_CHARACTERS, Notifier


def test_each_message_is_one_datagram(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"})
        notifier.ready("serving\nREADY=0 " + "x" * 500)
        notifier.feed_watchdog()
        notifier.stopping()
        ready = manager.recv(4096).decode()
        assert ready.startswith("READY=1\nSTATUS=serving READY=0 xx")
        assert len(ready.splitlines()[1]) == len("STATUS=") + MAX_STATUS_CHARACTERS
        assert manager.recv(4096) == b"WATCHDOG=1"
        assert manager.recv(4096) == b"STOPPING=1"
        assert notifier.active
        assert notifier.watchdog_interval_s == 15.0


def test_the_abstract_namespace_is_understood() -> None:
    name = f"driftpost-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        Notifier({"NOTIFY_SOCKET": "@" + name}).status("fine")
        assert manager.recv(4096) == b"STATUS=fine"


def test_without_a_manager_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    Notifier({}).ready("fine")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("fine")
    assert not Notifier({}).active
    assert Notifier({}).watchdog_interval_s is None


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
    ],
)
def test_a_watchdog_that_is_off_or_another_processs_is_not_fed(environment: dict[str, str]) -> None:
    assert Notifier(environment).watchdog_interval_s is None
