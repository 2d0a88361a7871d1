"""Known bundles: what their streams are, what normal looks like, and how their windows are read.

A bundle is described by the devices that run it, or by its owner with `driftpost aggregator bundles add`. A
device can say anything under any bundle's name, so the first description stands until the owner's own
replaces it, and a different one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import msgpack
import numpy as np
from sqlalchemy import Connection, RowMapping, select

from driftpost_aggregator import audit
from driftpost_aggregator.errors import BundleRejected
from driftpost_aggregator.store.database import upsert
from driftpost_aggregator.store.tables import bundles
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.describe import SHARE
from driftpost_sketches.drift.joint.plan import JointPlan
from driftpost_sketches.errors import SketchError
from driftpost_sketches.labels.class_mix import ClassMix
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.schema import Role, Schema, StreamKind
from driftpost_sketches.window import Window
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages import DescribeBody

OWNER = "file"
# Shorter windows than this are a mistake in units, seconds.
MIN_WINDOW_S = 0.05
# The longest that a bundle can be built with, seconds. What is merged waits this long to be tested.
MAX_WINDOW_S = 86_400.0


@dataclass(frozen=True)
class KnownBundle:
    """A bundle as its description has it.

    Attributes:
        bundle: its id.
        name, version, model_sha256: for people and requests.
        schema: its streams.
        baseline: sketch of its reference.
        tau: integrated autocorrelation per tracked stream, rows.
        n_ref: effective reference size per tracked stream, rows.
        smallest_effect: smallest change worth knowing per stream, reference sd.
        window_s: length of a device's window, seconds.
        classes: display names of the model's classes, empty where unknown.
        performance: what its labelled reference tells; None without labels.
        joint: how its streams hang together; None where that is not watched.
    """

    bundle: str
    name: str
    version: str
    model_sha256: str
    schema: Schema
    baseline: Window
    tau: Mapping[str, float]
    n_ref: Mapping[str, float]
    smallest_effect: Mapping[str, float]
    window_s: float
    classes: tuple[str, ...] = ()
    performance: PerformanceRecord | None = None
    joint: JointPlan | None = None
    budget: str = "1 per device-year"

    @cached_property
    def class_mix(self) -> ClassMix | None:
        """Tells label shift from covariate shift; None without a labelled reference."""
        if self.performance is None or not self.performance.complete:
            return None
        names = [self.schema.streams[i].name for i in self.schema.tracked_streams]
        return self.performance.class_mix(self.schema, np.array([self.tau[name] for name in names]))

    @cached_property
    def units(self) -> dict[str, str]:
        """Unit of each stream's changes: its own, or a share of rows for categories."""
        return {
            stream.name: stream.unit if stream.kind is StreamKind.NUMERIC else SHARE
            for stream in self.schema.streams
        }

    @cached_property
    def inputs(self) -> frozenset[str]:
        """Names of the streams that describe inputs."""
        return frozenset(stream.name for stream in self.schema.streams if stream.role is Role.INPUT)


class Registry:
    """Bundles by id, decoded once; for one thread."""

    def __init__(self) -> None:
        self._known: dict[str, KnownBundle] = {}

    def find(self, connection: Connection, bundle: str) -> KnownBundle | None:
        """The bundle of that id, None if nobody has described it."""
        known = self._known.get(bundle)
        if known is None:
            query = select(bundles).where(bundles.c.bundle == bundle)
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            known = self._known[bundle] = _from_row(row)
        return known

    def remembered(self, bundle: str) -> KnownBundle | None:
        """The bundle of that id, if it was asked for before."""
        return self._known.get(bundle)

    def forget(self, bundle: str) -> None:
        """Read it from the database again when it is next asked for."""
        self._known.pop(bundle, None)


def _from_row(row: RowMapping) -> KnownBundle:
    schema = Schema.from_dict(msgpack.unpackb(row["schema"]))
    return KnownBundle(
        bundle=row["bundle"],
        name=row["name"],
        version=row["version"],
        model_sha256=row["model_sha256"],
        schema=schema,
        baseline=Window.from_bytes(row["baseline"]),
        tau=row["tau"],
        n_ref=row["n_ref"],
        smallest_effect=row["smallest_effect"],
        window_s=row["window_s"],
        classes=tuple(row["classes"]),
        performance=PerformanceRecord.from_bytes(row["performance"]) if row["performance"] else None,
        joint=_joint(row["joint"], schema),
        budget=row["budget"],
    )


