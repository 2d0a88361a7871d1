"""What is known of each bundle: names, streams, baseline and the threshold its devices alarm at."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import msgpack
from sqlalchemy import Connection, select

from driftpost_aggregator.store import tables
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.joint.plan import JointPlan
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.schema import Schema
from driftpost_sketches.window import Window

# Decoded bundles kept in memory; a large schema with its baseline takes about 200 kB.
_MAX_HELD = 64
# Bundles listed; a fleet runs a handful and keeps some history.
MAX_LISTED = 500


@dataclass(frozen=True)
class Model:
    """One bundle, decoded.

    Attributes:
        bundle: Its id.
        name, version: As its owner named it.
        schema: Its streams.
        baseline: Sketch of the reference.
        tau: By stream, integrated autocorrelation, rows.
        smallest_effect: By stream, the smallest change worth knowing, reference sd or share.
        window_s: Length of a device's window, seconds.
        budget: False alarms allowed, in words.
        log_threshold: ln evidence at which a device alarms under that budget.
        model_sha256: Hash of the model file.
        added_ms: When the aggregator first heard of it.
        performance: What its labelled reference tells; None without labels.
        classes: Names of its classes, where they have any.
        joint: How many joint features its windows carry, None without any.
    """

    bundle: str
    name: str
    version: str
    schema: Schema
    baseline: Window
    tau: dict[str, float]
    smallest_effect: dict[str, float]
    window_s: float
    budget: str
    log_threshold: float
    model_sha256: str
    added_ms: int
    performance: PerformanceRecord | None = None
    classes: tuple[str, ...] = ()
    joint: int | None = None

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"

    def class_name(self, number: int) -> str:
        """A class for people."""
        return self.classes[number] if number < len(self.classes) else f"class {number}"

    @property
    def tracked(self) -> list[str]:
        """Names of the streams that detectors watch, in schema order."""
        return [stream.name for stream in self.schema.streams if stream.tracked]


@dataclass(frozen=True)
class Label:
    """A bundle's name, without the cost of decoding it."""

    bundle: str
    name: str
    version: str

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


class Models:
    """Bundles by id, decoded once: a bundle never changes under its id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Model] = OrderedDict()

    def get(self, connection: Connection, bundle: str) -> Model | None:
        """The bundle, or None if the aggregator has not been told of it."""
        with self._lock:
            held = self._held.get(bundle)
            if held is not None:
                self._held.move_to_end(bundle)
                return held
        column = tables.bundles.c
        row = connection.execute(
            select(
                column.bundle,
                column.name,
                column.version,
                column.schema,
                column.baseline,
                column.tau,
                column.smallest_effect,
                column.window_s,
                column.budget,
                column.model_sha256,
                column.added_ms,
                column.performance,
                column.classes,
                column.joint,
            ).where(column.bundle == bundle)
        ).one_or_none()
        if row is None:
            return None
        schema = Schema.from_dict(msgpack.unpackb(row.schema))
        tracked = len(schema.tracked_streams)
        model = Model(
            bundle=row.bundle,
            name=row.name,
            version=row.version,
            schema=schema,
            baseline=Window.from_bytes(bytes(row.baseline)),
            tau=dict(row.tau),
            smallest_effect=dict(row.smallest_effect),
            window_s=float(row.window_s),
            budget=row.budget,
            log_threshold=Budget.parse(row.budget).log_threshold(float(row.window_s)),
            model_sha256=row.model_sha256,
            added_ms=row.added_ms,
            performance=PerformanceRecord.from_bytes(bytes(row.performance)) if row.performance else None,
            classes=tuple(row.classes),
            joint=JointPlan.from_bytes(bytes(row.joint), tracked).count if row.joint else None,
        )
        with self._lock:
            self._held[bundle] = model
            while len(self._held) > _MAX_HELD:
                self._held.popitem(last=False)
        return model

    def of(self, connection: Connection, bundles: Iterable[str | None]) -> dict[str, Model]:
        """These bundles by id; unknown ones are left out."""
        found = {bundle: self.get(connection, bundle) for bundle in dict.fromkeys(bundles) if bundle}
        return {bundle: model for bundle, model in found.items() if model is not None}

    def newest(self, connection: Connection) -> list[Label]:
        """All bundles, last added first."""
        column = tables.bundles.c
        rows = connection.execute(
            select(column.bundle, column.name, column.version)
            .order_by(column.added_ms.desc(), column.bundle)
            .limit(MAX_LISTED)
        )
        return [Label(*row) for row in rows]
