"""Prove on a board, or in the image, that bundles work there: versions, self-test, guarded calls, the daemon.

    python image_check.py digits-onnx.bundle digits-tflite.bundle

Each model is replayed in a process of its own against the answers that its builder's machine gave, asked
through the guard, and served by `driftpost agent run`, which has to answer its health check and an inference
over HTTP and to end cleanly. Exit status 0 if all of it came out right. Who signed a bundle is not asked:
this checks the machine.
"""

from __future__ import annotations

import http.client
import json
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from driftpost import Bundle, Guard
from driftpost_models.isolated import IsolatedRuntime

PACKAGES = (
    "driftpost",
    "numpy",
    "onnxruntime",
    "ai-edge-litert",
    "tflite-runtime",
    "cryptography",
    "msgpack",
)
# Emulated, starting Python and a runtime takes ten times what a Pi needs.
START_S = 300.0
STOP_S = 60.0
DEADLINE_S = 60.0
HEALTHCHECK = Path(__file__).with_name("healthcheck.py")

CONFIGURATION = """\
[device]
id = "image-check"

[model]
bundle = {bundle}
allow_unsigned = true
deadline_seconds = {deadline_s}

[server]
port = {port}

[store]
path = "agent.db"

[sync]
enabled = false
"""


class CheckFailed(Exception):
    """What did not come out right."""


def main(paths: list[Path]) -> int:
    """Check every bundle; the exit status."""
    say(f"machine         {platform.machine()}, {platform.platform()}")
    say(f"python          {platform.python_version()}")
    for name in PACKAGES:
        try:
            say(f"{name:15} {version(name)}")
        except PackageNotFoundError:
            say(f"{name:15} not installed")
    failures = 0
    for path in paths:
        try:
            check(path)
        except CheckFailed as failure:
            say(f"  FAILED        {failure}")
            failures += 1
    say("all good" if not failures else f"{failures} of {len(paths)} bundles failed")
    return 1 if failures else 0


def check(path: Path) -> None:
    """Check one bundle.

    Raises:
        CheckFailed: with what did not come out right.
    """
    bundle = Bundle.open(path, None)
    say(f"{path.name}: {bundle.name} {bundle.version}, {bundle.model_kind}, {bundle.id[:12]}")
    guarded(bundle)
    with tempfile.TemporaryDirectory(prefix="image-check-") as folder:
        served(bundle, path.resolve(), Path(folder))


def guarded(bundle: Bundle) -> None:
    """Self-test and guarded calls, the model in a process of its own."""
    runtime = IsolatedRuntime(
        bundle.model_bytes, kind=bundle.model_kind, start_deadline_s=START_S, deadline_s=DEADLINE_S
    )
    try:
        say(f"  runtime       {runtime.kind} {runtime.version}, {runtime.provider}")
        test = bundle.self_test(runtime)
        say(f"  self-test     {test.text}")
        if not test.ok:
            raise CheckFailed(test.text)
    except BaseException:
        runtime.close()
        raise
    with Guard(bundle, runtime) as guard:
        for call in range(bundle.golden.calls):
            result = guard.run({name: array[call] for name, array in bundle.golden.inputs.items()})
            answer = {name: output.ravel()[:10].tolist() for name, output in result.outputs.items()}
            say(f"  guarded call  {result.verdict.status.value}: {answer}")
            if not result.outputs or result.verdict.reasons:
                raise CheckFailed(f"verdict {result.verdict} on a golden input")
            if call == 2:
                break


def served(bundle: Bundle, path: Path, folder: Path) -> None:
    """Run the daemon, ask its health and one inference over HTTP, and stop it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "agent.toml"
    config.write_text(
        CONFIGURATION.format(bundle=json.dumps(str(path)), port=port, deadline_s=DEADLINE_S), encoding="utf-8"
    )
    with (folder / "log").open("w+b") as log:
        driftpost = str(Path(sys.executable).with_name("driftpost"))
        command = [driftpost, "agent", "run", "--config", str(config)]
        daemon = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(daemon, port)
            healthy = subprocess.run([sys.executable, HEALTHCHECK, config], check=False, timeout=START_S)
            say(f"  health check  exit status {healthy.returncode}")
            answer = ask(bundle, port)
            say(f"  over HTTP     {json.dumps(answer)[:300]}")
            if healthy.returncode or "outputs" not in answer:
                raise CheckFailed("the daemon is not healthy")
            daemon.send_signal(signal.SIGTERM)
            status = daemon.wait(STOP_S)
            say(f"  stopped       exit status {status}")
            if status:
                raise CheckFailed("the daemon did not end cleanly")
        except (CheckFailed, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
            log.seek(0)
            raise CheckFailed(f"{error}; the daemon said:\n{log.read().decode(errors='replace')}") from error
        finally:
            daemon.kill()
            daemon.wait()


def wait_until_ready(daemon: subprocess.Popen[bytes], port: int) -> None:
    """Return once the daemon's model answers."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and daemon.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == http.client.OK:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.5)
    raise CheckFailed(f"the daemon did not get ready within {START_S:.0f} s")


def ask(bundle: Bundle, port: int) -> dict[str, object]:
    """One inference with the first golden input, as any client of the Open Inference Protocol would."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("GET", f"/v2/models/{bundle.name}")
        metadata = json.load(connection.getresponse())
        inputs = [
            {
                "name": tensor["name"],
                "datatype": tensor["datatype"],
                "shape": list(bundle.golden.inputs[tensor["name"]][0].shape),
                "data": bundle.golden.inputs[tensor["name"]][0].ravel().tolist(),
            }
            for tensor in metadata["inputs"]
        ]
        body = json.dumps({"id": "image-check", "inputs": inputs})
        connection.request(
            "POST", f"/v2/models/{bundle.name}/infer", body, {"Content-Type": "application/json"}
        )
        answer: dict[str, object] = json.load(connection.getresponse())
        return answer
    finally:
        connection.close()


def say(text: str) -> None:
    """One line of the report."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
