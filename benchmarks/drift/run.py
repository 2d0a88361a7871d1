"""The drift benchmark: false alarms and delays of driftpost and others, as tables and as JSON."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import click
from benchmarks.drift import class_prior, joint, product, table
from benchmarks.drift.cost import costs
from benchmarks.drift.peers import TRIALS_PER_DEVICE
from benchmarks.drift.streams import DELAY_SOURCES, SOURCES

STRICT = 1  # false alarms per 1,000 device-days at which delays are measured
# In the comparison everyone is tuned to one false alarm a device-day at most: few days suffice to measure it.
COMPARED = tuple(round(100_000 / 1.2**k) for k in range(30))
PEER_SOURCES = ("iid", "ar5", "ar9")
PARTS = ("null", "delay", "joint", "joint_null", "class_prior", "peers", "cost")


@dataclass(frozen=True)
class Size:
    """How much is measured: devices and days each for false alarms, changes, and the others' quiet days."""

    devices: int
    days: int
    trials: int
    peer_days: int


FULL = Size(devices=100, days=10, trials=60, peer_days=10)
QUICK = Size(devices=4, days=10, trials=10, peer_days=5)


class Benchmark:
    """One run; results gather in `metrics` while tables are printed."""

    def __init__(self, seed: int, size: Size, pool: ProcessPoolExecutor) -> None:
        self.seed, self.size, self._pool = seed, size, pool
        self.metrics: list[dict[str, object]] = []

    def false_alarms(self, sources: Sequence[str]) -> None:
        """Counts alarms of driftpost on these kinds of streams while nothing changes."""
        days = self.size.devices * self.size.days
        counts: dict[str, dict[int, int]] = {}
        warned: dict[str, dict[int, int]] = {}
        for source in sources:
            found = self._devices(
                product.false_alarms, source, self.size.devices, self.size.days, *product.BUDGETS
            )
            counts[source] = {b: sum(one[b] for one in found) for b in product.BUDGETS}
            warned[source] = {b: len(product.too_short(self.seed, source, 0, b)) for b in product.BUDGETS}
            for b, count in counts[source].items():
                self._metric(f"fa.{source}.{b}", 1000 * count / days, "alarms per 1,000 device-days")
                bound = table.upper_bound(count, days / 1000)
                self._metric(f"fa_upper95.{source}.{b}", bound, "alarms per 1,000 device-days")
            _say(f"{source}: {counts[source]}")
        self._metric("fa.device_days", days, "device-days of each kind of stream")
        print(f"\nFalse alarms per 1,000 device-days, {days} device-days of each kind of stream\n")
        print(table.false_alarm_table(counts, days, warned))

    def delays(self, sources: Sequence[str]) -> None:
        """Measures how soon driftpost finds changes, at the strict budget."""
        found = {source: self._delays(source, STRICT) for source in sources}
        for source, changes in found.items():
            for change, rows in changes.items():
                self._metric(f"delay.{source}.{change}", table.median(rows), "rows")
        print(f"\nDelay in rows, median / 90th percentile of {self.size.trials} changes, "
              f"at a budget of {STRICT} per 1,000 device-days (target: met or missed)\n")  # fmt: skip
        print(table.delay_table(found))

    def class_priors(self, sources: Sequence[str]) -> None:
        """Measures how soon another mix of classes is found, and whether it is called so."""
        print(f"\nAnother mix of classes: delay in rows, median / 90th percentile of {self.size.trials}, "
              f"at a budget of {STRICT} per 1,000 device-days\n")  # fmt: skip
        print("| classes | delay | called label shift |\n| --- | --- | --- |")
        jobs = self._pool.map(class_prior.delays, repeat(self.seed), sources, repeat(self.size.trials))
        for source, (rows, called) in zip(sources, jobs, strict=True):
            self._metric(f"delay.{source}.class_prior", table.median(rows), "rows")
            self._metric(f"called.{source}.class_prior", called, "share of alarms")
            upper = sorted(rows)[min(math.ceil(0.9 * len(rows)), len(rows)) - 1]
            print(f"| {source} | {table.median(rows):,.0f} / {upper:,.0f} | {called:.0%} |")

    def joint(self) -> None:
        """Measures how soon a change that no single stream shows is found, beside others."""
        devices, trials = max(2, self.size.devices // 10), max(5, self.size.trials // 4)
        words = joint.compare(
            self.seed, devices, self.size.peer_days, trials, pool=self._pool, metric=self._metric
        )
        print(
            "\nOne of thirty streams turns round: delay in rows, median / 90th percentile of "
            f"{devices * trials} changes\n"
        )
        print(words)

    def joint_null(self) -> None:
        """Counts alarms on streams that hang together, while nothing changes."""
        devices = max(2, 3 * self.size.devices // 10)
        words = joint.false_alarms(self.seed, devices, self.size.days, pool=self._pool, metric=self._metric)
        print(
            f"\nAlarms on thirty streams with common factors, {devices * self.size.days} device-days each\n"
        )
        print(words)

    def cost(self) -> None:
        """Measures what the detectors take of a device."""
        print("\nCost on this machine\n\n| what | measured | unit |\n| --- | --- | --- |")
        for name, (value, unit) in costs(self.seed).items():
            self._metric(name, value, unit)
            print(f"| `{name}` | {value:.3g} | {unit} |")

    def peers(self, python: Path, sources: Sequence[str]) -> None:
        """Measures the others beside driftpost, each at about one false alarm a device-day."""
        for source in sources:
            command = [str(python), "-m", "benchmarks.drift.peers", str(self.seed), source,
                       str(self.size.peer_days), str(self.size.trials)]  # fmt: skip
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            budget, raised = self._tuned(source)
            words = f"{1000 * raised / self.size.peer_days:,.0f} (budget {budget:,})"
            columns: dict[str, tuple[str, dict[str, list[float]]]] = {
                "driftpost": (words, self._delays(source, budget))
            }
            for change, rows in columns["driftpost"][1].items():
                self._metric(f"peer_delay.{source}.{change}.driftpost", table.median(rows), "rows")
            usual = []
            for name, result in json.loads(done.stdout).items():
                rate = 1000 * result["usual"] / result["device_days"]
                usual.append(f"{name} {rate:,.0f}")
                self._metric(f"peer_fa.{source}.{name}", rate, "alarms per 1,000 device-days")
                words, delays = f"not tuned (usual: {rate:,.0f})", {}
                if result["tuned"] is not None:
                    tuned = 1000 * result["tuned_alarms"] / result["device_days"]
                    words = f"{tuned:,.0f} (setting {result['tuned']:.2g})"
                    delays = {
                        change: [float("inf") if row is None else row for row in rows]
                        for change, rows in result["delays"].items()
                    }
                columns[name] = words, delays
                for change, rows in delays.items():
                    self._metric(f"peer_delay.{source}.{change}.{name}", table.median(rows), "rows")
            print(f"\n{SOURCES[source].words}: everyone tuned to at most one false alarm a device-day, "
                  f"measured on {self.size.peer_days} device-days\n")  # fmt: skip
            print(table.peer_table(columns))
            print(f"\nAt their usual settings, false alarms per 1,000 device-days: {'; '.join(usual)}.")

    def _tuned(self, source: str) -> tuple[int, int]:
        """The laxest budget at which driftpost raised at most one false alarm a device-day, and how many."""
        days = self.size.peer_days
        counts: dict[int, int] = {}

        def quiet(budget: int) -> bool:
            counts[budget] = product.false_alarms(self.seed, source, 0, days, budget)[budget]
            return counts[budget] <= days

        budget = COMPARED[min(bisect_left(COMPARED, True, key=quiet), len(COMPARED) - 1)]
        return budget, counts[budget]

    def _delays(self, source: str, budget: int) -> dict[str, list[float]]:
        devices = -(-self.size.trials // TRIALS_PER_DEVICE)
        parts = self._devices(product.delays, source, devices, budget, TRIALS_PER_DEVICE)
        _say(f"{source}: delays at {budget}")
        return {change: [row for part in parts for row in part[change]] for change in parts[0]}

    def _devices(self, task: Callable[..., Any], source: str, devices: int, *more: int) -> list[Any]:
        fixed: Sequence[repeat[Any]] = [repeat(word) for word in more]
        return list(self._pool.map(task, repeat(self.seed), repeat(source), range(devices), *fixed))

    def _metric(self, name: str, value: float, unit: str) -> None:
        self.metrics.append({"name": name, "value": value, "unit": unit})


def _say(words: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {words}", err=True)


@click.command()
@click.option("--seed", type=int, required=True, help="Of all random numbers; take one that nobody tuned on.")
@click.option("--quick", is_flag=True, help="Minutes instead of an hour: far fewer device-days and changes.")
@click.option("--processes", type=int, default=os.cpu_count() or 1, show_default=True)
@click.option("--peers-python", type=click.Path(path_type=Path, exists=True),
              help="Runs the other detectors (River's if it has River).")  # fmt: skip
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS,
              help="Measure only this (may be repeated).")  # fmt: skip
@click.option("--devices", type=click.IntRange(min=1), help="On which false alarms are counted.")
@click.option("--trials", type=click.IntRange(min=1), help="Changes of each kind whose delay is measured.")
@click.option("--source", "sources", type=click.Choice(list(SOURCES)), multiple=True, default=list(SOURCES),
              help="Only with this kind of stream (may be repeated).")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON list of results.")
def main(
    *, seed: int, quick: bool, processes: int, peers_python: Path | None, parts: Sequence[str],
    devices: int | None, trials: int | None, sources: Sequence[str], out: Path,
) -> None:  # fmt: skip
    """Measures false alarms and detection delays and prints them as Markdown tables."""
    started = time.monotonic()
    size = QUICK if quick else FULL
    size = replace(size, devices=devices or size.devices, trials=trials or size.trials)
    with ProcessPoolExecutor(processes) as pool:
        benchmark = Benchmark(seed, size, pool)
        if "null" in parts:
            benchmark.false_alarms(sources)
        if "delay" in parts:
            benchmark.delays([source for source in sources if source in DELAY_SOURCES])
        if "class_prior" in parts:
            benchmark.class_priors([source for source in sources if source in class_prior.STAYING])
        if "joint" in parts:
            benchmark.joint()
        if "joint_null" in parts:
            benchmark.joint_null()
        if "cost" in parts:
            benchmark.cost()
        if "peers" in parts and peers_python is not None:
            benchmark.peers(peers_python, [source for source in sources if source in PEER_SOURCES])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(benchmark.metrics, indent=1) + "\n", encoding="utf-8")
    minutes = (time.monotonic() - started) / 60
    print(f"\nSeed {seed}, {minutes:.0f} minutes in {processes} process(es); every number is in {out}.")


if __name__ == "__main__":
    main()
