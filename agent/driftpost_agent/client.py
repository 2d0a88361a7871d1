"""The command line's side of the local server."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from typing import Any

from driftpost_agent.errors import DaemonUnreachable

# Seconds to wait for an answer on loopback; the status page reads the database, which a window may be using.
TIMEOUT_S = 5.0
# Bytes of a status document at most.
MAX_STATUS_BYTES = 1 << 20
# Where a server that listens on every address is reached from the same machine.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def fetch_status(host: str, port: int) -> dict[str, Any]:
    """The status document of the agent that listens there.

    Raises:
        DaemonUnreachable: nobody answers, or somebody else does.
    """
    host = _LOOPBACK.get(host, host)
    address = f"http://{host}:{port}"
    connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        document = json.loads(answer.read(MAX_STATUS_BYTES))
    except (OSError, HTTPException) as error:
        raise DaemonUnreachable(address, str(error) or type(error).__name__) from error
    except ValueError as error:
        raise DaemonUnreachable(address, "what answers there is no driftpost agent") from error
    finally:
        connection.close()
    if not isinstance(document, dict) or "health" not in document:
        raise DaemonUnreachable(address, "what answers there is no driftpost agent")
    return document
