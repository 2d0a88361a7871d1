"""SIGKILL at random moments to a real agent that serves, records and sends."""

from __future__ import annotations

import math
import random
import threading
import time
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path

from agent.bundles import tabular_rows
from agent.daemons import Agent
from driftpost_sketches.window import Window
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages import WindowBody
from faults.books import Books, read_books
from faults.outcome import Outcome
from mosquitto import running_mosquitto
from wire import Aggregator, World

WINDOW_S = 1.0
FLUSH_S = 0.2
BATCH = 8
# What a flush may come late on a loaded machine; seconds. Rows answered within it may be lost as well. No
# flush waits for the card: that is another thread's.
LATE_S = 1.0
# Of all kills: those that come while the agent is still starting, and those of an agent whose model has a
# process of its own (which makes the start twice as long).
AT_START = 0.2
ISOLATED = 0.1


class Load(threading.Thread):
    """Asks for inferences as fast as they are answered, from whatever agent is there."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(name="load", daemon=True)
        self._agent = agent
        self._rows = tabular_rows(BATCH)
        self.over = threading.Event()
        self.answered: list[float] = []
        self.unknown = 0

    def run(self) -> None:
        while not self.over.is_set():
            try:
                status = self._agent.infer("mlp", "x", self._rows)[0]
            except ConnectionRefusedError:
                self.over.wait(0.005)
                continue
            except (OSError, HTTPException, ValueError):
                # It died before it answered, and recorded the rows or not.
                self.unknown += 1
                self.over.wait(0.005)
                continue
            if status == 200:
                self.answered.append(time.monotonic())


def kill_at_random_moments(
    folder: Path, bundles: Path, times: int, *, seed: int = 1, limit_s: float = math.inf
) -> Outcome:
    """Kill an agent `times` times in a row; its books are looked at after each kill.

    Args:
        folder: for the agent's files.
        bundles: has mlp.bundle and team.pub.
        times: kills.
        seed: of the moments.
        limit_s: seconds after which it ends with the kills that were made.
    """
    until = time.monotonic() + limit_s
    draw = random.Random(seed)
    outcome = Outcome("SIGKILL of the agent under load, at random moments")
    with ExitStack() as stack:
        broker = stack.enter_context(running_mosquitto())
        world = World(broker, stack)
        aggregator = world.aggregator()
        agent = Agent(
            folder,
            bundles / "mlp.bundle",
            bundles / "team.pub",
            sync={"enabled": True},
            mqtt={"host": broker.host, "port": broker.port},
            windows={"seconds": WINDOW_S, "flush_seconds": FLUSH_S},
        )
        store = Path(agent.settings["store"]["path"])
        stack.callback(lambda: agent.process and agent.process.poll() is None and agent.kill())
        loads = [Load(agent) for _ in range(2)]
        losses = Losses(loads)
        for load in loads:
            load.start()
        try:
            while outcome.times < times and time.monotonic() < until:
                _configure(agent, isolated=draw.random() < ISOLATED)
                begun = time.monotonic()
                if draw.random() < AT_START:
                    agent.spawn()
                    time.sleep(draw.uniform(0.05, 1.5))
                else:
                    agent.start()
                    outcome.recovery_s.append(time.monotonic() - begun)
                    time.sleep(draw.uniform(0.0, 1.5 * WINDOW_S))
                agent.kill()
                outcome.times += 1
                killed = time.monotonic()
                if store.exists():
                    losses.told(read_books(store), killed)
        finally:
            for load in loads:
                load.over.set()
            for load in loads:
                load.join(20)
        _configure(agent, isolated=False)
        agent.start()
        agent.wait(lambda: agent.status()["windows"]["pending"] == 0, "everything is acknowledged", 120)
        assert agent.stop() < 10
        books = read_books(store)
        losses.told(books, time.monotonic())
        answered = BATCH * sum(len(load.answered) for load in loads)
        unknown = BATCH * sum(load.unknown for load in loads)
        assert answered <= books.recorded + books.lost <= answered + unknown
        assert books.recorded == books.acked == rows_committed(aggregator)
    outcome.lost = (
        f"{books.lost:,} of {books.recorded + books.lost:,} rows, at most {losses.worst} in one kill: "
        "those since the last flush, as the ledger says"
    )
    outcome.notes = (
        f"{AT_START:.0%} of the kills come while it starts; the database opens, the ledger balances, and the "
        f"aggregator has what was recorded; windows of {WINDOW_S:g} s, flushed every {FLUSH_S:g} s"
    )
    return outcome


class Losses:
    """What each kill cost, as the next start tells it: no more than was answered since a flush."""

    def __init__(self, loads: list[Load]) -> None:
        self._loads = loads
        self._books = Books(0, 0, 0, 0, 0)
        self._killed = 0.0
        self.worst = 0

    def told(self, books: Books, now: float) -> None:
        """What the books say after another kill, at `now`."""
        if books.starts == self._books.starts:
            return  # killed before it had opened the store
        lost = books.lost - self._books.lost
        since = self._killed - FLUSH_S - LATE_S
        moments = (moment for load in self._loads for moment in load.answered)
        recent = sum(since < moment <= self._killed + LATE_S for moment in moments)
        allowed = BATCH * (recent + len(self._loads))
        assert lost <= allowed, f"{lost} rows lost, {allowed} were answered since a flush could have come"
        self.worst, self._killed, self._books = max(self.worst, lost), now, books


def rows_committed(aggregator: Aggregator) -> int:
    """Rows in all windows that an aggregator has, each once."""
    rows = 0
    for body in list(aggregator.committed.values()):
        try:
            window = WindowBody.from_bytes(body)
        except MalformedMessage:
            continue  # another kind of message
        rows += Window.from_bytes(window.window).rows
    return rows


def _configure(agent: Agent, *, isolated: bool) -> None:
    agent.configure({**agent.settings, "model": {**agent.settings["model"], "isolated": isolated}})
