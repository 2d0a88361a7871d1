"""Which incidents come out of scripted fleets: `python -m benchmarks.triage.run --devices 1000 --seed 9321`.

Each script has its truths (`scripts.py`). Printed are precision (incidents whose scope is a true one's; of a
group, at least nine tenths of its devices and of those named), recall (truths that have such an incident),
the share of these whose kind is right, and the windows from the change to the incident.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.triage.fleet import WINDOW_MS, ScriptedFleet
from benchmarks.triage.scripts import ONSET, SCRIPTS, WINDOWS, Truth
from sqlalchemy import select

from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import migrate, open_engine, reading

# Share of a group's devices that must be named, and of those named that must be in it.
NAMED = 0.9


def is_about(row: Any, devices: set[str], truth: Truth) -> bool:
    """Whether an incident has the scope of a truth."""
    if row.scope != truth.scope:
        return False
    if truth.scope != "group":
        return bool(row.scope_key == truth.key)
    both = len(devices & truth.members)
    return both >= NAMED * len(truth.members) and both >= NAMED * len(devices)


def play(script: str, devices: int, seed: int, *, tell: bool = False) -> dict[str, float]:
    """One script; shares are NaN where there is nothing to judge them by."""
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(f"sqlite:///{Path(folder) / 'fleet.db'}")
        migrate(engine)
        plot, options = SCRIPTS[script]
        fleet = ScriptedFleet(engine, seed, **options)
        truths = plot(fleet, devices)
        for window in range(WINDOWS):
            fleet.play(window)
        parts = tables.incident_devices.c
        with reading(engine) as connection:
            rows = connection.execute(select(tables.incidents)).all()
            inside: dict[str, set[str]] = {}
            for part in connection.execute(select(parts.incident, parts.device)):
                inside.setdefault(part.incident, set()).add(part.device)
        engine.dispose()
    opened = [row for row in rows if row.state != "absorbed"]
    if tell:
        for row in opened:
            print(f"    {row.state} {row.scope} {row.scope_key} {row.kind}: {row.cause}", file=sys.stderr)
    pairs = [(row, truth) for row in opened for truth in truths if is_about(row, inside[row.incident], truth)]
    right = {row.incident for row, _ in pairs}
    found = {truth for _, truth in pairs}
    onset_ms = fleet.now_ms - 10_000 - (WINDOWS - ONSET) * WINDOW_MS
    delays = [(row.opened_ms - onset_ms) / WINDOW_MS for row, _ in pairs]
    wrong = [row for row in opened if row.incident not in right]
    return {
        "truths": len(truths),
        "incidents": len(opened),
        "wide": sum(row.scope != "device" for row in wrong),
        "precision": len(right) / len(opened) if opened else float("nan"),
        "recall": len(found) / len(truths) if truths else float("nan"),
        "kind": sum(row.kind in truth.kinds for row, truth in pairs) / len(pairs) if pairs else float("nan"),
        "windows": float(np.median(delays)) if delays else float("nan"),
    }


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=9321)
    parser.add_argument("--only", default="")
    parser.add_argument("--tell", action="store_true", help="the incidents' sentences, on stderr")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    results = []
    print(
        "| script | true scopes | incidents | wrong wide ones | precision | recall | kind right | windows |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for script in SCRIPTS:
        if chosen.only not in script:
            continue
        begun = time.monotonic()
        result = play(script, chosen.devices, chosen.seed, tell=chosen.tell)
        words = [f"{result[key]:.2f}".replace("nan", "-") for key in ("precision", "recall", "kind")]
        counts = [f"{result[key]:.0f}" for key in ("truths", "incidents", "wide")]
        late = f"{result['windows']:.0f}".replace("nan", "-")
        print(f"| {script} | {' | '.join([*counts, *words, late])} |", flush=True)
        print(f"{script}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
        name = script.replace(",", "").replace(" ", "_")
        results += [
            {"name": f"triage.{name}.{key}", "value": None if np.isnan(value) else value, "unit": ""}
            for key, value in result.items()
        ]
    if chosen.out is not None:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
