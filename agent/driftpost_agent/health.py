"""How the agent is: loops that prove progress, and one word with its reasons for people and for systemd."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum


class Health(str, Enum):
    """The agent's state in one word."""

    STARTING = "starting"
    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"


class Heartbeat:
    """A loop's proof of progress.

    Args:
        name: of the loop, for people.
        limit_s: longest time between two beats of a healthy loop, seconds.
        monotonic: seconds.
    """

    def __init__(self, name: str, limit_s: float, monotonic: Callable[[], float]) -> None:
        self.name = name
        self.limit_s = limit_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._last = monotonic()

    def beat(self) -> None:
        """The loop has come round."""
        with self._lock:
            self._last = self._monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since the last beat."""
        with self._lock:
            return self._monotonic() - self._last

    @property
    def alive(self) -> bool:
        """Whether the last beat is recent enough."""
        return self.age_s <= self.limit_s


@dataclass(frozen=True)
class Signs:
    """What health is judged by.

    Attributes:
        serving: whether a model is loaded and answers.
        stalled: names of loops without recent progress.
        model_problem: the last crash while the model has not been stable since, "" otherwise.
        store_problem: why windows can't be stored now, "" when they can.
        link_problem: why nothing reaches the aggregator, "" when it does or none is wanted.
        link_down_s: how long that has been so, seconds.
        self_test_problem: what differed when the golden inputs were replayed at start, "" if nothing.
        bundle_problem: why another bundle serves than the one that was asked for, "" while that is not so.
        board_problems: what is wrong with the board itself.
        budget_problems: what takes more of the board than it may, and what is done about it.
    """

    serving: bool
    stalled: tuple[str, ...] = ()
    model_problem: str = ""
    store_problem: str = ""
    link_problem: str = ""
    link_down_s: float = 0.0
    self_test_problem: str = ""
    bundle_problem: str = ""
    board_problems: tuple[str, ...] = ()
    budget_problems: tuple[str, ...] = ()


# Seconds without the aggregator before it shows in the health: reconnects and restarts of a broker pass.
LINK_PATIENCE_S = 120.0


def assess(signs: Signs) -> tuple[Health, tuple[str, ...]]:
    """Judge the signs: state, and what a person should look at, the gravest first."""
    failing = [f"the {name} loop makes no progress" for name in signs.stalled]
    degraded: list[str] = []
    if signs.model_problem:
        (degraded if signs.serving else failing).append(signs.model_problem)
    elif not signs.serving and not failing:
        return Health.STARTING, ("the model is not loaded yet",)
    if signs.bundle_problem:
        degraded.append(signs.bundle_problem)
    if signs.self_test_problem:
        degraded.append(f"self-test: {signs.self_test_problem}")
    if signs.store_problem:
        degraded.append(f"windows wait in memory: {signs.store_problem}")
    if signs.link_problem and signs.link_down_s > LINK_PATIENCE_S:
        degraded.append(f"nothing was delivered for {signs.link_down_s:.0f} s: {signs.link_problem}")
    degraded += signs.board_problems
    degraded += (f"over budget: {problem}" for problem in signs.budget_problems)
    if failing:
        return Health.FAILING, (*failing, *degraded)
    if degraded:
        return Health.DEGRADED, tuple(degraded)
    return Health.OK, ()


def stalled(heartbeats: Iterable[Heartbeat]) -> tuple[str, ...]:
    """Names of the loops that make no progress."""
    return tuple(heartbeat.name for heartbeat in heartbeats if not heartbeat.alive)