def check(body: DescribeBody) -> KnownBundle:
    """A description whose parts fit each other.

    Raises:
        BundleRejected: they do not, with the first contradiction found.
    """

    def rejected(problem: str) -> BundleRejected:
        return BundleRejected(body.bundle, problem)

    try:
        schema = Schema.from_dict(body.schema)
        baseline = Window.from_bytes(body.baseline)
        baseline.check(schema)
        performance = PerformanceRecord.from_bytes(body.performance) if body.performance else None
        if performance is not None:
            performance.check(schema)
        joint = _joint(body.joint, schema)
        Budget.parse(body.budget)
    except SketchError as error:
        raise rejected(str(error)) from error
    except ValueError as error:
        raise rejected(f"its budget: {error}") from error
    if baseline.rows <= 0:
        raise rejected("its baseline holds no rows")
    if not MIN_WINDOW_S <= body.window_s <= MAX_WINDOW_S:
        raise rejected(
            f"windows of {body.window_s:g} s are not within {MIN_WINDOW_S:g} s .. {MAX_WINDOW_S:g} s"
        )
    tracked = {schema.streams[index].name for index in schema.tracked_streams}
    for name, values in (("tau", body.tau), ("n_ref", body.n_ref)):
        missing = sorted(tracked - set(values))
        if missing:
            raise rejected(f"{name} of stream {missing[0]!r} is missing")
        low = min((values[stream] for stream in tracked), default=1.0)
        if low <= 0:
            raise rejected(f"{name} must be positive, not {low:g}")
    if min(body.smallest_effect.values(), default=0.0) < 0:
        raise rejected("smallest_effect must not be negative")
    return KnownBundle(
        body.bundle,
        body.name,
        body.version,
        body.model_sha256,
        schema,
        baseline,
        dict(body.tau),
        dict(body.n_ref),
        dict(body.smallest_effect),
        body.window_s,
        body.classes,
        performance,
        joint,
        body.budget,
    )


def _joint(data: bytes, schema: Schema) -> JointPlan | None:
    return JointPlan.from_bytes(data, len(schema.tracked_streams)) if data else None


def register(connection: Connection, body: DescribeBody, *, source: str, now_ms: int) -> bool:
    """Take a description, in the caller's write transaction.

    Args:
        connection: a connection in a write transaction.
        body: the description.
        source: the device that sent it, or `OWNER`, whose word replaces a device's.
        now_ms: Unix ms.

    Returns:
        Whether it is new (or replaced a device's).

    Raises:
        BundleRejected: it contradicts itself, or one that stands.
    """
    known = check(body)
    query = select(bundles).where(bundles.c.bundle == body.bundle).with_for_update()
    row = connection.execute(query).mappings().first()
    if row is not None:
        same = row["schema_id"] == known.schema.id and row["baseline"] == body.baseline
        if same and (source != OWNER or row["source"] == OWNER):
            return False
        if not same and source != OWNER:
            raise BundleRejected(body.bundle, "is already described differently; its owner's file decides")
        if not same and row["source"] == OWNER:
            raise BundleRejected(body.bundle, "was already added from another file")
    upsert(
        connection,
        bundles,
        [
            {
                "bundle": body.bundle,
                "name": body.name,
                "version": body.version,
                "model_sha256": body.model_sha256,
                "schema_id": known.schema.id,
                "schema": msgpack.packb(known.schema.to_dict()),
                "baseline": body.baseline,
                "tau": dict(body.tau),
                "n_ref": dict(body.n_ref),
                "smallest_effect": dict(body.smallest_effect),
                "window_s": body.window_s,
                "budget": body.budget,
                "classes": list(body.classes),
                "performance": body.performance,
                "joint": body.joint,
                "provenance": _plain(body.provenance),
                "source": source,
                "added_ms": now_ms,
            }
        ],
    )
    audit.append(
        connection,
        at_ms=now_ms,
        actor="aggregator" if source == OWNER else f"device {source}",
        action="bundle added",
        subject=body.bundle,
        words=f"{body.name} {body.version}, model {body.model_sha256[:12]}",
    )
    return True


def from_plain(description: Mapping[str, object]) -> DescribeBody:
    """A description as `driftpost_models` makes it of a bundle file.

    Raises:
        BundleRejected: it is malformed.
    """
    try:
        return DescribeBody.from_plain(description)
    except MalformedMessage as error:
        raise BundleRejected(str(description.get("bundle", "")), str(error)) from error


def _plain(value: object) -> object:
    """Provenance as JSON can hold it; bytes as hex."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
