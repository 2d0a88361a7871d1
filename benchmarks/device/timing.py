"""Timing several ways of doing the same calls side by side, so that a busy machine does not skew ratios.

Ways take turns in short chunks (A B C A B C ...); what is reported is the median over rounds of the
difference from the first way in the same round.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_ROUNDS = 3

Run = Callable[[NDArray[Any]], object]


@dataclass
class Measured:
    """One way's calls.

    Attributes:
        cpu_us: CPU time of a call, microseconds, a median for each round; of the whole process, so that a
            background thread's share counts.
        wall_us: elapsed time of a call, likewise.
        single_us: elapsed times of single calls, all rounds together.
    """

    cpu_us: list[float] = field(default_factory=list)
    wall_us: list[float] = field(default_factory=list)
    single_us: list[float] = field(default_factory=list)

    @property
    def cpu(self) -> float:
        """Median CPU microseconds a call."""
        return statistics.median(self.cpu_us)

    @property
    def wall(self) -> float:
        """Median elapsed microseconds a call."""
        return statistics.median(self.wall_us)

    def percentile(self, share: float) -> float:
        """Elapsed microseconds of a single call that this share of calls stays below."""
        return float(np.quantile(self.single_us, share))

    def over(self, other: Measured) -> float:
        """CPU microseconds a call more than `other`, the median over rounds of what the same round showed."""
        return statistics.median(a - b for a, b in zip(self.cpu_us, other.cpu_us, strict=True))


def side_by_side(
    ways: Mapping[str, Run], rows: Sequence[NDArray[Any]], *, calls: int, rounds: int, seconds: float = 25.0
) -> dict[str, Measured]:
    """Run every way `calls` times in each of `rounds` rounds.

    Args:
        ways: by name, the reference first.
        rows: fed in turn.
        calls: in a chunk.
        rounds: chunks of each way, at most.
        seconds: after which no further round begins, with at least LEAST_ROUNDS done.
    """
    measured = {name: Measured() for name in ways}
    for name in ways:
        _chunk(ways[name], _cycle(rows, calls // 4))
    began = time.monotonic()
    for done in range(rounds):
        if done >= LEAST_ROUNDS and time.monotonic() - began > seconds * 0.7:
            break
        for name, way in ways.items():
            fed = _cycle(rows, calls)
            cpu, wall = _chunk(way, fed)
            measured[name].cpu_us.append(cpu / calls / 1000)
            measured[name].wall_us.append(wall / calls / 1000)
    for done in range(rounds):
        if done >= LEAST_ROUNDS and time.monotonic() - began > seconds:
            break
        for name, way in ways.items():
            measured[name].single_us += _singly(way, _cycle(rows, calls // 4))
    return measured


def _cycle(rows: Sequence[NDArray[Any]], calls: int) -> list[NDArray[Any]]:
    return [rows[i % len(rows)] for i in range(max(1, calls))]


def _chunk(way: Run, rows: Iterable[NDArray[Any]]) -> tuple[int, int]:
    gc.collect()
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    for row in rows:
        way(row)
    return time.process_time_ns() - cpu, time.perf_counter_ns() - wall


def _singly(way: Run, rows: Iterable[NDArray[Any]]) -> list[float]:
    times = []
    clock = time.perf_counter_ns
    for row in rows:
        before = clock()
        way(row)
        times.append((clock() - before) / 1000)
    return times
