"""What happens to scripted fleets, and the incidents that a person would want of it, no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from benchmarks.triage.fleet import CLASSES, Device, Disturb, ScriptedFleet

ONSET, WINDOWS = 10, 28
CAMERAS, SITES, FIRMWARE = "ABC", 8, ("2.1", "2.2", "2.3")
DRIFT = frozenset({"covariate_shift"})
LABEL_MIX = (0.55, 0.15, 0.15, 0.15)


@dataclass(frozen=True)
class Truth:
    """One thing that happened.

    Attributes:
        scope, key: as in incidents; the key of a group is not judged.
        kinds: any of which is right.
        members: of a group, the devices in it.
    """

    scope: str
    key: str = ""
    kinds: frozenset[str] = DRIFT
    members: frozenset[str] = frozenset()


Truths = list[Truth]
Script = Callable[[ScriptedFleet, int], Truths]


def since(change: Callable[..., None]) -> Disturb:
    """A change of rows in place, from the onset on."""

    def disturb(window: int, rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
        if window >= ONSET:
            change(window, rng, values)
        return values

    return disturb


def add(amount: float, *streams: int) -> Disturb:
    """A shift of some streams, sd."""

    def change(window: int, rng: np.random.Generator, values: np.ndarray) -> None:
        values[:, list(streams)] += amount

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


def no_drift(fleet: ScriptedFleet, devices: int) -> Truths:
    people(fleet, devices)
    return []


def one_stuck(fleet: ScriptedFleet, devices: int) -> Truths:
    people(fleet, devices)
    fleet.devices[5].disturb = stuck(0)
    return [Truth("device", fleet.devices[5].name, frozenset({"sensor_fault"}))]


def three_scattered(fleet: ScriptedFleet, devices: int) -> Truths:
    people(fleet, devices)
    chosen = [fleet.devices[at] for at in (3, devices // 2, devices - 4)]
    for device, disturb in zip(chosen, (stuck(1), add(3.0, 0), add(-2.0, 2)), strict=True):
        device.disturb = disturb
    kinds = (frozenset({"sensor_fault"}), DRIFT, DRIFT)
    return [Truth("device", device.name, kind) for device, kind in zip(chosen, kinds, strict=True)]


def firmware(fleet: ScriptedFleet, devices: int) -> Truths:
    people(fleet, devices)
    for device in fleet.devices:
        if device.attributes["firmware"] == "2.3":
            device.disturb = add(-0.8, 1)
    return [Truth("cohort", "firmware=2.3")]


def camera_at_site(fleet: ScriptedFleet, devices: int) -> Truths:
    people(fleet, devices)
    for device in fleet.devices:
        if (device.attributes["camera"], device.attributes["site"]) == ("B", "s3"):
            device.disturb = add(-1.0, 0)
    return [Truth("cohort", "camera=B & site=s3")]


def faint_camera(fleet: ScriptedFleet, devices: int) -> Truths:
    """A shift that takes a single device days to tell."""
    people(fleet, devices)
    for device in fleet.devices:
        if device.attributes["camera"] == "B":
            device.disturb = add(0.2, 0)
    return [Truth("cohort", "camera=B")]


def gradual(fleet: ScriptedFleet, devices: int) -> Truths:
    people(fleet, devices)

    def change(window: int, rng: np.random.Generator, values: np.ndarray) -> None:
        values[:, 0] -= 0.02 * (window - ONSET + 1)

    for device in fleet.devices:
        device.disturb = since(change)
    return [Truth("fleet")]


def label_shift(fleet: ScriptedFleet, devices: int) -> Truths:
    """One site sees more of one class; each class looks as it did."""
    people(fleet, devices)
    assert len(LABEL_MIX) == CLASSES
    for device in fleet.devices:
        if device.attributes["site"] == "s2":
            device.mix = lambda window: LABEL_MIX if window >= ONSET else None
    return [Truth("cohort", "site=s2", frozenset({"label_shift"}))]


def lie(fleet: ScriptedFleet) -> Disturb:
    """Something invented, and another thing each time."""
    streams = fleet.rng.integers(0, 4, 2)
    amounts = fleet.rng.choice([-4.0, -2.0, 2.0, 4.0], 2)

    def change(window: int, rng: np.random.Generator, values: np.ndarray) -> None:
        values[:, streams[0]] += amounts[0]
        values[:, streams[1]] *= abs(amounts[1])

    return since(change)


def liars(fleet: ScriptedFleet, devices: int) -> Truths:
    """A tenth of the devices invent their sketches, each in its own way, and report nothing."""
    people(fleet, devices)
    chosen = fleet.devices[::10]
    for device in chosen:
        device.disturb, device.silent = lie(fleet), True
    return [_named(chosen)]


def liars_in_concert(fleet: ScriptedFleet, devices: int) -> Truths:
    """A tenth of the devices tell one lie, and report it as their agents would."""
    people(fleet, devices)
    chosen = fleet.devices[::10]
    for device in chosen:
        device.disturb = add(4.0, 0)
    members = frozenset(device.name for device in chosen)
    return [Truth("group", kinds=frozenset({"covariate_shift", "poisoning"}), members=members)]


def liars_against(fleet: ScriptedFleet, devices: int) -> Truths:
    """The fleet drifts, and a tenth of it says the opposite."""
    truths = gradual(fleet, devices)
    chosen = fleet.devices[::10]
    for device in chosen:
        device.disturb, device.silent = add(4.0, 0), True
    return [*truths, _named(chosen)]


def _named(chosen: list[Device]) -> Truth:
    names = frozenset(device.name for device in chosen)
    return Truth("group", kinds=frozenset({"poisoning"}), members=names)


def new_type(fleet: ScriptedFleet, devices: int) -> Truths:
    people(fleet, devices - devices // 10)
    for number in range(devices // 10):
        where = {"camera": "D", "site": f"s{number % SITES}", "firmware": "2.3"}
        fleet.add(f"n{number:05d}", where, joins=ONSET).disturb = add(1.0, 0)
    return [Truth("cohort", "camera=D")]


def unnamed_group(fleet: ScriptedFleet, devices: int) -> Truths:
    """One device in twenty drifts with the others, and nothing that is known of them says why."""
    people(fleet, devices)
    chosen = fleet.devices[7::20]
    for device in chosen:
        device.disturb = add(-0.8, 0, 1)
    return [Truth("group", members=frozenset(device.name for device in chosen))]


SCRIPTS: dict[str, tuple[Script, dict[str, float]]] = {
    "no drift": (no_drift, {}),
    "no drift, devices differ by 0.1 sd": (no_drift, {"nature": 0.1}),
    "day and night, 0.5 sd": (no_drift, {"amplitude": 0.5}),
    "one stuck sensor": (one_stuck, {}),
    "three scattered faults, devices differ by 0.1 sd": (three_scattered, {"nature": 0.1}),
    "firmware cohort, -0.8 sd": (firmware, {}),
    "camera at a site, -1 sd": (camera_at_site, {}),
    "camera, +0.2 sd": (faint_camera, {}),
    "whole fleet, 0.02 sd a window": (gradual, {}),
    "label shift at a site": (label_shift, {}),
    "10 % liars, silent": (liars, {}),
    "10 % liars in concert": (liars_in_concert, {}),
    "whole fleet, 10 % liars against": (liars_against, {}),
    "new device type, +1 sd": (new_type, {}),
    "one in twenty without an attribute, -0.8 sd": (unnamed_group, {}),
}
