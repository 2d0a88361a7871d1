"""A fleet with everything a dashboard shows, brought in through the aggregator's own ingest and triage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from sqlalchemy import Engine, insert, select

from driftpost_aggregator.alerts.change import Change
from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.labels.forwarding import settle
from driftpost_aggregator.labels.queue import push_labels
from driftpost_aggregator.labels.reading import read_labels
from driftpost_aggregator.retrain import request_retraining
from driftpost_aggregator.settings import RetrainPolicy
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import writing
from driftpost_aggregator.triage_round import Triage
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind
from driftpost_sketches.window import Window
from driftpost_sync.messages import AnswerBody, DescribeBody, Item
from paper_fleet import FLEET, NOW, PaperDevice

BUNDLE = "d1" * 32
WINDOW_S = 300.0
WINDOW_MS = 300_000
ROWS = 120
HOSTILE = "<img src=x onerror=alert(1)>"
IMPOSSIBLE = f"{HOSTILE}\"'&%;--"

_SITES = ("north", "harbour", "mill", "depot")
_CAMERAS = ("A", "B", "C")
_FIRMWARE = ("2.1.0", "2.2.4", "2.3.0")

# name, role, unit, mean, sd
_NUMBERS = (
    ("image.brightness", Role.INPUT, "level", 118.0, 16.0),
    ("image.contrast", Role.INPUT, "level", 41.0, 6.0),
    ("image.sharpness", Role.INPUT, "", 210.0, 44.0),
    ("image.saturated_low", Role.INPUT, "share", 0.02, 0.01),
    ("image.saturated_high", Role.INPUT, "share", 0.03, 0.012),
    ("image.colour_balance", Role.INPUT, "", 0.04, 0.05),
    ("output.confidence", Role.OUTPUT, "", 0.93, 0.05),
    ("output.margin", Role.OUTPUT, "", 0.86, 0.08),
    ("output.entropy", Role.OUTPUT, "bit", 0.31, 0.16),
    ("latency", Role.LATENCY, "us", 1850.0, 240.0),
    ("board.temperature", Role.HEALTH, "°C", 51.0, 5.0),
)
TRACKED = 11  # all but latency, plus the class


@dataclass
class BusyFleet:
    """Devices, their bundle, and what has been sent of it.

    Attributes:
        engine: Its database.
        now_ms: The fleet's present.
        devices: By name.
        clock_ms: What the aggregator's clock shows while history is played.
    """

    engine: Engine
    now_ms: int
    schema: Schema
    baseline: Window
    devices: dict[str, PaperDevice] = field(default_factory=dict)
    clock_ms: int = 0
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    @property
    def stuck(self) -> str:
        """The device whose sensor is stuck."""
        return next(name for name, device in self.devices.items() if not is_dim(device))

    def ingest(self, payloads: Sequence[tuple[str, bytes]], received_ms: int) -> None:
        """Take messages as if they had arrived then."""
        taking = Ingest(self.engine, fleet=FLEET, bucket_s=300, now_ms=lambda: received_ms)
        incoming = [Incoming(topic, payload, received_ms) for topic, payload in payloads]
        for begin in range(0, len(incoming), 512):
            taking.take(incoming[begin : begin + 512])

    def values(self, rows: int, shifted: float = 0.0) -> npt.NDArray[np.float64]:
        """Rows of all scalar streams; `shifted` dims and blurs the images by so many sd."""
        columns = []
        for name, _, _, mean, sd in _NUMBERS:
            column = self.generator.normal(mean, sd, rows)
            if name in ("image.brightness", "image.contrast", "output.confidence"):
                column -= shifted * sd
            elif name in ("image.sharpness",):
                column -= 1.4 * shifted * sd
            elif name == "output.entropy":
                column += shifted * sd
            columns.append(column)
        digits = self.generator.choice(10, rows, p=_digit_shares(shifted))
        return np.column_stack([*columns, digits.astype(np.float64)])

    def window(self, rows: int = ROWS, shifted: float = 0.0) -> Window:
        """One window of so many rows."""
        accumulator = WindowAccumulator(self.schema)
        pixels = self.generator.normal(118 - 14 * shifted, 40, (rows, 16)).clip(0, 255).astype(np.uint8)
        accumulator.update(self.values(rows, shifted), {"input.codes": pixels})
        return accumulator.take()[0]


def _digit_shares(shifted: float) -> npt.NDArray[np.float64]:
    shares = np.full(10, 0.1)
    shares[8] += 0.08 * shifted
    return shares / shares.sum()


def _schema(generator: np.random.Generator) -> Schema:
    streams: list[Stream] = [
        fit_numeric(name, generator.normal(mean, sd, 8000), role, unit, tracked=role is not Role.LATENCY)
        for name, role, unit, mean, sd in _NUMBERS
    ]
    digits = generator.integers(0, 10, 8000).astype(np.float64)
    streams.append(
        fit_categorical("output.class", digits, Role.OUTPUT, labels=[f"digit {n}" for n in range(10)])
    )
    streams.append(Stream("input.codes", StreamKind.CODES, Role.INPUT, lowest_code=0, tracked=False))
    return Schema(streams)


def describe(schema: Schema, baseline: Window, bundle: str = BUNDLE) -> DescribeBody:
    """What a device says of its bundle."""
    names = [stream.name for stream in schema.streams]
    return DescribeBody(
        bundle=bundle,
        name="digits",
        version="1.4",
        model_sha256="c" * 64,
        schema=schema.to_dict(),
        baseline=baseline.to_bytes(),
        tau=dict.fromkeys(names, 1.0),
        n_ref=dict.fromkeys(names, 8000.0),
        smallest_effect=dict.fromkeys(names, 0.02),
        window_s=WINDOW_S,
        budget="1 per device-year",
        classes=tuple(str(n) for n in range(10)),
        provenance={"tool": "test"},
    )


def build(
    engine: Engine,
    *,
    devices: int = 12,
    windows: int = 30,
    now_ms: int = NOW,
    hostile: bool = False,
    drifting: bool = True,
) -> BusyFleet:
    """A fleet whose camera B went dim a third of the span ago, and whose second device is stuck.

    Args:
        engine: Database, migrated.
        devices: How many.
        windows: How many each has sent, one every five minutes until now.
        now_ms: Unix time of now.
        hostile: Whether a name and attributes try to break the page.
        drifting: Whether anything drifts.
    """
    generator = np.random.default_rng(3)
    schema = _schema(generator)
    fleet = BusyFleet(engine, now_ms, schema, Window.empty(schema), generator=generator)
    fleet.baseline = fleet.window(20_000)
    start_ms = now_ms - windows * WINDOW_MS
    names = [f"meter-{index:05d}" for index in range(devices)]
    for index, name in enumerate(names):
        attributes = {
            "site": _SITES[index % 4],
            "camera": _CAMERAS[index % 3],
            "firmware": _FIRMWARE[index * index % 7 % 3],
        }
        if hostile and index == devices - 1:
            attributes["site"] = HOSTILE
            attributes['"><script>alert(2)</script>'] = "%_'\""
        fleet.devices[name] = PaperDevice(name, attributes, booted_ms=start_ms - 3_600_000, bundle=BUNDLE)
    _births(fleet, start_ms)
    _windows(fleet, windows, start_ms, drifting)
    _ledgers_and_refusals(fleet, windows)
    if drifting:
        _labels_and_alerts(fleet)
    if hostile:
        _impossible_device(fleet)
    return fleet


def _labels_and_alerts(fleet: BusyFleet) -> None:
    """Pushed labels in every state, and a channel that works beside one that does not."""
    now_ms = fleet.clock_ms
    names = sorted(fleet.devices)[:4]
    lines = [f"{name},{number},{number % 4}" for number, name in enumerate(names * 5)]
    body = "\n".join(["device,inference,label", *lines, "nobody,1,1", "<script>,1,1"]).encode()
    push_labels(
        fleet.engine,
        read_labels(body, "text/csv"),
        push="lp-0001",
        actor="anna",
        now_ms=now_ms - 3_600_000,
        expire_s=604_800.0,
    )
    counts = {"counted": 4, "twice": 0, "unknown": 1, "refused": 0}
    with writing(fleet.engine) as connection:
        batches = connection.execute(
            select(tables.label_batches.c.batch, tables.label_batches.c.device)
        ).all()
        for batch, device in batches[:2]:
            settle(connection, device, AnswerBody(batch, "done", counts), now_ms - 3_000_000)
        settle(
            connection,
            batches[2].device,
            AnswerBody(batches[2].batch, "refused", text="built without labels"),
            now_ms,
        )
        channel = {
            "since_ms": now_ms - 86_400_000,
            "last_sent_ms": None,
            "failing_since_ms": None,
            "last_error": "",
        }
        connection.execute(
            insert(tables.alert_channels),
            [
                {**channel, "channel": "on call", "last_sent_ms": now_ms - 60_000},
                {
                    **channel,
                    "channel": "chat",
                    "failing_since_ms": now_ms - 600_000,
                    "last_error": "HTTP 503: no",
                },
            ],
        )
        change = Change(
            1,
            "inc-1",
            "camera=B: inputs drifted",
            "cohort",
            "covariate_shift",
            "open",
            "opened",
            "",
            now_ms,
            4,
            4,
        ).to_dict()
        message = {
            "created_ms": now_ms - 600_000,
            "attempts": 2,
            "next_attempt_ms": now_ms + 60_000,
            "changes": [change],
        }
        connection.execute(
            insert(tables.alert_messages),
            [
                {
                    **message,
                    "message": "al-1",
                    "channel": "on call",
                    "state": "sent",
                    "sent_ms": now_ms,
                    "last_error": "",
                },
                {
                    **message,
                    "message": "al-2",
                    "channel": "chat",
                    "state": "pending",
                    "sent_ms": None,
                    "last_error": "HTTP 503: no",
                },
            ],
        )


def _impossible_device(fleet: BusyFleet) -> None:
    """A name that ingest refuses, as an older version or another program might have left it."""
    with writing(fleet.engine) as connection:
        connection.execute(
            insert(tables.devices).values(
                device=IMPOSSIBLE,
                online=False,
                bundle=BUNDLE,
                first_seen_ms=fleet.now_ms,
                last_seen_ms=fleet.now_ms,
                windows=0,
                parts=0,
                rows=0,
                quarantined=0,
            )
        )


def _births(fleet: BusyFleet, at_ms: int) -> None:
    body = describe(fleet.schema, fleet.baseline).to_bytes()
    messages = []
    for index, device in enumerate(fleet.devices.values()):
        messages.append((device.identity.state, device.presence()))
        if index == 0:
            messages.append((device.identity.up, device.message([device.item("describe", body)], at_ms)))
    fleet.ingest(messages, at_ms)


def is_dim(device: PaperDevice) -> bool:
    """Whether it is one of those whose images went dim."""
    return device.attributes.get("camera") == "B"


def _windows(fleet: BusyFleet, windows: int, start_ms: int, drifting: bool) -> None:
    onset = windows - windows // 3
    normal = [fleet.window() for _ in range(40)]
    dim = [fleet.window(shifted=0.9) for _ in range(20)]
    triage = _triage(fleet)
    for step in range(windows):
        end_ms = start_ms + (step + 1) * WINDOW_MS
        messages = []
        for index, device in enumerate(fleet.devices.values()):
            drifts = drifting and step >= onset and is_dim(device)
            pool = dim if drifts else normal
            # An alarm starts its detector anew.
            held = 9.0 * (step - onset + 1) if step < onset + 2 else 0.4
            strength = held if drifts else abs(float(fleet.generator.normal(0, 1.6)))
            evidence = np.abs(fleet.generator.normal(0, 0.8, TRACKED))
            evidence[[0, 2]] = strength, strength * 0.8
            item = device.window(
                pool[(index * 31 + step * 7) % len(pool)],
                end_ms,
                length_ms=WINDOW_MS,
                evidence=evidence.tolist(),
            )
            items = [item]
            if drifting and step == onset + 2:
                items += _findings(fleet, device, end_ms, start_ms + onset * WINDOW_MS)
            messages.append((device.identity.up, device.message(items, end_ms + 500)))
        fleet.clock_ms = end_ms + 800
        fleet.ingest(messages, fleet.clock_ms)
        # Rounds over thousands of devices take long, and only the last ones matter to what is shown.
        if drifting and step >= onset + 2 and (len(fleet.devices) <= 200 or step == windows - 1):
            triage.round()
            request_retraining(
                fleet.engine,
                RetrainPolicy(),
                fleet=FLEET,
                public_url=None,
                targets=["pipeline"],
                now_ms=fleet.clock_ms,
                new_id=lambda: "req-0001",
            )


def _triage(fleet: BusyFleet) -> Triage:
    numbers = itertools.count(1)
    return Triage(
        fleet.engine,
        budget=Budget.parse("1 per fleet-month"),
        bucket_s=300,
        settle_windows=3.0,
        reopen_s=86_400.0,
        now_ms=lambda: fleet.clock_ms,
        new_id=lambda: f"inc-{next(numbers)}",
    )


def _findings(fleet: BusyFleet, device: PaperDevice, at_ms: int, onset_ms: int) -> list[Item]:
    """What the device reports when its alarm is raised: dim and blurred, or stuck."""
    if is_dim(device):
        return [
            device.finding(
                at_ms,
                streams=(("image.sharpness", 0.6), ("image.brightness", 0.4)),
                effect=-1.2,
                direction="down",
                onset_ms=onset_ms,
            )
        ]
    if device.name == fleet.stuck:
        return [
            device.finding(
                at_ms, kind="stuck", streams=(("image.brightness", 1.0),), direction="none", onset_ms=onset_ms
            )
        ]
    return []


def _ledgers_and_refusals(fleet: BusyFleet, windows: int) -> None:
    messages = []
    for index, device in enumerate(fleet.devices.values()):
        ledger = device.ledger(windows + index % 3, (windows + index % 3) * ROWS, pending=index % 3)
        messages.append((device.identity.up, device.message([ledger], fleet.now_ms - 2000)))
        if index % 9 == 5:
            messages.append((device.identity.state, device.presence(online=False)))
    first = next(iter(fleet.devices.values()))
    messages.append((first.identity.up, b"\xc1 not msgpack <b>at all</b>"))
    messages.append((first.identity.up, first.message([first.item("window", b"\x80")], fleet.now_ms - 900)))
    fleet.ingest(messages, fleet.now_ms - 700)
