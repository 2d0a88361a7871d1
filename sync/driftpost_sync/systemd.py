"""Tell systemd how the daemon is: one datagram on a Unix socket per message (sd_notify's protocol)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

# STATUS= is one line for `systemctl status`; longer texts are of no use there.
MAX_STATUS_CHARACTERS = 200


class Notifier:
    """Sends READY, STATUS, WATCHDOG and STOPPING; does nothing when systemd did not start us.

    A notification that can't be sent is dropped: the service manager draws its own conclusions from silence,
    and telling it is never worth failing an inference.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ is the abstract namespace, whose names begin with a zero byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = _watchdog_seconds(environment)

    @property
    def active(self) -> bool:
        """Whether a service manager listens."""
        return bool(self._address)

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often to feed the watchdog, in seconds: half of what the unit allows; None without one."""
        return None if self._watchdog_s is None else self._watchdog_s / 2

    def ready(self, status: str) -> None:
        """The model is warm and the server answers."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, status: str) -> None:
        """Replace the line that `systemctl status` shows."""
        self._send(f"STATUS={_one_line(status)}")

    def feed_watchdog(self) -> None:
        """All loops have proved progress."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """A clean stop has begun."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto(message.encode(), self._address)
        except OSError:
            return


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MAX_STATUS_CHARACTERS]


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    # WATCHDOG_PID guards against a child inheriting its parent's duty.
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    if not text.isdigit() or int(text) == 0:
        return None
    return int(text) / 1e6
