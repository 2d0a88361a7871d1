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
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import click
from benchmarks.drift import class_prior, joint, oracle, product, table
from benchmarks.drift.changes import WORDS
from benchmarks.drift.cost import costs
from benchmarks.drift.parts import Parts
from benchmarks.drift.peers import TRIALS_PER_DEVICE
from benchmarks.drift.screen import surely_silent
from benchmarks.drift.streams import DELAY_SOURCES, SOURCES

STRICT = 1  # false alarms per 1,000 device-days at which delays are measured
# In the comparison driftpost is loosened as the others are: the laxest of these at which it raised no more.
PEER_SOURCES = tuple(name for name in DELAY_SOURCES if not SOURCES[name].seasonal)
QUICK_PEERS = ("iid", "ar5", "garch")
COMPARED = tuple(dict.fromkeys(round(product.BUDGETS[0] / 1.2**k) for k in range(40)))
PARTS = ("null", "delay", "joint", "joint_null", "class_prior", "peers", "cost")
MORE_TRIALS = ("iid", "ar5", "ar9")  # whose delays have targets


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        devices: on which false alarms are counted, where the promise is tightest (`MANY_DEVICES`).
        others: on which they are counted for the other kinds of streams.
        days: device-days of each, without a break.
        trials: changes of each kind, for the kinds of streams in `MORE_TRIALS`.
        fewer: changes of each kind for the others.
    """

    devices: int
    others: int
    days: int
    trials: int
    fewer: int


FULL = Size(devices=100, others=100, days=10, trials=60, fewer=30)
QUICK = Size(devices=3, others=2, days=10, trials=10, fewer=5)
MANY_DEVICES = ("iid", "ar5")
JOINT_DAYS = 5  # quiet ones, on which the others of the joint test find their thresholds
LATER = 1  # added to the seed of quiet days: that of changes


class Benchmark:
    """One run; results gather in `metrics` while tables are printed."""

    def __init__(self, seed: int, size: Size, pool: ProcessPoolExecutor, parts: Parts) -> None:
        self.seed, self.size, self._pool, self._parts = seed, size, pool, parts
        self.metrics: list[dict[str, object]] = []

    def false_alarms(self, sources: Sequence[str]) -> None:
        """Counts alarms of driftpost on these kinds of streams while nothing changes."""
        counts: dict[str, dict[int, int]] = {}
        days: dict[str, int] = {}
        warned: dict[str, dict[int, int]] = {}
        for source in sources:
            found = self._quiet(source)
            days[source] = len(found) * self.size.days
            counts[source] = {b: sum(one.raised[b] for one in found) for b in product.BUDGETS}
            warned[source] = {b: len(product.too_short(self.seed, source, 0, b)) for b in product.BUDGETS}
            for b, count in counts[source].items():
                self._metric(f"fa.{source}.{b}", 1000 * count / days[source], "alarms per 1,000 device-days")
                bound = table.upper_bound(count, days[source] / 1000)
                self._metric(f"fa_upper95.{source}.{b}", bound, "alarms per 1,000 device-days")
            self._metric(f"fa_days.{source}", days[source], "device-days")
            _say(f"{source}: {counts[source]} alarms in {days[source]} device-days")
        print("\nFalse alarms per 1,000 device-days\n")
        print(table.false_alarm_table(counts, days, warned), flush=True)

    def delays(self, sources: Sequence[str]) -> None:
        """Measures how soon driftpost finds changes, at the strict budget."""
        found = {source: self._delays(source, STRICT) for source in sources}
        for source, changes in found.items():
            for change, rows in changes.items():
                self._metric(f"delay.{source}.{change}", table.quantile(rows, 0.5), "rows")
                self._metric(f"delay_p90.{source}.{change}", table.quantile(rows, 0.9), "rows")
        print(f"\nDelay in rows, median / 90th percentile of {self.size.trials} changes "
              f"({', '.join(MORE_TRIALS)}; {self.size.fewer} for the others), "
              f"at a budget of {STRICT} per 1,000 device-days (target: met or missed)\n")  # fmt: skip
        print(table.delay_table(found), flush=True)
        if "garch" in found:
            best = self._part("oracle", partial(oracle.garch_delays, self.seed + LATER, STRICT))
            words = "; ".join(f"{WORDS[c]} {table.rows_in_words(rows)}" for c, rows in best.items())
            for change, rows in best.items():
                self._metric(f"oracle_delay.garch.{change}", table.quantile(rows, 0.5), "rows")
            print(f"\nOne who knows a GARCH stream's parameters, the factor and the moment needs: {words}.")

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
        print("\nError of estimated class shares, in points (root mean square of six classes, 100 worlds)\n")
        print("| labelled / live rows, scores | counts of answers | their 95 % intervals hold | EM on scores "
              "| EM on calibrated scores |\n| --- | --- | --- | --- | --- |")  # fmt: skip
        for labelled, live, sharpness in ((500, 300, 1), (500, 300, 3), (3_000, 1_000, 1), (3_000, 1_000, 3)):
            found = class_prior.estimators(self.seed, labelled, live, sharpness)
            words = "calibrated" if sharpness == 1 else "overconfident"
            print(f"| {labelled:,} / {live:,}, {words} | {100 * found.counts:.1f} | {found.held:.0%} | "
                  f"{100 * found.scores:.1f} | {100 * found.calibrated:.1f} |")  # fmt: skip
            for name in ("counts", "held", "scores", "calibrated"):
                unit = "share of intervals" if name == "held" else "root mean square of shares"
                self._metric(f"class_shares.{labelled}.{live}.{words}.{name}", getattr(found, name), unit)

    def joint(self) -> None:
        """Measures how soon a change that no single stream shows is found, beside others."""
        devices, trials = max(2, self.size.devices // 10), max(5, self.size.trials // 4)
        words = joint.compare(self.seed, devices, JOINT_DAYS, trials, pool=self._pool, metric=self._metric)
        print(
            "\nOne of thirty streams turns round: delay in rows, median / 90th percentile of "
            f"{devices * trials} changes\n"
        )
        print(words)

    def joint_null(self, sources: Sequence[str]) -> None:
        """Counts alarms on streams that hang together, while nothing changes."""
        devices = max(2, 3 * self.size.devices // 10)
        print(
            f"\nAlarms on thirty streams with common factors, {devices * self.size.days} device-days each\n"
        )
        words = joint.false_alarms(
            self.seed, sources, devices, self.size.days, pool=self._pool, metric=self._metric
        )
        print(words)

    def cost(self) -> None:
        """Measures what the detectors take of a device."""
        print("\nCost on this machine\n\n| what | measured | unit |\n| --- | --- | --- |")
        for name, (value, unit) in costs(self.seed).items():
            self._metric(name, value, unit)
            print(f"| `{name}` | {value:.3g} | {unit} |")

    def peers(self, python: Path, sources: Sequence[str]) -> None:
        """Measures the others beside driftpost, all at equally few false alarms on the same quiet days."""
        for source in sources:
            asked = [str(self.seed), source, str(self._devices_of(source)), str(self.size.days),
                     str(self.seed + LATER), str(self._trials_of(source))]  # fmt: skip
            others = self._part(f"peers-{source}", partial(_ask_others, python, asked), python=str(python))
            days = self._devices_of(source) * self.size.days
            most = days // 1000
            budget, raised = self._tuned(source, most)
            mine = table.Column(f"budget {budget:,}", raised, days, self._delays(source, budget))
            columns = {"driftpost": mine}
            usual = []
            for name, result in others.items():
                rate = 1000 * result["usual"] / result["usual_days"]
                usual.append(f"{name} {rate:,.0f}")
                self._metric(f"peer_fa.{source}.{name}", rate, "alarms per 1,000 device-days")
                delays = {
                    change: [math.inf if row is None else row for row in rows]
                    for change, rows in result["delays"].items()
                }
                columns[name] = table.Column(result["words"], result["raised"], result["device_days"], delays)
            for name, column in columns.items():
                for change, rows in column.delays.items():
                    self._metric(f"peer_delay.{source}.{change}.{name}", table.quantile(rows, 0.5), "rows")
            print(f"\n{SOURCES[source].words} (`{source}`): everyone at the laxest setting with at most one "
                  "false alarm in 1,000 quiet device-days (none where there are fewer); delays in rows, "
                  f"median / 90th percentile of {self._trials_of(source)}\n")  # fmt: skip
            print(table.peer_table(columns))
            for name, lines in table.sooner(columns).items():
                self._metric(f"peer_sooner.{source}.{name}", len(lines), "lines of nine")
                if lines:
                    print(f"\n{name} is sooner than driftpost on: {', '.join(lines)}.")
            print(f"\nAt their usual settings, false alarms per 1,000 device-days: {'; '.join(usual)}.",
                  flush=True)  # fmt: skip

    def _tuned(self, source: str, most: int) -> tuple[int, int]:
        """The laxest budget at which driftpost raised at most so many false alarms, and how many."""
        peaks = [one.peak for one in self._quiet(source)]
        counts: dict[int, int] = {}

        def quiet(budget: int) -> bool:
            loud = [
                d for d, peak in enumerate(peaks) if not surely_silent(peak, product.log_threshold(budget))
            ]
            if len(loud) > 4 * (most + 2):
                return False  # nearly every one of them has an alarm
            asked = [(self.seed, source, d, self.size.days, budget) for d in loud]
            counts[budget] = sum(
                one[budget] for one in self._pool.map(product.false_alarms, *_columns(asked))
            )
            return counts[budget] <= most

        at = min(bisect_left(COMPARED, True, key=quiet), len(COMPARED) - 1)
        if COMPARED[at] not in counts:
            quiet(COMPARED[at])
        _say(f"{source}: driftpost compared at a budget of {COMPARED[at]}")
        return COMPARED[at], counts[COMPARED[at]]

    def _quiet(self, source: str) -> list[product.Quiet]:
        """Every device's quiet days; measured once in a run."""

        def measure() -> list[Any]:
            devices = self._devices_of(source)
            return self._each(f"{source}: quiet days", product.watch_quietly, [
                (self.seed, source, device, self.size.days, *product.BUDGETS) for device in range(devices)
            ])  # fmt: skip

        found = self._part(f"null-{source}", measure)
        return [product.Quiet({int(b): n for b, n in raised.items()}, peak) for raised, peak in found]

    def _delays(self, source: str, budget: int) -> dict[str, list[float]]:
        def measure() -> dict[str, list[float | None]]:
            devices = -(-self._trials_of(source) // TRIALS_PER_DEVICE)
            asked = [(self.seed + LATER, source, d, budget, TRIALS_PER_DEVICE) for d in range(devices)]
            parts = self._each(f"{source}: changes at a budget of {budget}", product.delays, asked)
            return {
                change: [row if math.isfinite(row) else None for part in parts for row in part[change]]
                for change in parts[0]
            }

        found = self._part(f"delay-{source}-{budget}", measure)
        return {change: [math.inf if row is None else row for row in rows] for change, rows in found.items()}

    def _each(self, words: str, task: Callable[..., Any], asked: Sequence[tuple[Any, ...]]) -> list[Any]:
        """One task for each device, over all processes, with a word now and then."""
        found = []
        started = time.monotonic()
        for done, one in enumerate(self._pool.map(task, *_columns(asked)), start=1):
            found.append(one)
            if done % max(1, len(asked) // 5) == 0:
                left = (time.monotonic() - started) / done * (len(asked) - done) / 60
                _say(f"{words}: {done} of {len(asked)} devices, {left:.0f} minutes left of this part")
        return found

    def _part(self, name: str, measure: Callable[[], Any], **more: object) -> Any:
        found, kept = self._parts.get(name, measure, seed=self.seed, size=asdict(self.size), **more)
        if kept:
            _say(f"{name}: was measured before")
        return found

    def _devices_of(self, source: str) -> int:
        return self.size.devices if source in MANY_DEVICES else self.size.others

    def _trials_of(self, source: str) -> int:
        return self.size.trials if source in MORE_TRIALS else self.size.fewer

    def _metric(self, name: str, value: float, unit: str) -> None:
        self.metrics.append({"name": name, "value": value, "unit": unit})


def _columns(asked: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return list(zip(*asked, strict=True)) or [()]


def _ask_others(python: Path, asked: Sequence[str]) -> Any:
    command = [str(python), "-m", "benchmarks.drift.peers", *asked]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


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
@click.option("--others", type=click.IntRange(min=1), help="The same for streams other than iid and ar5.")
@click.option("--trials", type=click.IntRange(min=1), help="Changes of each kind whose delay is measured.")
@click.option("--fewer", type=click.IntRange(min=1), help="The same for streams other than iid, ar5 and ar9.")
@click.option("--source", "sources", type=click.Choice(list(SOURCES)), multiple=True, default=list(SOURCES),
              help="Only with this kind of stream (may be repeated).")  # fmt: skip
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False),
              help="Directory of finished parts: a run that is interrupted goes on from them.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON list of results.")
def main(
    *, seed: int, quick: bool, processes: int, peers_python: Path | None, parts: Sequence[str],
    devices: int | None, others: int | None, trials: int | None, fewer: int | None, sources: Sequence[str],
    keep: Path | None, out: Path,
) -> None:  # fmt: skip
    """Measures false alarms and detection delays and prints them as Markdown tables."""
    started = time.monotonic()
    size = QUICK if quick else FULL
    size = replace(
        size, devices=devices or size.devices, others=others or size.others, trials=trials or size.trials,
        fewer=fewer or size.fewer,
    )  # fmt: skip
    print(f"Seed {seed} for quiet days, {seed + LATER} for changes; {words_of(size)}", flush=True)
    with ProcessPoolExecutor(processes) as pool:
        benchmark = Benchmark(seed, size, pool, Parts(keep))
        if "delay" in parts:
            benchmark.delays([source for source in sources if source in DELAY_SOURCES])
        if "null" in parts:
            benchmark.false_alarms(sources)
        if "peers" in parts and peers_python is not None:
            compared = QUICK_PEERS if quick else PEER_SOURCES
            benchmark.peers(peers_python, [source for source in sources if source in compared])
        if "class_prior" in parts:
            benchmark.class_priors([source for source in sources if source in class_prior.STAYING])
        if "joint" in parts:
            benchmark.joint()
        if "joint_null" in parts:
            benchmark.joint_null([source for source in sources if source in joint.NULL_SOURCES])
        if "cost" in parts:
            benchmark.cost()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(benchmark.metrics, indent=1) + "\n", encoding="utf-8")
    minutes = (time.monotonic() - started) / 60
    load = os.getloadavg()[2]
    print(f"\nSeed {seed}, {minutes:.0f} minutes in {processes} process(es), load {load:.1f} at the end; "
          f"every number is in {out}.")  # fmt: skip


def words_of(size: Size) -> str:
    """What a run measures, in words."""
    return (
        f"{size.devices} devices of {' and '.join(MANY_DEVICES)}, {size.others} of every other kind, "
        f"{size.days} device-days each; {size.trials} changes of each kind on {', '.join(MORE_TRIALS)}, "
        f"{size.fewer} elsewhere"
    )


if __name__ == "__main__":
    main()
