"""`make soak`: one agent, a real model, millions of inferences, and a broker that comes and goes.

The agent serves the demo's int8 digit reader over its local server in batches; what it records goes over a
Mosquitto on loopback to an aggregator that commits in memory. Now and then the broker is killed or stopped
and comes back after some seconds. In the end every row must be recorded, acknowledged and committed once, and
memory must be what it was after the first tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import numpy as np

from agent.daemons import Agent
from camera import record, to_model_input
from digits import load_pool
from driftpost_agent.shared_memory import VARIABLE
from driftpost_models.signing import generate, save_public_key
from e2e.fleet_under_fire import MODEL, build_bundle
from faults.books import read_books
from faults.kills import rows_committed
from mosquitto import Mosquitto, running_mosquitto
from wire import World

# Rows in a request, and different rows altogether.
BATCH = 64
PICTURES = 2048
WINDOW_S = 10.0
# Seconds between two bounces of the broker, and how long it stays away.
BOUNCE_EVERY_S = (20.0, 60.0)
AWAY_S = (1.0, 12.0)
# Samples of memory over the whole run.
SAMPLES = 40
# MiB that the agent or its model may have grown by from the first quarter of the samples to the last.
FLAT_MB = 3.0


@dataclass(frozen=True)
class Sample:
    """The agent at some moment of the soak."""

    rows: int
    agent_mb: float
    model_mb: float
    store_mb: float
    pending: int


class Asker:
    """Sends batches of pictures over one kept connection."""

    def __init__(self, port: int, rows: np.ndarray) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self._path = f"/v2/models/{MODEL}/infer"
        self._connection.request("GET", f"/v2/models/{MODEL}")
        wanted = json.loads(self._connection.getresponse().read())["inputs"][0]
        assert wanted["datatype"] == "INT8"
        shape = [BATCH, *wanted["shape"][1:]]
        tensor = {"name": wanted["name"], "shape": shape, "datatype": "INT8"}
        tensor["parameters"] = {"binary_data_size": int(np.prod(shape))}
        self._head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        self._rows = rows

    def ask(self, start: int) -> None:
        """One request: `BATCH` rows from `start` on."""
        headers = {"Inference-Header-Content-Length": str(len(self._head))}
        body = self._head + self._rows[start : start + BATCH].tobytes()
        self._connection.request("POST", self._path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text[:300]

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()


class Bouncer:
    """Takes the broker away and brings it back, by the clock."""

    def __init__(self, broker: Mosquitto, draw: random.Random) -> None:
        self._broker, self._draw = broker, draw
        self._next = time.monotonic() + draw.uniform(*BOUNCE_EVERY_S)
        self._back: float | None = None
        self.bounces = 0

    def look(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if self._back is not None:
            if now >= self._back:
                self._broker.restart()
                self._back, self._next = None, now + self._draw.uniform(*BOUNCE_EVERY_S)
        elif now >= self._next:
            self._broker.kill() if self.bounces % 2 else self._broker.stop()
            self.bounces += 1
            self._back = now + self._draw.uniform(*AWAY_S)

    def end(self) -> None:
        """Leave the broker there."""
        if self._back is not None:
            self._broker.restart()


def soak(folder: Path, inferences: int, limit_s: float, seed: int = 1) -> str:
    """Run it; returns the table.

    Args:
        folder: for the agent's files.
        inferences: rows to ask for.
        limit_s: seconds after which it ends with what was done.
        seed: of the bounces.

    Raises:
        AssertionError: something was lost, doubled, or grew.
    """
    key = generate()
    save_public_key(key, folder / "team.pub")
    bundle = build_bundle(folder, "onnx")
    frames, _ = record(load_pool("test"), PICTURES, np.random.default_rng(6))
    rows = to_model_input(frames)
    with ExitStack() as stack:
        broker = stack.enter_context(running_mosquitto())
        aggregator = World(broker, stack).aggregator()
        agent = Agent(
            folder,
            bundle,
            folder / "team.pub",
            model={"allow_unsigned": True, "trusted_keys": []},
            sync={"enabled": True},
            mqtt={"host": broker.host, "port": broker.port},
            windows={"seconds": WINDOW_S},
            store={"history_mb": 1},
        )
        store = Path(agent.settings["store"]["path"])
        stack.callback(lambda: agent.process and agent.process.poll() is None and agent.kill())
        agent.start()
        asker = Asker(agent.port, rows)
        stack.callback(asker.close)
        bouncer = Bouncer(broker, random.Random(seed))
        samples: list[Sample] = []
        begun, done = time.monotonic(), 0
        while done < inferences and time.monotonic() - begun < limit_s:
            asker.ask((done * 7) % (PICTURES - BATCH))
            done += BATCH
            bouncer.look()
            if done >= len(samples) * inferences / SAMPLES:
                samples.append(_sample(agent, done))
                sys.stderr.write(f"{samples[-1]}\n")
        took = time.monotonic() - begun
        bouncer.end()
        agent.wait(lambda: agent.status()["windows"]["pending"] <= 1, "what waited is acknowledged", 120)
        link = agent.status()["link"]
        assert agent.stop() < 10
        agent.start()
        agent.wait(lambda: agent.status()["windows"]["pending"] == 0, "the last window arrives", 60)
        agent.stop()
        books = read_books(store)
        assert (books.recorded, books.lost, books.quarantined) == (done, 0, 0)
        assert books.acked == rows_committed(aggregator) == done
        _flat([sample.agent_mb for sample in samples], "the agent")
        _flat([sample.model_mb for sample in samples], "its model")
        return _table(samples, done, took, bouncer.bounces, link, aggregator.copies)


def _sample(agent: Agent, done: int) -> Sample:
    document = agent.status()
    process = document["process"]
    return Sample(
        done,
        process["agent_mb"],
        process["model_mb"],
        document["store"]["bytes"] / 2**20,
        document["windows"]["pending"],
    )


def _flat(values: list[float], whose: str) -> None:
    quarter = max(1, len(values) // 4)
    # The very first is taken while caches still fill.
    early, late = np.median(values[1 : 1 + quarter]), np.median(values[-quarter:])
    assert late - early <= FLAT_MB, f"{whose} grew from {early:.1f} to {late:.1f} MiB"


def _table(  # noqa: PLR0917 - what the soak measured, in the order of the sentence
    samples: list[Sample], done: int, took: float, bounces: int, link: dict[str, object], copies: int
) -> str:
    lines = [
        f"{done:,} inferences in {took / 60:.1f} min ({done / took:,.0f} a second), the broker taken away "
        f"{bounces} times. Recorded, acknowledged and committed: {done:,} rows each; "
        f"{link['resent_messages']} messages sent again, {copies} arrived twice and were committed once.",
        "",
        "| inferences | agent, MiB | model's process, MiB | store, MiB | windows waiting |",
        "| --: | --: | --: | --: | --: |",
    ]
    for sample in samples[:: max(1, len(samples) // 10)]:
        lines.append(
            f"| {sample.rows:,} | {sample.agent_mb:.1f} | {sample.model_mb:.1f} | {sample.store_mb:.2f} "
            f"| {sample.pending} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command behind `make soak`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inferences", type=int, default=2_000_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="ends then with what was done")
    parser.add_argument("--out", type=Path, default=None, help="also write the table there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ[VARIABLE] = folder
        table = soak(Path(folder), options.inferences, options.minutes * 60)
    sys.stdout.write(table)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(table)


if __name__ == "__main__":
    main()
