"""Simulated devices: who they are, what each sends window by window, and the books of all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from driftpost_aggregator.registry import check
from driftpost_aggregator.simulation.script import Disturbance, Script
from driftpost_aggregator.simulation.world import World
from driftpost_sketches.window import Window
from driftpost_sync.messages import (
    DescribeBody,
    Envelope,
    FindingBody,
    Item,
    Presence,
    WindowBody,
)
from driftpost_sync.topics import Identity

# Start of every device's agent, where the caller names none.
_INCARNATION = 1 << 32 | 7
# A device had been up this long when the play begins, ms.
_UPTIME_MS = 3_600_000
# A late window comes after this many others.
_LATE = 3


@dataclass(frozen=True)
class Message:
    """One message of a device.

    Attributes:
        device: its index.
        topic, payload: as published.
        seqs: sequence numbers in it, to be acknowledged; none in a presence.
    """

    device: int
    topic: str
    payload: bytes
    seqs: tuple[int, ...] = ()


@dataclass
class Books:
    """What was sent, each thing once however often it went out: what must stand in the database.

    Attributes:
        devices: born.
        windows, rows: in all of them.
        findings: raised or cleared.
        messages: with repetitions.
        window_bytes: of packed windows.
        cohorts: rows by "key=value".
    """

    devices: int = 0
    windows: int = 0
    rows: int = 0
    findings: int = 0
    messages: int = 0
    window_bytes: int = 0
    cohorts: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Plain types, for JSON."""
        return dict(vars(self))


