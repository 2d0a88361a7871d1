"""The device benchmark: what the guard costs beside the bare runtime, the floor and other libraries."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import click
import numpy as np
import onnxruntime
from benchmarks.device import models
from benchmarks.device.environments import environment
from benchmarks.device.floor import CodesObserver, ImageObserver, NumpyObserver, Observer, observed
from benchmarks.device.models import CASES, Case
from benchmarks.device.parts import block_of, call_parts, pass_parts
from benchmarks.device.peers import PEERS
from benchmarks.device.timing import Measured, side_by_side
from numpy.typing import NDArray

from driftpost_agent.block_buffer import MAX_ROWS
from driftpost_agent.guard import Guard
from driftpost_models.build import build_bundle
from driftpost_models.bundle import Bundle
from driftpost_models.probes.block import Block
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.schema import Schema, Stream

STREAMS = 41
FEATURES_41 = 35  # and class, confidence, margin, entropy, latency, verdict
PEER_S = 60.0
HERE = Path(__file__).parent


class Benchmark:
    """One run; results gather in `metrics` while tables are printed."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder, self.rounds = folder, rounds
        self.metrics: list[dict[str, object]] = []

    def add(self, name: str, value: float, unit: str) -> None:
        """Note one number."""
        self.metrics.append({"name": name, "value": round(value, 4), "unit": unit})

    def bundle(self, name: str, build: Callable[[Path], None], rows: models.Rows, count: int) -> Bundle:
        """Build a model and its bundle."""
        model, reference = self.folder / f"{name}.onnx", self.folder / f"{name}.npy"
        build(model)
        np.save(reference, rows(count, 7))
        config = self.folder / f"{name}.toml"
        output = _session(model).get_outputs()[0].name
        config.write_text(f'[probes.outputs."{output}"]\nas = "classification"\n', encoding="utf-8")
        path = self.folder / f"{name}.bundle"
        return build_bundle(model, reference, path, name=name, version="1", config=config).bundle

    def case(self, case: Case) -> None:
        """One model: bare, floor, guard in line and with its own thread."""
        bundle = self.bundle(case.name, case.build, case.rows, case.reference_rows)
        session = _session(self.folder / f"{case.name}.onnx")
        given, answers = session.get_inputs()[0].name, [session.get_outputs()[0].name]

        def bare(row: NDArray[Any]) -> NDArray[Any]:
            answer: NDArray[Any] = session.run(answers, {given: row})[0]
            return answer

        rows = list(case.rows(4096 if case.calls > 4096 else 64, 9)[:, np.newaxis])
        ways: dict[str, Callable[[NDArray[Any]], object]] = {"bare runtime": bare}
        ways["plain-numpy floor"] = observed(bare, self._floor(case, rows[0]))
        inline = Guard(bundle, store=self.folder / f"{case.name}.db", threaded=False)
        threaded = Guard(bundle, store=self.folder / f"{case.name}-threaded.db")
        ways["guard"] = inline.run
        ways["guard, own thread"] = threaded.run
        try:
            found = side_by_side(ways, rows, calls=case.calls, rounds=self.rounds)
            statuses = inline.meter.read().statuses
        finally:
            inline.close()
            threaded.close()
        assert sum(statuses.values()) == statuses["ok"], (
            f"{case.name} is to be fed with ordinary rows: {statuses}"
        )
        self._report(case, found)

    def _floor(self, case: Case, row: NDArray[Any]) -> Observer:
        if row.ndim > 2:
            return ImageObserver(row.shape[1:])
        if row.dtype == np.int8:
            return CodesObserver(models.FEATURES, models.CLASSES)
        return NumpyObserver(np.load(self.folder / f"{case.name}.npy"), models.CLASSES)

    def profile(self, case: Case) -> None:
        """Where the time of calls and passes goes."""
        bundle = Bundle.open(self.folder / f"{case.name}.bundle", None)
        rows = list(case.rows(4096 if case.calls > 4096 else 64, 9)[:, np.newaxis])
        with Guard(bundle, threaded=False) as guard:
            block = block_of(guard, rows)
            print(f"\n{case.title}: where the time goes\n\n| of a call | us |\n| --- | --- |")
            for part, spent in call_parts(guard, rows).items():
                print(f"| {part} | {spent:.2f} |")
            print(f"\n| of a pass over {block.rows:,} rows | us a row |\n| --- | --- |")
            for part, spent in pass_parts(guard, block).items():
                print(f"| {part} | {spent:.2f} |")

    def _report(self, case: Case, found: dict[str, Measured]) -> None:
        bare = found["bare runtime"]
        print(f"\n{case.title}\n")
        print("| way | CPU a call, us | over bare, us | over bare | p50, us | p99, us |")
        print("| --- | --- | --- | --- | --- | --- |")
        for way, one in found.items():
            over = one.over(bare)
            print(
                f"| {way} | {one.cpu:,.2f} | {over:,.2f} | {over / bare.cpu:.1%} |"
                f" {one.percentile(0.5):,.2f} | {one.percentile(0.99):,.2f} |"
            )
        over = found["guard"].over(bare)
        name = f"guard.{case.name}"
        self.add(f"{name}.overhead_us", over, "us")
        self.add(f"{name}.overhead_pct", 100 * over / bare.cpu, "%")
        self.add(f"{name}.bare_us", bare.cpu, "us")
        for label, way in (("", "guard"), ("threaded_", "guard, own thread")):
            self.add(f"{name}.{label}p50_over_us", found[way].percentile(0.5) - bare.percentile(0.5), "us")
            self.add(f"{name}.{label}p99_over_us", found[way].percentile(0.99) - bare.percentile(0.99), "us")
        floor = found["plain-numpy floor"].over(bare)
        self.add(f"floor.{case.name}.overhead_us", floor, "us")
        self.add(f"{name}.ratio_to_floor", over / floor, "x")
        print(f"\nThe guard adds {over / floor:.2f} times what the floor adds.")

    def parts(self) -> None:
        """What the streams, the detectors and a window of 41 streams cost by themselves."""
        bundle = self.bundle(
            "tabular35",
            lambda path: models.mlp(path, FEATURES_41),
            models.tabular_rows(FEATURES_41),
            20_000,
        )
        assert len(bundle.schema) == STREAMS
        session = _session(self.folder / "tabular35.onnx")
        rows = models.tabular_rows(FEATURES_41)(MAX_ROWS, 9)
        name = session.get_outputs()[0].name
        answers = np.concatenate([session.run([name], {"x": row[None]})[0] for row in rows])
        block = Block(
            {"x": rows}, {name: answers}, np.linspace(5, 6, len(rows)), np.zeros(len(rows), np.int64)
        )
        probes = bundle.probes.copy()
        values, codes = probes.extract(block)
        watched = WindowAccumulator(bundle.schema)
        quiet = WindowAccumulator(_unwatched(bundle.schema))
        probing = _best(lambda: probes.extract(block)) / len(rows)
        sketching = _best(lambda: quiet.update(values, codes)) / len(rows)
        counting = _best(lambda: watched.update(values, codes)) / len(rows) - sketching
        seconds = bundle.policy.window_seconds
        detector = DriftDetector(
            bundle.calibration, Budget.parse(bundle.policy.budget).log_threshold(seconds)
        )
        watched.take()
        for _ in range(1):
            watched.update(values)
        window, transitions = watched.take()
        stepping = _best(lambda: detector.step(transitions, window), 40)
        packing = _best(window.to_bytes, 100)
        print(f"\n{STREAMS} streams, a row in a block of 1,024\n")
        print("| part | us a row |\n| --- | --- |")
        print(f"| probes | {probing:.3f} |\n| sketches | {sketching:.3f} |")
        print(f"| transition counts for the detectors | {counting:.3f} |")
        share = stepping / window.rows
        print(f"| detectors, {stepping:,.0f} us a window of {window.rows:,} rows | {share:.3f} |")
        size = len(window.to_bytes())
        print(f"\nA window of {window.rows:,} rows is {size:,} bytes, packed in {packing:.0f} us.")
        self.add("guard.probes41_us", probing, "us")
        self.add("guard.sketches41_us", sketching, "us")
        self.add("detectors41.row_us", counting + share, "us")
        self.add("detectors41.window_us", stepping, "us")
        self.add("wire.window41_bytes", len(window.to_bytes()), "bytes")
        self.add("detectors41.state_bytes", len(detector.state_to_bytes()), "bytes")

    def memory(self) -> None:
        """Resident memory and import time, each in a fresh process."""
        found = {"bare": _program("bare", self.folder / "tabular35.onnx")}
        for way in ("guard", "agent_in_process", "agent"):
            found[way] = _program(
                "footprint", way, self.folder / "tabular35.bundle", self.folder / f"footprint-{way}"
            )
        bare = found["bare"]["mb"]
        print("\nMemory of all processes together, the MLP with 35 inputs\n")
        print("| way | MB | over bare |\n| --- | --- | --- |")
        titles = {
            "bare": "bare runtime",
            "guard": "guard in the application",
            "agent_in_process": "agent, model in its process",
            "agent": "agent, model in a process of its own",
        }
        for way, title in titles.items():
            print(f"| {title} | {found[way]['mb']:.1f} | {found[way]['mb'] - bare:+.1f} |")
        importing = found["guard"]["import_s"] * 1000
        print(f"\nImporting the guard takes {importing:.0f} ms of CPU beyond the runtime's.")
        self.add("guard.rss_over_bare_mb", found["guard"]["mb"] - bare, "MB")
        self.add("agent.rss_over_bare_mb", found["agent_in_process"]["mb"] - bare, "MB")
        self.add("agent.isolated_rss_over_bare_mb", found["agent"]["mb"] - bare, "MB")
        self.add("guard.import_ms", found["guard"]["import_s"] * 1000, "ms")

    def flash(self) -> None:
        """A day's writes."""
        place = self.folder / "flash"
        place.mkdir()
        found = _program("flash", self.folder / "tabular35.bundle", place)
        print(
            f"\nA day of {found['windows'] - 1} windows of {found['streams']} streams writes"
            f" {found['day_mb']:.2f} MB; a window is {found['window_bytes']:,.0f} bytes in the median,"
            f" the detectors' state {found['state_bytes']:,} bytes."
        )
        self.add("flash.day_mb", found["day_mb"], "MB")

    def peers(self, environments: Path) -> None:
        """The same rows through other libraries; one that can't be installed is left out with the reason."""
        ours = next(m["value"] for m in self.metrics if m["name"] == "guard.tabular30.overhead_us")
        print("\n30 float features a row\n")
        print("| library | us a row | times the guard | state |\n| --- | --- | --- | --- |")
        for name in PEERS:
            python, reason = environment(environments / name, HERE / "requirements" / f"{name}.txt")
            if python is None:
                print(f"| {name} | left out: {reason} | | |")
                continue
            try:
                done = subprocess.run(
                    [python, HERE / "peers.py", name],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=PEER_S,
                )
            except subprocess.TimeoutExpired:
                print(f"| {name} | left out: not done within {PEER_S:.0f} s | | |")
                continue
            if done.returncode:
                print(f"| {name} | left out: {done.stderr.strip().splitlines()[-1]} | | |")
                continue
            found = json.loads(done.stdout.strip().splitlines()[-1])
            state = f"{found['state_bytes']:,} bytes" if found["state_bytes"] else "-"
            times = found["us"] / float(str(ours))
            print(
                f"| {name} {found['version']}, {found['what']} | {found['us']:.2f} | {times:.1f} | {state} |"
            )
            self.add(f"peer.{name}.row_us", found["us"], "us")
            self.add(f"peer.{name}.times_guard", times, "x")


