"""Ask the agent in this container whether it lives: exit status 0 when `/v2/health/live` answers 200.

Imports nothing of the agent's and reads only the listening address from its configuration, so a probe every
half minute costs a small board little.
"""

import http.client
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:  # a board without the image
    import tomli as tomllib

# The answer is a constant once the daemon serves; five seconds is a stuck process, not a slow board.
TIMEOUT_S = 5.0
DEFAULT_PORT = 8600


def main(config: Path) -> int:
    """Return 0 if the server that `config` describes is live, else 1 with the reason on stderr."""
    server = tomllib.loads(config.read_text(encoding="utf-8")).get("server", {})
    # A server on every address is asked on loopback; its own wildcard is not an address to connect to.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.get("host", ""), server.get("host", "127.0.0.1"))
    connection = http.client.HTTPConnection(host, server.get("port", DEFAULT_PORT), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/v2/health/live")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"no answer from {host}: {error}\n")
        return 1
    finally:
        connection.close()
    return 0 if status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
