"""A command: started without a shell, the event on its standard input; exit status 0 is success."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from contextlib import suppress

from driftpost_aggregator.delivery.schedule import Answer
from driftpost_aggregator.delivery.targets import Target

# What a command says is kept this far, for the log.
MAX_SAID_CHARS = 200
# Of our own environment a command gets this much: our settings may hold secrets, its own come by files.
_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")


def deliver(target: Target, request: str, body: bytes) -> Answer:
    """Run a target's command; it is killed, with all that it started, when its time is over."""
    environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
    # Files and no pipes: a command that reads nothing fails nowhere, one that says much fills no memory, and
    # what it leaves running in the background keeps nobody waiting.
    try:
        with tempfile.TemporaryFile() as event, tempfile.TemporaryFile() as said:
            event.write(body)
            event.seek(0)
            with subprocess.Popen(
                list(target.command),
                stdin=event,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env={**environment, "DRIFTPOST_REQUEST": request},
                start_new_session=True,
            ) as process:
                try:
                    status = process.wait(target.timeout_s)
                except subprocess.TimeoutExpired:
                    # Its session is a group of its own, whose number is its leader's.
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    return Answer(None, f"did not end within {target.timeout_s:g} s and was killed")
            if status == 0:
                return Answer(200, "")
            size = said.seek(0, os.SEEK_END)
            said.seek(max(size - 4 * MAX_SAID_CHARS, 0))
            words = " ".join(said.read().decode("utf-8", "replace").split())[-MAX_SAID_CHARS:]
    except OSError as error:
        return Answer(None, f"{target.command[0]} can not be started: {error.strerror or error}")
    return Answer(None, f"exit status {status}" + (f": {words}" if words else ""))
