"""The README's walk-through, typed as it stands; ports and durations are changed, the install is skipped."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(
    r"^<!-- walk-through(?:: (?P<how>\S+))? -->\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
READY_S = 60.0
# Nobody waits half a minute for a camera in a test; two-second windows show the same in a fifth of the time.
SHORTER = {"--window-seconds 10": "--window-seconds 2", "npz 30": "npz 8", "npz 60": "npz 14"}
INCIDENT_S = 60.0


@dataclass(frozen=True)
class Block:
    how: str
    text: str


def blocks():
    return [
        Block(found["how"] or "", found["text"])
        for found in BLOCK.finditer(README.read_text(encoding="utf-8"))
    ]


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in sockets]


def _curl(folder):
    """A folder with a `curl` for machines that have none: it comes last in the path."""
    folder.mkdir()
    program = folder / "curl"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys, urllib.request\n"
        "sys.stdout.write(urllib.request.urlopen(sys.argv[-1], timeout=10).read().decode())\n"
    )
    program.chmod(0o755)
    return folder


class Reader:
    """Somebody who types the walk-through into terminals."""

    def __init__(self, home):
        self.folder = home
        self.said = {}
        self.running = []
        broker, agent, dashboard = _free_ports(3)
        self.ports = {"1883": broker, "8600": agent, "8088": dashboard}
        self.logs = home
        tools = [str(Path(sys.executable).parent), os.environ["PATH"], str(_curl(home / "bin"))]
        self.environment = {**os.environ, "PATH": os.pathsep.join(tools)}

    def follow(self, block):
        text = block.text
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        for usual, free in self.ports.items():
            text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{free}")
        if block.how == "background":
            self._start(text.strip())
        elif block.how:
            (self.folder / block.how).write_text(text)
        else:
            self._type(text)

    def _type(self, text):
        where = self.logs / "where"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{text}\npwd > {where}"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        self.folder = Path(where.read_text().strip())
        self.said[text.strip()] = done.stdout
        self._use_free_ports()

    def _use_free_ports(self):
        """What `init` wrote has the usual ports, which another program on this machine may hold."""
        aggregator, agent = self.folder / "aggregator.toml", self.folder / "agent.toml"
        for path in (aggregator, agent):
            if path.exists():
                text = path.read_text()
                for usual, free in self.ports.items():
                    text = text.replace(f"port = {usual}", f"port = {free}")
                path.write_text(text)
        broker = f"port = {self.ports['1883']}\n"
        if agent.exists() and not agent.read_text().endswith(broker):
            assert agent.read_text().rstrip().splitlines()[-2] == "[mqtt]"
            agent.write_text(agent.read_text() + broker)

    def _start(self, command):
        ready = {
            "driftpost broker run": lambda: socket.create_connection(
                ("127.0.0.1", self.ports["1883"]), 1
            ).close(),
            "driftpost aggregator run": lambda: self._get(self.ports["8088"], "/"),
            "driftpost agent run": lambda: self._get(self.ports["8600"], "/v2/health/ready"),
        }[command]
        extra = ["--port", str(self.ports["1883"])] if "broker" in command else []
        log = self.logs / f"{len(self.running)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command.split(), *extra],
                cwd=self.folder,
                env=self.environment,
                executable=shutil.which("driftpost", path=self.environment["PATH"]),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.running.append(process)
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                ready()
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        pytest.fail(f"{command}: {log.read_text()}")

    def _get(self, port, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.read()

    def ask(self, *command):
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self):
        """End everything; the exit statuses, last started first."""
        statuses = []
        for process in reversed(self.running):
            process.terminate()
            statuses.append(process.wait(30))
        self.running = []
        return statuses


@pytest.fixture
def reader(tmp_path, checkout):
    (tmp_path / "examples").symlink_to(checkout / "examples")
    person = Reader(tmp_path)
    yield person
    for process in person.running:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_newcomer_guards_a_model_by_typing_the_walk_through(reader):
    for block in blocks():
        reader.follow(block)

    metadata = reader.said[f"curl -s http://127.0.0.1:{reader.ports['8600']}/v2/models/meter"]
    assert '"INT8"' in metadata
    assert "'verdict': 'ok'" in reader.said["python feed.py reference.npz 8"]

    deadline = time.monotonic() + INCIDENT_S
    while "incidents    1" not in (status := reader.ask("driftpost", "aggregator", "status")):
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    assert "1 of 1 devices online" in status
    assert "device meter-1" in status
    assert "0 messages in quarantine" in status
    assert "1 standing" in reader.ask("driftpost", "agent", "status")

    first, second = reader.ask("python", "application.py").splitlines()
    assert first.startswith("ok [[")
    assert second.startswith("abstained ['dtype'] ")
    assert reader.stop() == [0, 0, 0]


def test_the_readme_leads_with_the_two_commands():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert lines[2].strip().startswith("make demo")
    assert lines[3].strip().startswith("make test")


def test_every_extra_the_readme_installs_exists(checkout):
    defined = set(
        re.findall(r"^(\w+) = \[", (checkout / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    text = README.read_text(encoding="utf-8") + (checkout / "docs" / "deploy.md").read_text(encoding="utf-8")
    named = {
        extra for found in re.findall(r"(?:driftpost|'\.)\[([a-z,]+)\]", text) for extra in found.split(",")
    }
    assert named >= {"onnx", "tflite", "aggregator"}
    assert named <= defined


def test_every_file_the_pages_link_to_exists(checkout):
    for page in (README, *(checkout / name for name in ("CONTRIBUTING.md", "docs/deploy.md"))):
        for target in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