class SimulatedFleet:
    """Plays devices of one bundle.

    Args:
        describe: the bundle's description.
        script: what they are and what happens to them.
        devices: how many.
        fleet: their fleet's name.
        seed: of everything drawn.
        start_ms: Unix ms at which their first window begins.
        prefix: of their names.
        incarnation: of all of them. What was counted of one is not counted again: whoever plays devices of
            the same names once more gives a larger one.

    Raises:
        BundleRejected, ConfigurationError: bundle and script can not be played.
    """

    def __init__(
        self,
        describe: DescribeBody,
        script: Script,
        *,
        devices: int,
        fleet: str,
        seed: int,
        start_ms: int,
        prefix: str = "sim",
        incarnation: int = _INCARNATION,
    ) -> None:
        known = check(describe)
        self.describe = describe
        self.script = script
        self.books = Books()
        self.world = World(known, script.rows, seed)
        self.world.check(script.disturbances)
        self.window_ms = round((script.window_s or known.window_s) * 1000)
        self.start_ms = start_ms
        self.seed = seed
        self.incarnation = incarnation
        self._generator = np.random.default_rng([seed, 1])
        self._fleet = fleet
        self._identities = [Identity(fleet, f"{prefix}-{index:07d}") for index in range(devices)]
        self._places = {one.device: index for index, one in enumerate(self._identities)}
        self._values = {
            name: self._generator.integers(0, len(values), devices) for name, values in script.choices.items()
        }
        self._clockless = self._generator.random(devices) < script.clockless
        self._seqs = np.zeros(devices, dtype=np.int64)
        self._happens = self._chosen()
        self._rows: dict[int, int] = {}  # of the windows in the pools, by identity
        self._late: dict[int, list[tuple[int, Message]]] = {}

    def __len__(self) -> int:
        return len(self._identities)

    def name(self, device: int) -> str:
        """A device's name."""
        return self._identities[device].device

    def index(self, name: str) -> int | None:
        """The device of that name."""
        return self._places.get(name)

    def attributes(self, device: int) -> Mapping[str, str]:
        """What cohorts it belongs to."""
        return {name: values[int(self._values[name][device])] for name, values in self.script.choices.items()}

    def births(self) -> Iterator[Message]:
        """The presence of every device, and the bundle's description from the first."""
        for device, identity in enumerate(self._identities):
            self.books.devices += 1
            yield Message(device, identity.state, self.presence(device))
        yield self.described(0)

    def presence(self, device: int) -> bytes:
        """A device's retained state."""
        return Presence(
            online=True,
            incarnation=self.incarnation,
            agent_version="simulated",
            bundle=self.describe.bundle,
            schema_id=self.world.known.schema.id,
            attributes=dict(self.attributes(device)),
            runtime="none",
            clock_good=not self._clockless[device],
            started=self.start_ms - _UPTIME_MS,
        ).to_bytes()

    def described(self, device: int) -> Message:
        """The bundle's description, sent by a device."""
        item = self._item(device, "describe", self.describe.to_bytes())
        return self._message(device, [item], self.start_ms)

    def round(self, window: int) -> Iterator[Message]:
        """What all devices send at the end of one window, in an order of its own."""
        end_ms = self.start_ms + (window + 1) * self.window_ms
        for device in self._generator.permutation(len(self)):
            message = self.window(int(device), window, end_ms)
            if self.script.reordered and self._generator.random() < self.script.reordered:
                self._late.setdefault(window + _LATE, []).append((int(device), message))
            else:
                yield from self._sent(message)
        for _, message in self._late.pop(window, []):
            yield from self._sent(message)

    def rest(self) -> Iterator[Message]:
        """What was held back to come late."""
        for held in [held for _, held in sorted(self._late.items())]:
            for _, message in held:
                yield from self._sent(message)
        self._late.clear()

    def _sent(self, message: Message) -> Iterator[Message]:
        self.books.messages += 1
        yield message
        if self.script.repeated and self._generator.random() < self.script.repeated:
            self.books.messages += 1
            yield message

    def window(self, device: int, window: int, end_ms: int) -> Message:
        """One device's window, with the findings that are due beside it."""
        happening = tuple(
            one
            for one, who in zip(self.script.disturbances, self._happens, strict=True)
            if one.begin <= window < one.end and who[device]
        )
        pool = self.world.windows(happening)
        packed = pool[int(self._generator.integers(len(pool)))]
        rows = self._rows.get(id(packed))
        if rows is None:
            rows = self._rows[id(packed)] = Window.from_bytes(packed).rows
        wall = not self._clockless[device]
        mono_end = end_ms - self.start_ms + _UPTIME_MS
        body = WindowBody(
            bundle=self.describe.bundle,
            schema_id=self.world.known.schema.id,
            mono_start=mono_end - self.window_ms,
            mono_end=mono_end,
            wall_start=end_ms - self.window_ms if wall else None,
            wall_end=end_ms if wall else None,
            window=packed,
            evidence=self._evidence(happening),
        )
        items = [self._item(device, "window", body.to_bytes())]
        items += self._findings(device, window, end_ms)
        self.books.windows += 1
        self.books.rows += rows
        self.books.window_bytes += len(packed)
        for key, value in self.attributes(device).items():
            cohort = f"{key}={value}"
            self.books.cohorts[cohort] = self.books.cohorts.get(cohort, 0) + rows
        return self._message(device, items, end_ms)

    def _message(self, device: int, items: list[Item], sent_ms: int) -> Message:
        identity = self._identities[device]
        payload = Envelope(
            device=identity.device,
            incarnation=self.incarnation,
            mono=sent_ms - self.start_ms + _UPTIME_MS,
            wall=None if self._clockless[device] else sent_ms,
            historical=False,
            items=tuple(items),
        ).to_bytes()
        return Message(device, identity.up, payload, tuple(item.seq for item in items))

    def _item(self, device: int, kind: str, body: bytes) -> Item:
        self._seqs[device] += 1
        return Item(int(self._seqs[device]), kind, body)

    def _evidence(self, happening: tuple[Disturbance, ...]) -> bytes:
        tracked = len(self.world.known.schema.tracked_streams)
        if happening:
            return np.full(tracked, 2.0, dtype="<f2").tobytes()
        return np.zeros(tracked, dtype="<f2").tobytes()

    def _findings(self, device: int, window: int, end_ms: int) -> list[Item]:
        items = []
        for number, (one, who) in enumerate(zip(self.script.disturbances, self._happens, strict=True)):
            if one.found_after < 0 or not who[device]:
                continue
            raised = window == one.begin + one.found_after
            if not raised and window != one.end + one.found_after:
                continue
            self.books.findings += 1
            onset = self.start_ms + one.begin * self.window_ms
            finding = FindingBody(
                id=f"{self.name(device)}-{number}",
                bundle=self.describe.bundle,
                state="raised" if raised else "cleared",
                kind={"stuck": "stuck", "missing": "missing"}.get(one.kind, "shift"),
                streams=((one.stream, 1.0),),
                log_e=20.0,
                effect=one.amount,
                effect_natural=one.amount,
                unit="",
                direction="none" if one.kind != "shift" else "up" if one.amount > 0 else "down",
                onset_mono=max(onset - self.start_ms + _UPTIME_MS, 0),
                onset_wall=onset,
                mono=end_ms - self.start_ms + _UPTIME_MS,
                wall=end_ms,
                text=f"{one.stream}: {one.kind}",
            )
            items.append(self._item(device, "finding", finding.to_bytes()))
        return items

    def _chosen(self) -> list[np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """Which devices each disturbance happens to."""
        result = []
        for one in self.script.disturbances:
            who = self._generator.random(len(self)) < one.share
            for key, value in one.where.items():
                who &= self._values[key] == self.script.choices[key].index(value)
            result.append(who)
        return result
