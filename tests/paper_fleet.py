"""A fleet on paper: real schemas, sketches and wire format, no devices. For the aggregator's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema
from driftpost_sketches.window import Window
from driftpost_sync.messages import (
    DescribeBody,
    Envelope,
    FindingBody,
    Item,
    LedgerBody,
    Presence,
    Tally,
    WindowBody,
)
from driftpost_sync.topics import Identity

FLEET = "meters"
NOW = 1_790_000_000_000  # a day in 2026, Unix ms
BUNDLE = "b" * 64
STREAMS = ("brightness", "sharpness", "contrast")
WINDOW_S = 10.0

Rows = npt.NDArray[np.float64]


def draw(
    generator: np.random.Generator,
    rows: int,
    *,
    shift: Mapping[str, float] | None = None,
    stuck: str | None = None,
) -> Rows:
    """Independent normal rows for `STREAMS`, confidence and class, some streams shifted by so many sd."""
    values = np.empty((rows, len(STREAMS) + 2))
    for index, (name, mean, sd) in enumerate(
        (
            ("brightness", 120.0, 10.0),
            ("sharpness", 5.0, 1.0),
            ("contrast", 40.0, 4.0),
            ("confidence", 0.9, 0.03),
        )
    ):
        column = generator.normal(mean, sd, rows) + (shift or {}).get(name, 0.0) * sd
        if stuck == name:
            column[:] = column[0]
        values[:, index] = column
    values[:, -1] = generator.integers(0, 4, rows)
    return values


@dataclass(frozen=True)
class PaperBundle:
    """A bundle's description and what is needed to make its windows."""

    schema: Schema
    baseline: Window
    describe: DescribeBody

    def window(self, values: Rows) -> Window:
        """One window of these rows."""
        accumulator = WindowAccumulator(self.schema)
        accumulator.update(values)
        return accumulator.take()[0]


def make_bundle(bundle: str = BUNDLE, *, seed: int = 1, rows: int = 20_000) -> PaperBundle:
    """A bundle whose reference are `rows` undisturbed rows."""
    values = draw(np.random.default_rng(seed), rows)
    streams = [
        fit_numeric("brightness", values[:, 0], Role.INPUT, "level"),
        fit_numeric("sharpness", values[:, 1], Role.INPUT),
        fit_numeric("contrast", values[:, 2], Role.INPUT, "level"),
        fit_numeric("confidence", values[:, 3], Role.OUTPUT),
        fit_categorical("class", values[:, 4], Role.OUTPUT, labels=("0", "1", "2", "3")),
    ]
    schema = Schema(streams)
    accumulator = WindowAccumulator(schema)
    accumulator.update(values)
    baseline = accumulator.take()[0]
    names = [stream.name for stream in streams]
    describe = DescribeBody(
        bundle=bundle,
        name="meter reader",
        version="1.0",
        model_sha256="c" * 64,
        schema=schema.to_dict(),
        baseline=baseline.to_bytes(),
        tau=dict.fromkeys(names, 1.0),
        n_ref=dict.fromkeys(names, float(rows)),
        smallest_effect=dict.fromkeys(names, 0.02),
        window_s=WINDOW_S,
        budget="1 per device-year",
        classes=("0", "1", "2", "3"),
        provenance={"tool": "test"},
    )
    return PaperBundle(schema, baseline, describe)


@dataclass
class PaperDevice:
    """One device's counters; its clock runs with the script, not with the wall."""

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    incarnation: int = (1 << 32) | 7
    seq: int = 0
    booted_ms: int = NOW - 3_600_000
    bundle: str = BUNDLE

    @property
    def identity(self) -> Identity:
        """Where it publishes."""
        return Identity(FLEET, self.name)

    def presence(self, *, online: bool = True) -> bytes:
        """Its birth, or its will."""
        return Presence(
            online=online,
            incarnation=self.incarnation,
            agent_version="0.1.0",
            bundle=self.bundle,
            attributes=dict(self.attributes),
            runtime="onnx 1.32",
            clock_good=True,
            started=self.booted_ms,
        ).to_bytes()

    def item(self, kind: str, body: bytes) -> Item:
        """The next message."""
        self.seq += 1
        return Item(self.seq, kind, body)

    def window(
        self,
        window: Window,
        end_ms: int,
        *,
        wall: bool = True,
        length_ms: int = int(WINDOW_S * 1000),
        evidence: Sequence[float] = (),
    ) -> Item:
        """A window that ended at `end_ms` (the true time, whether or not the device knows it)."""
        return self.item(
            "window",
            WindowBody(
                bundle=self.bundle,
                schema_id=window.schema_id,
                mono_start=end_ms - length_ms - self.booted_ms,
                mono_end=end_ms - self.booted_ms,
                wall_start=end_ms - length_ms if wall else None,
                wall_end=end_ms if wall else None,
                window=window.to_bytes(),
                evidence=np.array(evidence, dtype="<f2").tobytes(),
            ).to_bytes(),
        )

    def finding(
        self,
        at_ms: int,
        *,
        kind: str = "shift",
        streams: Sequence[tuple[str, float]] = (("brightness", 1.0),),
        effect: float = 3.0,
        direction: str = "down",
        state: str = "raised",
        name: str = "",
        source: str = "drift",
        onset_ms: int | None = None,
        log_e: float = 20.0,
        text: str = "",
    ) -> Item:
        """A finding of the device's own detectors."""
        onset = at_ms if onset_ms is None else onset_ms
        return self.item(
            "finding",
            FindingBody(
                id=name or f"{self.name}-{kind}-{self.seq}",
                bundle=self.bundle,
                state=state,
                kind=kind,
                streams=tuple(streams),
                log_e=log_e,
                effect=effect,
                effect_natural=10 * effect,
                unit="level",
                direction=direction,
                onset_mono=onset - self.booted_ms,
                onset_wall=onset,
                mono=at_ms - self.booted_ms,
                wall=at_ms,
                text=text or f"{streams[0][0]} {direction}",
                source=source,  # type: ignore[arg-type]  # tests also send sources that do not exist
            ).to_bytes(),
        )

    def ledger(self, windows: int, rows: int, *, pending: int = 0) -> Item:
        """A ledger of which all but `pending` windows are acknowledged."""
        share = rows // max(windows, 1)
        return self.item(
            "ledger",
            LedgerBody(
                incarnation=self.incarnation,
                recorded=Tally(windows, rows),
                acked=Tally(windows - pending, rows - pending * share),
                pending=Tally(pending, pending * share),
                quarantined=Tally(),
            ).to_bytes(),
        )

    def message(self, items: Sequence[Item], sent_ms: int, *, wall: bool = True) -> bytes:
        """An envelope sent at `sent_ms`."""
        return Envelope(
            device=self.name,
            incarnation=self.incarnation,
            mono=sent_ms - self.booted_ms,
            wall=sent_ms if wall else None,
            historical=False,
            items=tuple(items),
        ).to_bytes()
