"""Builds the bundles of one run and starts its processes."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

from camera import SIDE, record, to_model_input
from configuration import agent_toml, aggregator_toml, bundle_toml
from digits import CLASSES, HERE, MODELS, load_pool
from layout import Layout, Ports
from processes import Child, ChildFailed, Processes, listening
from scenario import DEVICES, MODEL, MODEL_VERSION, REFERENCE_FRAMES
from summary import Overhead

DRIFTPOST = str(Path(sys.executable).with_name("driftpost"))
BASELINE_SEED = 7
READY_SECONDS = 60.0  # eight agents and their model processes start on two cores
BUILD_SECONDS = 180.0


class Fleet:
    """Builds the bundles, writes the configurations and starts the processes of one run.

    Args:
        layout: Where everything is.
        ports: What listens where.
        processes: Owns the processes.
        pause: Sleeps; returns True, and early, when the demo is to end.
    """

    def __init__(
        self, layout: Layout, ports: Ports, processes: Processes, pause: Callable[[float], bool]
    ) -> None:
        self._layout = layout
        self._ports = ports
        self._processes = processes
        self._pause = pause
        self._agents: list[Child] = []
        self._services: list[Child] = []  # the broker first

    @property
    def dashboard(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._ports.dashboard}"

    def build(self) -> None:
        """Make keys, baseline and bundles, and write every configuration.

        Raises:
            ChildFailed: A bundle could not be built.
        """
        layout = self._layout
        for folder in (layout.logs, layout.aggregator, layout.receiver, layout.bundles):
            folder.mkdir(parents=True)
        layout.secret.touch(mode=0o600)
        layout.secret.write_text(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
        layout.bundle_config.write_text(bundle_toml())
        layout.classes.write_text("\n".join(CLASSES) + "\n")
        run_to_end("keys", [DRIFTPOST, "keys", "new", str(layout.key)], layout.logs)
        with ThreadPoolExecutor(len(MODELS), thread_name_prefix="build") as pool:
            list(pool.map(self._build_bundle, MODELS))
        (layout.aggregator / "aggregator.toml").write_text(aggregator_toml(layout, self._ports))
        for device in DEVICES:
            layout.device(device).mkdir(parents=True)
            (layout.device(device) / "agent.toml").write_text(agent_toml(layout, self._ports, device))

    def _build_bundle(self, runtime: str) -> None:
        write_reference(runtime, self._layout.reference(runtime))
        run_to_end(f"bundle-{runtime}", build_command(self._layout, runtime), self._layout.logs)

    def start(self) -> None:
        """Start broker, receiver, aggregator and agents, and wait until all are ready.

        Raises:
            ChildFailed: One of them did not get ready.
            Interrupted: The demo is to end.
        """
        layout, ports = self._layout, self._ports
        broker = self._processes.start("broker", [DRIFTPOST, "broker", "run", "--port", str(ports.broker)])
        receiver = self._processes.start("receiver", receiver_command(layout, ports))
        self._ready(broker, lambda: listening(ports.broker))
        aggregator = self._processes.start(
            "aggregator",
            [DRIFTPOST, "aggregator", "run", "--config", str(layout.aggregator / "aggregator.toml")],
        )
        self._services = [broker, receiver, aggregator]
        self._agents = [
            self._processes.start(
                device.name,
                [DRIFTPOST, "agent", "run", "--config", str(layout.device(device) / "agent.toml")],
            )
            for device in DEVICES
        ]
        self._ready(receiver, lambda: listening(ports.receiver))
        self._ready(aggregator, lambda: answers(self.dashboard))
        for device, agent in zip(DEVICES, self._agents, strict=True):
            address = f"http://127.0.0.1:{ports.agents[device.name]}/v2/health/ready"
            self._ready(agent, lambda address=address: answers(address))  # type: ignore[misc]  # mypy can't type a lambda's default

    def measure_overheads(self) -> list[Overhead]:
        """What the guard costs around each build of the model, in a process of its own.

        Raises:
            ChildFailed: It could not be measured.
        """
        layout = self._layout
        costs = []
        for runtime in MODELS:
            store = layout.root / f"overhead-{runtime}.db"
            command = [sys.executable, str(HERE / "overhead.py"), str(layout.bundle(runtime)), str(store)]
            cost = json.loads(run_to_end(f"overhead-{runtime}", command, layout.logs))
            costs.append(Overhead(runtime, cost["bare_us"], cost["guarded_us"]))
        return costs

    def stop_agents(self) -> list[str]:
        """Stop the agents; what went wrong with which."""
        return self._processes.stop(self._agents)

    def stop_services(self) -> list[str]:
        """Stop aggregator, receiver and broker, the broker last; what went wrong with which."""
        return self._processes.stop(self._services[1:]) + self._processes.stop(self._services[:1])

    def _ready(self, child: Child, ready: Callable[[], bool]) -> None:
        self._processes.wait_until(child, ready, READY_SECONDS, self._pause)


def write_reference(runtime: str, path: Path) -> None:
    """Record 20 minutes of a healthy camera before the reference images, in the model's own layout."""
    frames, labels = record(load_pool("reference"), REFERENCE_FRAMES, np.random.default_rng(BASELINE_SEED))
    rows = to_model_input(frames)
    np.savez(path, image=rows.reshape(-1, 1, SIDE, SIDE) if runtime == "onnx" else rows, digit=labels)


def build_command(layout: Layout, runtime: str) -> list[str]:
    """The command that builds and signs a bundle."""
    return [
        DRIFTPOST,
        "bundle",
        "build",
        *("--model", str(MODELS[runtime])),
        *("--reference", str(layout.reference(runtime))),
        *("--labels", "digit"),
        *("--classes", str(layout.classes)),
        *("--name", MODEL),
        *("--model-version", MODEL_VERSION),
        *("--config", str(layout.bundle_config)),
        *("--key", str(layout.key)),
        *("--out", str(layout.bundle(runtime))),
    ]


def receiver_command(layout: Layout, ports: Ports) -> list[str]:
    """The command that runs the receiver."""
    return [
        sys.executable,
        str(HERE / "receiver.py"),
        *("--port", str(ports.receiver)),
        *("--secret-file", str(layout.secret)),
        *("--log", str(layout.received)),
    ]


def run_to_end(name: str, command: Sequence[str], logs: Path) -> str:
    """Run a command that ends by itself; returns its standard output.

    Raises:
        ChildFailed: It failed.
    """
    # A session of its own: Ctrl-C reaches the demo alone, which then ends in order.
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        start_new_session=True,
    )
    said = done.stdout + done.stderr
    (logs / f"{name}.log").write_text(said)
    if done.returncode:
        raise ChildFailed(name, f"ended with status {done.returncode}", said[-4000:])
    return done.stdout


def answers(address: str) -> bool:
    """Whether there is an HTTP server that says yes."""
    try:
        return httpx.get(address, timeout=2.0).is_success
    except httpx.HTTPError:
        return False