def _session(path: Path) -> Any:
    """One thread, no spinning: as the guard loads it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def _unwatched(schema: Schema) -> Schema:
    streams = [{**stream.to_dict(), "tracked": False} for stream in schema.streams]
    return Schema([Stream.from_dict(plain) for plain in streams])


def _best(work: Callable[[], object], rounds: int = 300) -> float:
    """Least microseconds of many rounds: what the work takes when nothing is in its way."""
    times = []
    for _ in range(rounds):
        before = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - before)
    return min(times) / 1000


def _program(name: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.device.{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"{name}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--rounds", default=15, help="Rounds in which the ways take turns.")
@click.option("--peers", type=click.Path(file_okay=False, path_type=Path), help="Environments of others.")
def main(out: Path, rounds: int, peers: Path | None) -> None:
    """Print the tables and write every number to OUT."""
    out.parent.mkdir(parents=True, exist_ok=True)
    # Findings are no news here: a model that is left out of a profile repeats its answer.
    logging.disable(logging.WARNING)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},"
        f" numpy {np.__version__}, onnxruntime {onnxruntime.__version__}, one thread"
    )
    # On a disk, not in memory: what is written counts.
    with tempfile.TemporaryDirectory(dir=out.parent.resolve()) as folder:
        benchmark = Benchmark(Path(folder), rounds)
        for case in CASES:
            benchmark.case(case)
            benchmark.profile(case)
        benchmark.parts()
        benchmark.memory()
        benchmark.flash()
        if peers is not None:
            benchmark.peers(peers)
    out.write_text(json.dumps(benchmark.metrics, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
