"""A command: started without a shell, the event on its standard input; exit status 0 is success."""

from __future__ import annotations

import os
import subprocess

import anyio

from driftpost_aggregator.delivery.schedule import Answer
from driftpost_aggregator.delivery.targets import Target

# What a command says is kept this far, for the log.
MAX_SAID_CHARS = 200
# Of our own environment a command gets this much: our settings may hold secrets, its own come by files.
_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")


async def deliver(target: Target, request: str, body: bytes) -> Answer:
    """Run a target's command; it is killed when its time is over."""
    environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
    try:
        with anyio.fail_after(target.timeout_s):
            done = await anyio.run_process(
                list(target.command),
                input=body,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
                env={**environment, "DRIFTPOST_REQUEST": request},
                start_new_session=True,
            )
    except TimeoutError:
        return Answer(None, f"did not end within {target.timeout_s:g} s and was killed")
    except OSError as error:
        return Answer(None, f"{target.command[0]} can not be started: {error.strerror or error}")
    if done.returncode == 0:
        return Answer(200, "")
    said = " ".join(done.stderr.decode("utf-8", "replace").split())[-MAX_SAID_CHARS:]
    return Answer(None, f"exit status {done.returncode}" + (f": {said}" if said else ""))
