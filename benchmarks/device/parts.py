"""Where the guard's time goes: the path of one call around a model that takes none, and a block's pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from driftpost_agent.guard import Guard
from driftpost_agent.quick_path import QuickPath
from driftpost_agent.row_check import RowCheck
from driftpost_models.probes.block import Block

CHUNK = 200
ROUNDS = 150


def least_us(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Least microseconds of many rounds: what the work takes when nothing is in its way."""
    least = float("inf")
    for _ in range(rounds):
        before = time.perf_counter_ns()
        work()
        least = min(least, time.perf_counter_ns() - before)
    return least / 1000


def call_parts(guard: Guard, rows: Sequence[NDArray[Any]]) -> dict[str, float]:
    """Microseconds of an ordinary call by part, with a model that answers at once."""
    quick = guard._quick
    assert quick is not None
    answer = quick._ask(rows[0])
    quick._ask = lambda tensor: answer
    passes = _Stopwatch(guard)
    least = float("inf")
    for _ in range(ROUNDS):
        passes.spent = 0
        before = time.perf_counter_ns()
        for number in range(CHUNK):
            guard.run(rows[number % len(rows)])
        least = min(least, time.perf_counter_ns() - before - passes.spent)
    whole = least / CHUNK / 1000
    parts = _steps(quick, rows[0], answer)
    return {
        **parts,
        "the interpreter's steps between them": max(0.0, whole - sum(parts.values())),
        "all": whole,
    }


class _Stopwatch:
    """Counts nanoseconds that a guard spends in passes."""

    def __init__(self, guard: Guard) -> None:
        self.spent = 0
        self._sketch = guard.recorder._sketch
        guard.recorder._sketch = self._timed  # type: ignore[method-assign]  # a benchmark's probe

    def _timed(self, block: Block) -> None:
        before = time.perf_counter_ns()
        self._sketch(block)
        self.spent += time.perf_counter_ns() - before


def _steps(quick: QuickPath, row: NDArray[Any], answer: NDArray[Any]) -> dict[str, float]:
    kept = row if quick._how is None else quick._how.take(row)
    raw, said = kept.tobytes(), answer.tobytes()
    block, lock, check = memoryview(bytearray(len(raw) + len(said))), threading.Lock(), quick._row_check
    judged = (raw if quick._judges_input else b"") + (said if quick._judges_answer else b"")
    parts = {}
    if quick._how is not None:
        parts["picking pixels"] = _each(lambda: quick._how.take(row))  # type: ignore[union-attr]  # asked above
        parts["looking for clipped ones"] = _each(lambda: quick._input_check.decimated_passes(row, kept, raw))

    def copy() -> None:
        kept.tobytes()
        answer.tobytes()
        block[: len(raw)] = raw
        block[len(raw) :] = said

    parts["copying"] = _each(copy)
    parts["comparing with limits"] = _each(lambda: _passes(check, judged))
    parts["two readings of the clock"] = _each(lambda: (time.perf_counter_ns(), time.perf_counter_ns()))

    def take_turn() -> None:
        lock.acquire()
        lock.release()

    parts["locking"] = _each(take_turn)
    return parts


def _passes(check: RowCheck, judged: bytes) -> bool:
    return check.passes(judged)


def _each(work: Callable[[], object]) -> float:
    """Microseconds of one, without what calling it takes."""

    def loop(what: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(CHUNK):
                what()

        return run

    return max(0.0, (least_us(loop(work)) - least_us(loop(lambda: None))) / CHUNK)


def pass_parts(guard: Guard, block: Block) -> dict[str, float]:
    """Microseconds a row of a block's pass, by part."""
    probes, accumulator = guard.recorder._probes, guard.recorder._accumulator
    values, codes = probes.extract(block)
    placed = probes._placed(block)
    parts: dict[str, float] = {}
    for probe in probes.probes:
        name = f"probe: {probe.kind.replace('_', ' ')}"
        parts[name] = parts.get(name, 0.0) + least_us(lambda probe=probe: probe.extract(placed), 40)  # type: ignore[misc]
    plain = least_us(lambda: accumulator.update(values), 40)
    parts["sketches and transition counts"] = plain
    if codes:
        parts["exact counts of codes"] = max(
            0.0, least_us(lambda: accumulator.update(values, codes), 40) - plain
        )
    return {name: spent / block.rows for name, spent in parts.items() if spent / block.rows >= 0.005}


def block_of(guard: Guard, rows: Sequence[NDArray[Any]]) -> Block:
    """A block as the guard hands it to its probes."""
    seen: list[Block] = []
    sketch = guard.recorder._sketch

    def keep(block: Block) -> None:
        seen.append(block)
        sketch(block)

    guard.recorder._sketch = keep  # type: ignore[method-assign]  # a benchmark's probe
    guard.recorder.flush()
    quick = guard._quick
    assert quick is not None
    for number in range(quick.layout.capacity - 1):
        guard.run(rows[number % len(rows)])
    guard.recorder.flush()
    guard.recorder._sketch = sketch  # type: ignore[method-assign]  # as it was
    return seen[-1]
