"""What a fleet costs: `python -m benchmarks.fleet.run --out build/bench_fleet.json`, about nine minutes.

Ingest through a real Mosquitto into SQLite and PostgreSQL (whose commits wait for the disk), with 1, 2 and 4
workers on one shared subscription, one window of 41 streams a message, every window answered; then the pages
with a hundred thousand devices and thirty days in the database.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.fleet.ingest import Run, measure
from benchmarks.fleet.pages import measure as measure_pages
from benchmarks.fleet.pages import percentile
from benchmarks.fleet.seed import seed

from driftpost_aggregator.store.database import migrate, open_engine

FEW, MANY = 100, 100_000
# (database, workers, devices); the last two of a database with FEW and MANY devices give the ratio.
PLAN = (
    ("sqlite", 1, 1_000),
    ("sqlite", 2, 1_000),
    ("postgresql", 1, 1_000),
    ("postgresql", 2, 1_000),
    ("postgresql", 4, 1_000),
    ("postgresql", 2, FEW),
    ("postgresql", 2, MANY),
)
_COLUMNS = ("database", "workers", "devices", "windows/s", "on 2 cores", "workers us", "broker us")
_HEADER = "| " + " | ".join((*_COLUMNS, "database us", "bytes", "MB")) + " |"


def line(run: Run) -> str:
    """A row of the table."""
    cpu = {part: 1e6 * used / run.windows for part, used in run.cpu.items()}
    # SQLite's work is done within the workers.
    database = "in workers" if run.database == "sqlite" else f"{cpu['database']:.0f}"
    return (
        f"| {run.database} | {run.workers} | {run.devices:,} | {run.rate:,.0f} | {2e6 / run.cpu_us:,.0f} "
        f"| {cpu['workers']:.0f} | {cpu['broker']:.0f} | {database} | {run.bytes_per_window:,.0f} "
        f"| {run.memory_mb:.0f} |"
    )


def best(runs: list[Run], database: str) -> Run:
    """The fastest run of a database."""
    return max((run for run in runs if run.database == database), key=lambda run: run.rate)


def results(runs: list[Run]) -> list[dict[str, object]]:
    """Named numbers of the ingest runs."""
    found: list[dict[str, object]] = []
    for database in ("sqlite", "postgresql"):
        run = best(runs, database)
        found += [
            {"name": f"ingest.{database}.windows_per_s", "value": round(run.rate), "unit": "windows/s"},
            {"name": f"ingest.{database}.cpu_us_per_window", "value": round(run.cpu_us), "unit": "us"},
            {
                "name": f"ingest.{database}.windows_per_s_of_two_cores",
                "value": round(2e6 / run.cpu_us),
                "unit": "windows/s",
            },
            {
                "name": f"ingest.{database}.bytes_per_window",
                "value": round(run.bytes_per_window),
                "unit": "bytes",
            },
            {"name": f"ingest.{database}.memory_mb", "value": round(run.memory_mb), "unit": "MB"},
        ]
    cost = {run.devices: run.cpu_us for run in runs if run.database == "postgresql" and run.workers == 2}
    if FEW in cost and MANY in cost:
        ratio = round(cost[MANY] / cost[FEW], 3)
        found.append({"name": "ingest.cost_ratio_100_to_100k", "value": ratio, "unit": "ratio"})
    return found


def pages(devices: int) -> list[dict[str, object]]:
    """Seed a database, measure every page, print the slowest."""
    with tempfile.TemporaryDirectory(prefix="bench-pages-") as folder:
        engine = open_engine(f"sqlite:///{Path(folder) / 'fleet.db'}")
        try:
            migrate(engine)
            began = time.monotonic()
            fleet = seed(engine, devices)
            print(f"\n{devices:,} devices in the database after {time.monotonic() - began:.0f} s", flush=True)
            found = measure_pages(engine, fleet)
        finally:
            engine.dispose()
    print("\n| page | median ms | p95 ms |\n| --- | --- | --- |")
    for one in found[:12]:
        address = one.address.replace(fleet.describe.bundle, "BUNDLE")
        print(f"| `{address}` | {one.median_ms:.0f} | {one.p95_ms:.0f} |")
    every = [taken for one in found for taken in one.times_ms]
    api = [taken for one in found for taken in one.times_ms if one.address.startswith("/api/")]
    slowest = max(percentile(one.times_ms, 0.5) for one in found)
    return [
        {"name": "dashboard.p95_ms", "value": round(percentile(every, 0.95), 1), "unit": "ms"},
        {"name": "api.p95_ms", "value": round(percentile(api, 0.95), 1), "unit": "ms"},
        {"name": "dashboard.slowest_median_ms", "value": round(slowest, 1), "unit": "ms"},
        {"name": "dashboard.devices", "value": devices, "unit": "devices"},
    ]


def main() -> int:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=25_000, help="that each run commits")
    parser.add_argument("--devices", type=int, default=MANY, help="while pages are measured")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--no-pages", action="store_true")
    given = parser.parse_args()
    runs: list[Run] = []
    print(f"{_HEADER}\n{'| --- ' * 10}|", flush=True)
    for database, workers, devices in PLAN:
        runs.append(measure(database, workers=workers, devices=devices, windows=given.windows))
        print(line(runs[-1]), flush=True)
    found = results(runs)
    if not given.no_pages:
        found += pages(given.devices)
    print()
    for one in found:
        print(f"{one['name']:48} {one['value']:>10} {one['unit']}")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
