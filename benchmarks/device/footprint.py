"""Memory and import time of the guard in an application's process, and of the agent.

    python -m benchmarks.device.footprint WAY BUNDLE FOLDER

starts one of them, calls its model and prints JSON; `bare.py` measures what they are compared with.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from benchmarks.device.resident import resident_mb

CALLS = 2000
START_S = 60.0


def guard(bundle: Path, folder: Path) -> dict[str, Any]:
    """The guard in the application's process, with its store."""
    began = time.process_time()
    import numpy as np  # noqa: PLC0415
    import onnxruntime  # noqa: F401, PLC0415

    runtime = time.process_time() - began
    from driftpost_agent.guard import Guard  # noqa: PLC0415

    imported = time.process_time() - began - runtime
    # A store that exists needs no migration.
    Guard.open(bundle, allow_unsigned=True, store=folder / "guard.db").close()
    one = Guard.open(bundle, allow_unsigned=True, store=folder / "guard.db")
    shape = [size or 1 for size in one.bundle.inputs[0].shape]
    row = np.sin(np.arange(np.prod(shape))).astype(np.float32).reshape(shape)
    for number in range(CALLS):
        one.run(row * np.float32(number % 7 / 7))
    one.flush()
    found = {"mb": resident_mb(["self"]), "import_s": imported}
    one.close()
    return found


def agent(bundle: Path, folder: Path, *, isolated: bool) -> dict[str, Any]:
    """The daemon, with its model in a process of its own or in the agent's."""
    from driftpost_models.bundle import Bundle  # noqa: PLC0415

    name = Bundle.open(bundle, None).name
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "agent.toml"
    config.write_text(
        f'[device]\nid = "bench"\n[model]\nbundle = "{bundle}"\nallow_unsigned = true\n'
        f"isolated = {str(isolated).lower()}\n[server]\nport = {port}\n"
        f'[store]\npath = "{folder}/state/agent.db"\n[sync]\nenabled = false\n',
        encoding="utf-8",
    )
    memory = 0.0
    for _ in range(2):  # the second start finds its store made
        process = subprocess.Popen(
            [sys.executable, "-m", "driftpost", "agent", "run", "--config", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _serve(port, name)
            memory = resident_mb([process.pid, *_children(process.pid)])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_S)
    return {"mb": memory}


def _serve(port: int, name: str) -> None:
    """Wait until it is ready, then ask for a few hundred inferences."""
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError):
            if _ask(port, "GET", "/v2/health/ready")[0] == 200:
                break
        if time.monotonic() > deadline:
            raise TimeoutError("the agent is not ready")
        time.sleep(0.1)
    meta = _ask(port, "GET", f"/v2/models/{name}")[1]
    given = meta["inputs"][0]
    shape = [max(1, size) for size in given["shape"]]
    size = shape[-1]
    for number in range(300):
        data = [((number * 7 + k * 13) % 100) / 50 - 1 for k in range(size)]
        body = {"inputs": [{"name": given["name"], "datatype": "FP32", "shape": shape, "data": data}]}
        assert _ask(port, "POST", f"/v2/models/{name}/infer", body)[0] == 200


def _ask(port: int, method: str, path: str, body: object = None) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None
    finally:
        connection.close()


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int((entry / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


if __name__ == "__main__":
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    way, bundle, folder = sys.argv[1], *(Path(one) for one in sys.argv[2:4])
    folder.mkdir(parents=True, exist_ok=True)
    ways = {
        "guard": lambda: guard(bundle, folder),
        "agent": lambda: agent(bundle, folder, isolated=True),
        "agent_in_process": lambda: agent(bundle, folder, isolated=False),
    }
    print(json.dumps(ways[way]()))
