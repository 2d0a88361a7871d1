"""A scripted fleet: real sketches, detectors and messages, through the real ingest and triage."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
from sqlalchemy import Engine

from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.triage_round import Triage
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.alarm import Alarm
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.schema import Role, Schema
from driftpost_sync.messages import DescribeBody, Envelope, FindingBody, Item, Presence, WindowBody
from driftpost_sync.topics import Identity

FLEET = "benchmark"
BUNDLE = "e" * 64
START = 1_790_000_000_000  # a day in 2026, Unix ms
WINDOW_S = 300
WINDOW_MS = WINDOW_S * 1000
ROWS = 60
NAMES = ("brightness", "sharpness", "contrast", "confidence")
CYCLE = 24  # windows of a day in the scripts
CLASSES = 4
CLASS_CONTRAST = 0.8  # sd from one class to the next
RIGHT = 0.9  # share of answers that are no guess

Rows = npt.NDArray[np.float64]
Disturb = Callable[[int, np.random.Generator, Rows], Rows]


def draw(
    rng: np.random.Generator, rows: int, cycle: Rows | None = None, mix: Sequence[float] | None = None
) -> Rows:
    """Rows of four numeric streams in about their own sd, the answered class, and the true one.

    Classes look different: their contrast differs.
    """
    classes = rng.choice(CLASSES, rows, p=mix)
    answers = np.where(rng.random(rows) < RIGHT, classes, rng.integers(0, CLASSES, rows))
    values = np.column_stack([rng.normal(size=(rows, len(NAMES))), answers, classes])
    values[:, 2] += CLASS_CONTRAST * (classes - (CLASSES - 1) / 2)
    if cycle is not None:
        values[:, 0] += cycle
    return values


def day(first_row: int, rows: int, amplitude: float) -> Rows:
    """Brightness over a day, by row."""
    return amplitude * np.sin(2 * np.pi * (first_row + np.arange(rows)) / (CYCLE * ROWS))


@dataclass
class Device:
    """One device, its detectors, and what is done to its rows."""

    name: str
    attributes: Mapping[str, str]
    detector: DriftDetector
    offset: float = 0.0
    disturb: Disturb | None = None
    joins: int = 0
    silent: bool = False
    mix: Callable[[int], Sequence[float] | None] = lambda window: None
    seq: int = 0
    standing: dict[tuple[str, ...], str] = field(default_factory=dict)

    def item(self, kind: str, body: bytes) -> Item:
        """The next message."""
        self.seq += 1
        return Item(self.seq, kind, body)

    def envelope(self, items: Sequence[Item], now_ms: int) -> bytes:
        """A message of now."""
        return Envelope(
            self.name, 1 << 32 | 7, now_ms - START + WINDOW_MS, now_ms, False, tuple(items)
        ).to_bytes()


class ScriptedFleet:
    """Plays windows of all devices into a database.

    Args:
        engine: migrated.
        seed: of everything random.
        amplitude: of a daily cycle that all devices and the reference share, sd.
        nature: spread of the devices' own levels, sd.
    """

    def __init__(self, engine: Engine, seed: int, *, amplitude: float = 0.0, nature: float = 0.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.amplitude, self.nature = amplitude, nature
        rows = 30 * CYCLE * ROWS
        drawn = draw(self.rng, rows, day(0, rows, amplitude) if amplitude else None)
        reference, classes = drawn[:, :-1], drawn[:, -1].astype(np.int64)
        streams = [fit_numeric(name, reference[:, i], Role.INPUT) for i, name in enumerate(NAMES[:3])]
        streams.append(fit_numeric(NAMES[3], reference[:, 3], Role.OUTPUT))
        streams.append(fit_categorical("class", reference[:, 4], Role.OUTPUT))
        self.schema = Schema(streams)
        self.calibration = Calibration.fit(self.schema, reference)
        record = PerformanceRecord.fit(
            self.schema, reference, classes, answers="class", classes=CLASSES, confidence=""
        )
        assert record is not None, "every row of the reference is labelled"
        self.record = record
        tau = np.array([self.calibration.tau(name) for name in self.calibration.tracked_names])
        mix = record.class_mix(self.schema, tau)
        assert mix is not None, "the reference shows every class"
        self.mix = mix
        self.threshold = Budget.parse("1 per device-year").log_threshold(WINDOW_S)
        self.now_ms = START
        self.devices: list[Device] = []
        self.ingest = Ingest(engine, fleet=FLEET, bucket_s=WINDOW_S, now_ms=lambda: self.now_ms)
        numbers = itertools.count(1)
        self.triage = Triage(
            engine,
            budget=Budget.parse("1 per fleet-month"),
            bucket_s=WINDOW_S,
            settle_windows=3.0,
            reopen_s=86_400.0,
            now_ms=lambda: self.now_ms,
            new_id=lambda: f"incident-{next(numbers)}",
        )

    def add(self, name: str, attributes: Mapping[str, str], joins: int = 0) -> Device:
        """Another device."""
        device = Device(name, attributes, DriftDetector(self.calibration, self.threshold), joins=joins)
        device.detector.name_changes(self.mix.interpret)
        device.offset = float(self.rng.normal(0, self.nature)) if self.nature else 0.0
        self.devices.append(device)
        return device

    def play(self, window: int) -> None:
        """One window of every device that has joined, then a round of triage."""
        self.now_ms = START + (window + 1) * WINDOW_MS
        batch = []
        for device in self.devices:
            if window < device.joins:
                continue
            where = Identity(FLEET, device.name)
            if window == device.joins:
                batch.append(Incoming(where.state, self._birth(device), self.now_ms))
            items = [] if device.seq else [device.item("describe", self._describe())]
            batch.append(
                Incoming(
                    where.up,
                    device.envelope([*items, *self._items(device, window)], self.now_ms),
                    self.now_ms,
                )
            )
        for begin in range(0, len(batch), 512):
            self.ingest.take(batch[begin : begin + 512])
        # A bucket counts once its last windows can have arrived.
        self.now_ms += 10_000
        self.triage.round()

    def _items(self, device: Device, window: int) -> list[Item]:
        cycle = day(window * ROWS, ROWS, self.amplitude) if self.amplitude else None
        values = draw(self.rng, ROWS, cycle, device.mix(window))[:, :-1]
        values[:, 0] += device.offset
        if device.disturb is not None:
            values = device.disturb(window, self.rng, values)
        accumulator = WindowAccumulator(self.schema)
        accumulator.update(values)
        sketch, transitions = accumulator.take()[:2]
        alarms = [] if device.silent else device.detector.step(transitions, sketch)
        mono = (window + 1) * WINDOW_MS
        evidence = np.clip(np.nan_to_num(device.detector.evidence()), -6e4, 6e4).astype("<f2").tobytes()
        body = WindowBody(
            BUNDLE, self.schema.id, mono, mono + WINDOW_MS, self.now_ms - WINDOW_MS, self.now_ms,
            sketch.to_bytes(), evidence,
        )  # fmt: skip
        found = [device.item("finding", self._finding(device, alarm, mono).to_bytes()) for alarm in alarms]
        return [device.item("window", body.to_bytes()), *found]

    def _finding(self, device: Device, alarm: Alarm, mono: int) -> FindingBody:
        names = tuple(name for name, _ in alarm.streams)
        same = max(device.standing, key=lambda known: len(set(known) & set(names)), default=None)
        name = f"{device.name}-{mono}-{len(device.standing)}"
        if alarm.state == "cleared" and same is not None:
            name = device.standing.pop(same)
        elif alarm.state == "raised":
            device.standing[names] = name
        ago = alarm.onset_windows_ago * WINDOW_MS
        return FindingBody(
            id=name, bundle=BUNDLE, state=cast("Literal['raised', 'cleared']", alarm.state), kind=alarm.kind,
            streams=alarm.streams[:16], log_e=alarm.log_e, effect=alarm.effect,
            effect_natural=alarm.effect_natural, unit=alarm.unit, direction=alarm.direction,
            onset_mono=max(0, mono - ago), onset_wall=self.now_ms - WINDOW_MS - ago, mono=mono + WINDOW_MS,
            wall=self.now_ms, text=alarm.text,
        )  # fmt: skip

    def _birth(self, device: Device) -> bytes:
        return Presence(
            online=True, incarnation=1 << 32 | 7, agent_version="benchmark", bundle=BUNDLE,
            attributes=dict(device.attributes), runtime="none", clock_good=True, started=START,
        ).to_bytes()  # fmt: skip

    def _describe(self) -> bytes:
        fitted = self.calibration
        names = fitted.tracked_names
        return DescribeBody(
            bundle=BUNDLE, name="camera", version="1", model_sha256="c" * 64, schema=self.schema.to_dict(),
            baseline=fitted.baseline.to_bytes(), tau={name: fitted.tau(name) for name in names},
            n_ref={name: fitted.n_ref(name) for name in names},
            smallest_effect=dict.fromkeys(names, 0.02), window_s=float(WINDOW_S), budget="1 per device-year",
            classes=tuple("abcd"), performance=self.record.to_bytes(),
        ).to_bytes()  # fmt: skip
