"""systemd's watchdog is fed while every loop comes round, and starves as soon as one of them does not."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from driftpost_agent import daemon as daemon_module
from driftpost_agent.daemon import Daemon
from driftpost_agent.settings import TABLE
from driftpost_sync.clock import SystemClock
from driftpost_sync.systemd import Notifier
from mosquitto import free_port
from wire import wait_until

INTERVAL_US = 200_000


@contextmanager
def heard(folder: Path, bundles: Path) -> Iterator[tuple[Daemon, Callable[[], list[str]]]]:
    """A daemon whose link finds no broker, and what it tells systemd from now on."""
    config = folder / "agent.toml"
    config.write_text(
        f'[device]\nid = "d"\n[model]\nbundle = "{bundles / "mlp.bundle"}"\nisolated = false\n'
        f'trusted_keys = ["{bundles / "team.pub"}"]\n[server]\nport = {free_port()}\n'
        f'[store]\npath = "{folder / "agent.db"}"\n[mqtt]\nhost = "127.0.0.1"\nport = {free_port()}\n'
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.setblocking(False)
        environment = {
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": str(INTERVAL_US),
            "WATCHDOG_PID": str(os.getpid()),
        }
        exit_event = threading.Event()
        daemon = Daemon(
            TABLE.load(config), clock=SystemClock(), exit_event=exit_event, notifier=Notifier(environment)
        )
        thread = threading.Thread(target=daemon.run, name="daemon-under-test")
        thread.start()

        def listen() -> list[str]:
            """All that came meanwhile."""
            messages = []
            while True:
                try:
                    messages.append(manager.recv(4096).decode())
                except BlockingIOError:
                    return messages

        try:
            wait_until(lambda: any("WATCHDOG=1" in message for message in listen()), "it is fed", 30)
            yield daemon, listen
        finally:
            exit_event.set()
            thread.join(20)
            assert not thread.is_alive()


def stand_still(daemon: Daemon, loop: str, patch: pytest.MonkeyPatch) -> None:
    """Let one loop look as if it had not come round for long."""
    if loop == "recorder":
        patch.setattr(daemon._recorder_beat, "limit_s", -1.0)
    elif loop == "store":
        patch.setattr(daemon._store_beat, "limit_s", -1.0)
    elif loop == "server":
        patch.setattr(daemon._server_beat, "limit_s", -1.0)
    elif loop == "inference":
        patch.setattr(daemon._server, "oldest_request_s", lambda: 1e6)
    else:
        assert daemon._uplink is not None
        old = replace(daemon._uplink.status(), round_mono=-(10**9))
        patch.setattr(daemon._uplink, "status", lambda: old)
        patch.setattr(daemon_module, "LOOP_LIMIT_S", 0.5)


@pytest.mark.parametrize("loop", ["inference", "server", "recorder", "store", "link"])
def test_a_loop_that_stands_still_lets_the_watchdog_starve_until_it_comes_round(
    tmp_path: Path, bundles: Path, loop: str
) -> None:
    with heard(tmp_path, bundles) as (daemon, listen):
        with pytest.MonkeyPatch.context() as patch:
            stand_still(daemon, loop, patch)
            wait_until(lambda: loop in daemon._stalled(), "it is seen")
            time.sleep(INTERVAL_US / 1e6)
            listen()
            time.sleep(5 * INTERVAL_US / 1e6)
            assert not any("WATCHDOG=1" in message for message in listen())
            assert daemon.status()["health"]["state"] == "failing"
        wait_until(lambda: any("WATCHDOG=1" in message for message in listen()), "it is fed again")
