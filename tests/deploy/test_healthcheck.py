import http.server
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from driftpost_agent.settings import TABLE

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "container" / "healthcheck.py"


def _check(config):
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(config)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def server():
    """Answers /v2/health/live with the status that the test sets."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(self.server.live_status if self.path == "/v2/health/live" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.live_status = 200
        thread = threading.Thread(target=served.serve_forever, name="live", daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture
def config(server, tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(f'[server]\nhost = "0.0.0.0"\nport = {server.server_port}\n')
    return path


def test_an_agent_that_answers_is_healthy(config):
    assert _check(config).returncode == 0


def test_an_agent_that_says_it_is_not_live_is_not_healthy(server, config):
    server.live_status = 503
    assert _check(config).returncode == 1


def test_an_agent_that_does_not_answer_is_not_healthy_and_the_reason_is_told(server, config):
    server.server_close()
    checked = _check(config)
    assert checked.returncode == 1
    assert "no answer from 127.0.0.1" in checked.stderr


def test_the_address_it_asks_when_none_is_configured_is_the_agents_default():
    script = runpy.run_path(str(SCRIPT))
    defaults = {entry.name: entry.default for entry in TABLE.entries}
    assert defaults["server.port"] == script["DEFAULT_PORT"]
    assert defaults["server.host"] == "127.0.0.1"
    dockerfile = (SCRIPT.parents[2] / "Dockerfile.arm64").read_text()
    assert f"EXPOSE {script['DEFAULT_PORT']}\n" in dockerfile
