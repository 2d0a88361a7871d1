"""Which incidents come out of scripted fleets: `python -m benchmarks.triage.run --devices 1000 --seed 7`.

Each script has its truth: the scopes that a person would want an incident for, and no others. Printed are
precision (incidents that are true), recall (truths that have an incident of exactly that scope), and the
windows from the change to the incident.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from benchmarks.triage.fleet import Disturb, ScriptedFleet
from sqlalchemy import select

from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import migrate, open_engine, reading

ONSET, WINDOWS = 12, 36
CAMERAS, SITES, FIRMWARE = "ABC", 8, ("2.1", "2.2", "2.3")

Truth = set[tuple[str, str]]
Script = Callable[[ScriptedFleet, int], Truth]


def since(change: Callable[..., None]) -> Disturb:
    """A change of rows in place, from the onset on."""

    def disturb(window: int, rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
        if window >= ONSET:
            change(window, rng, values)
        return values

    return disturb


def add(stream: int, amount: float) -> Disturb:
    """A shift of one stream, sd."""

    def change(window: int, rng: np.random.Generator, values: np.ndarray) -> None:
        values[:, stream] += amount

    return since(change)


def stuck(stream: int) -> Disturb:
    """A sensor that repeats one value."""

    def change(window: int, rng: np.random.Generator, values: np.ndarray) -> None:
        values[:, stream] = 0.37

    return since(change)


def people(fleet: ScriptedFleet, devices: int) -> None:
    """The devices, their attributes drawn independently."""
    for number in range(devices):
        fleet.add(
            f"d{number:05d}",
            {
                "camera": CAMERAS[int(fleet.rng.integers(len(CAMERAS)))],
                "site": f"s{int(fleet.rng.integers(SITES))}",
                "firmware": FIRMWARE[int(fleet.rng.integers(len(FIRMWARE)))],
            },
        )


def no_drift(fleet: ScriptedFleet, devices: int) -> Truth:
    people(fleet, devices)
    return set()


def one_stuck(fleet: ScriptedFleet, devices: int) -> Truth:
    people(fleet, devices)
    fleet.devices[5].disturb = stuck(0)
    return {("device", fleet.devices[5].name)}


def three_scattered(fleet: ScriptedFleet, devices: int) -> Truth:
    people(fleet, devices)
    chosen = [fleet.devices[at] for at in (3, devices // 2, devices - 4)]
    for device, disturb in zip(chosen, (stuck(1), add(0, 3.0), add(2, -2.0)), strict=True):
        device.disturb = disturb
    return {("device", device.name) for device in chosen}


def firmware(fleet: ScriptedFleet, devices: int) -> Truth:
    people(fleet, devices)
    for device in fleet.devices:
        if device.attributes["firmware"] == "2.3":
            device.disturb = add(1, -0.8)
    return {("cohort", "firmware=2.3")}


def camera_at_site(fleet: ScriptedFleet, devices: int) -> Truth:
    people(fleet, devices)
    for device in fleet.devices:
        if (device.attributes["camera"], device.attributes["site"]) == ("B", "s3"):
            device.disturb = add(0, -1.0)
    return {("cohort", "camera=B & site=s3")}


def gradual(fleet: ScriptedFleet, devices: int) -> Truth:
    people(fleet, devices)

    def change(window: int, rng: np.random.Generator, values: np.ndarray) -> None:
        values[:, 0] -= 0.02 * (window - ONSET + 1)

    for device in fleet.devices:
        device.disturb = since(change)
    return {("fleet", "")}


def liars(fleet: ScriptedFleet, devices: int) -> Truth:
    """A tenth of the devices invent their sketches and say nothing."""
    people(fleet, devices)
    for device in fleet.devices[::10]:
        device.disturb, device.silent = add(0, 4.0), True
    return set()


def liars_against(fleet: ScriptedFleet, devices: int) -> Truth:
    """The fleet drifts, and a tenth of it says the opposite."""
    truth = gradual(fleet, devices)
    for device in fleet.devices[::10]:
        device.disturb, device.silent = add(0, 4.0), True
    return truth


def new_type(fleet: ScriptedFleet, devices: int) -> Truth:
    people(fleet, devices - devices // 10)
    for number in range(devices // 10):
        where = {"camera": "D", "site": f"s{number % SITES}", "firmware": "2.3"}
        fleet.add(f"n{number:05d}", where, joins=ONSET).disturb = add(0, 1.0)
    return {("cohort", "camera=D")}


SCRIPTS: dict[str, tuple[Script, dict[str, float]]] = {
    "no drift": (no_drift, {}),
    "no drift, devices differ by 0.1 sd": (no_drift, {"nature": 0.1}),
    "day and night, 0.5 sd": (no_drift, {"amplitude": 0.5}),
    "one stuck sensor": (one_stuck, {}),
    "three scattered faults": (three_scattered, {}),
    "firmware cohort, -0.8 sd": (firmware, {}),
    "camera at a site, -1 sd": (camera_at_site, {}),
    "whole fleet, 0.02 sd a window": (gradual, {}),
    "10 % liars": (liars, {}),
    "whole fleet, 10 % liars against": (liars_against, {}),
    "new device type, +1 sd": (new_type, {}),
}


def play(script: str, devices: int, seed: int) -> dict[str, float]:
    """One script; precision and recall are NaN where there is nothing to judge them by."""
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(f"sqlite:///{Path(folder) / 'fleet.db'}")
        migrate(engine)
        plot, options = SCRIPTS[script]
        fleet = ScriptedFleet(engine, seed, **options)
        truth = plot(fleet, devices)
        for window in range(WINDOWS):
            fleet.play(window)
        with reading(engine) as connection:
            rows = connection.execute(select(tables.incidents)).all()
        engine.dispose()
    opened = [row for row in rows if row.state != "absorbed"]
    right = [row for row in opened if (row.scope, row.scope_key) in truth]
    onset_ms = fleet.now_ms - 10_000 - (WINDOWS - ONSET) * 300_000
    delays = [(row.opened_ms - onset_ms) / 300_000 for row in right]
    return {
        "truths": len(truth),
        "incidents": len(opened),
        "wide": sum(row.scope != "device" for row in opened if (row.scope, row.scope_key) not in truth),
        "precision": len(right) / len(opened) if opened else float("nan"),
        "recall": len({(row.scope, row.scope_key) for row in right}) / len(truth) if truth else float("nan"),
        "windows": float(np.median(delays)) if delays else float("nan"),
    }


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    results = []
    print("| script | true scopes | incidents | wrong wide ones | precision | recall | windows |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for script in SCRIPTS:
        if chosen.only not in script:
            continue
        begun = time.monotonic()
        result = play(script, chosen.devices, chosen.seed)
        words = [f"{result[key]:.2f}".replace("nan", "-") for key in ("precision", "recall")]
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
