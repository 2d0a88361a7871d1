"""Agent and aggregator as processes behind the shipped broker: its rules leave them all that they need."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from agent.daemons import running, toml
from deploy.shipped_broker import FLEET

DRIFTPOST = Path(sys.executable).with_name("driftpost")
PATIENCE_S = 60.0


def _mqtt(broker, name):
    return {
        "host": "localhost",
        "port": broker.port,
        "ca": broker.authority / "ca.crt",
        "cert": broker.authority / f"{name}.crt",
        "key": broker.authority / f"{name}.key",
    }


@pytest.fixture
def aggregator(broker, tmp_path):
    """Its configuration; the process ends with the test."""
    config = tmp_path / "aggregator.toml"
    sections = {"fleet": {"name": FLEET}, "mqtt": _mqtt(broker, "_aggregator"), "web": {"port": 0}}
    lines = []
    for name, section in sections.items():
        lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in section.items())]
    config.write_text("\n".join(lines) + "\n")
    with (tmp_path / "aggregator.log").open("wb") as log:
        process = subprocess.Popen(
            [DRIFTPOST, "aggregator", "run", "--config", config], stdout=log, stderr=log, cwd=tmp_path
        )
    yield config
    process.terminate()
    assert process.wait(30) == 0


@pytest.fixture
def agent(broker, bundle, tmp_path):
    folder = tmp_path / "cam-1"
    folder.mkdir()
    sections = {
        "device": {"fleet": FLEET},
        "model": {"trusted_keys": [], "allow_unsigned": True},
        "sync": {"enabled": True},
        "windows": {"seconds": 1.0},
        "mqtt": _mqtt(broker, "cam-1"),
    }
    with running(folder, bundle, bundle, **sections) as agent:
        yield agent


def _wait_for(text, config):
    deadline = time.monotonic() + PATIENCE_S
    said = ""
    while time.monotonic() < deadline:
        asked = subprocess.run(
            [DRIFTPOST, "aggregator", "status", "--config", config],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = asked.stdout + asked.stderr
        if text in said:
            return
        time.sleep(0.2)
    pytest.fail(f"{text!r} did not come: {said}")


@pytest.mark.slow
def test_a_device_is_counted_once_seen_online_and_seen_to_leave(aggregator, agent):
    frame = np.zeros((1, 1, 16, 16), np.int8)
    for _ in range(20):
        status, answer = agent.infer("meter", "image", frame)
        assert status == 200, answer
    _wait_for("of 20 inferences; 0 messages in quarantine", aggregator)
    _wait_for("1 of 1 devices online", aggregator)
    agent.stop()
    _wait_for("0 of 1 devices online", aggregator)
