import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
NAMES = ("driftpost-agent.service", "driftpost-aggregator.service")
# systemd's own scale from 0 to 10; what is left is that a daemon talks to the network and reads /proc.
LARGEST_EXPOSURE = 2.0

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def _service(name):
    unit = configparser.RawConfigParser(strict=False, delimiters="=", comment_prefixes="#")
    unit.optionxform = str
    unit.read(UNITS / name)
    return unit["Service"]


@pytest.fixture
def installed(tmp_path):
    """The units as shipped, with a command that exists on this machine."""

    def copy(name):
        text = (UNITS / name).read_text()
        assert "ExecStart=/opt/driftpost/bin/driftpost " in text
        path = tmp_path / name
        path.write_text(text.replace("/opt/driftpost/bin/driftpost", sys.executable))
        return path

    return copy


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_systemd_accepts_the_unit_without_a_word(installed, name):
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(installed(name))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_little_exposed(installed, name):
    rated = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", str(installed(name))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = re.search(r"Overall exposure level .*: ([0-9.]+) ", rated.stdout)
    assert found, rated.stdout + rated.stderr
    assert float(found[1]) <= LARGEST_EXPOSURE


@pytest.mark.parametrize("name", NAMES)
def test_a_daemon_is_watched_and_always_started_again(name):
    service = _service(name)
    assert service["Type"] == "notify"
    assert service["Restart"] == "always"
    assert int(service["WatchdogSec"]) > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_daemon_may_ask_whether_the_clock_is_synchronised(name):
    text = (UNITS / name).read_text()
    assert re.search(r"^ProtectClock=", text, re.MULTILINE) is None
    filters = re.findall(r"^SystemCallFilter=(.*)$", text, re.MULTILINE)
    assert filters[-1] == "adjtimex clock_adjtime"


def test_the_runtimes_own_telemetry_is_off_in_the_unit_and_in_both_stages_of_the_image():
    assert _service(NAMES[0])["Environment"] == "ORT_DISABLE_TELEMETRY=1"
    dockerfile = (UNITS.parents[1] / "Dockerfile.arm64").read_text()
    stages = dockerfile.split("\nFROM ")[1:]
    assert [stage.count("ORT_DISABLE_TELEMETRY=1") for stage in stages] == [1, 1]


def test_what_outlives_a_killed_agent_outlives_its_unit():
    text = (UNITS / NAMES[0]).read_text()
    assert re.search(r"^RemoveIPC=", text, re.MULTILINE) is None


def test_the_watchdog_waits_longer_than_the_slowest_inference_it_allows():
    from driftpost_agent.settings import TABLE

    (deadline,) = [entry.default for entry in TABLE.entries if entry.name == "model.deadline_seconds"]
    assert int(_service(NAMES[0])["WatchdogSec"]) >= 3 * deadline
