"""Before anything is retrained: does a bundle that is known already fit what the devices see now?

The incident's devices' windows since its onset are merged and put to the same tests against every known
bundle of the same inputs and classes, whose reference is counted over into the bins that the devices have. A
bundle fits if the tests are silent against its reference, no input stands off it by more than is worth
knowing or is wider or narrower, and the tests do speak against the bundle in use: silence for want of data is
no fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from driftpost_aggregator.evidence import measure
from driftpost_aggregator.merge import joined, shortest
from driftpost_aggregator.rebinning import rebinned
from driftpost_aggregator.registry import KnownBundle, Registry
from driftpost_aggregator.store.tables import bundles, incident_devices, rollups
from driftpost_sketches.drift.marginal import MarginalDetector
from driftpost_sketches.errors import SketchError
from driftpost_sketches.window import Window

# Evidence at which a test speaks, ln: a thousand to one; less than an alarm needs, for silence is the claim.
SPEAKS = 6.9
# Standard errors by which a stream may stand off beyond what is worth knowing.
ERRORS = 3.0
# Largest ln of the spread now over the reference's: a sixth wider. Bins of another world may not show shape.
MAX_LN_SPREAD = 0.15
# Device rollups that are merged, newest first: what a cohort of fifty sends in some hours.
MAX_ROLLUPS = 2_000
MAX_DEVICES = 200
# Bundles compared, newest first, and named in a request.
MAX_BUNDLES = 64
MAX_NAMED = 8


@dataclass(frozen=True)
class Fit:
    """How a known bundle's reference fits what the devices see.

    Attributes:
        bundle, name, version, model_sha256: which.
        fits: whether it may be used instead of retraining.
        stream: input that fits worst, "" where none could be compared.
        shift: how far it stands off, reference sd or a share.
        log_e: ln evidence of its tests, the strongest input's.
    """

    bundle: str
    name: str
    version: str
    model_sha256: str
    fits: bool
    stream: str
    shift: float
    log_e: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types for requests and the database."""
        return {**self.__dict__, "shift": round(self.shift, 4), "log_e": round(max(self.log_e, -99.0), 2)}


def known_fits(connection: Connection, incident: RowMapping) -> list[Fit]:
    """Every known bundle that could serve the same inputs, those that fit first.

    Args:
        connection: to read with.
        incident: its row.
    """
    registry = Registry()
    own = registry.find(connection, incident["bundle"])
    if own is None:
        return []
    window = drifted_window(connection, incident, own)
    if window is None or window.noise or _speaks(own, window, own.inputs) < SPEAKS:
        return []
    names = connection.execute(
        select(bundles.c.bundle)
        .where(bundles.c.bundle != own.bundle)
        .order_by(bundles.c.added_ms.desc(), bundles.c.bundle)
        .limit(MAX_BUNDLES)
    ).scalars()
    others = [found for name in names if (found := registry.find(connection, name)) is not None]
    return compare(own, window, others)


def compare(own: KnownBundle, window: Window, others: Iterable[KnownBundle]) -> list[Fit]:
    """Put one window to the tests of other bundles. Pure.

    Args:
        own: the bundle that saw it.
        window: merged, without noise; its own bundle's tests speak on it.
        others: bundles to compare; those of other inputs or classes are left out.
    """
    fits = [found for other in others if (found := _fit(own, window, other)) is not None]
    return sorted(fits, key=lambda fit: (not fit.fits, abs(fit.shift), fit.bundle))


def _fit(own: KnownBundle, window: Window, other: KnownBundle) -> Fit | None:
    inputs = _tracked_inputs(own)
    if not inputs or inputs != _tracked_inputs(other) or other.classes != own.classes:
        return None
    baseline, shared = rebinned(other.baseline, other.schema, own.schema)
    if not inputs <= shared:
        return None
    there = replace(other, schema=own.schema, baseline=baseline, joint=None)
    try:
        log_e = _speaks(there, window, inputs)
        measured = measure(there, window)
    except SketchError:
        return None
    worst, off, within = "", 0.0, True
    for name in sorted(inputs & set(measured.shift)):
        shift = measured.shift[name]
        if abs(shift) > other.smallest_effect.get(name, 0.0) + ERRORS * measured.error[name]:
            within = False
        if abs(math.log(max(measured.spread[name], 1e-9))) > MAX_LN_SPREAD:
            within = False
        if not worst or abs(shift) > abs(off):
            worst, off = name, shift
    fits = bool(worst) and within and log_e < SPEAKS
    return Fit(other.bundle, other.name, other.version, other.model_sha256, fits, worst, off, log_e)


def _tracked_inputs(known: KnownBundle) -> frozenset[str]:
    tracked = {known.schema.streams[index].name for index in known.schema.tracked_streams}
    return frozenset(known.inputs & tracked)


def _speaks(known: KnownBundle, window: Window, inputs: frozenset[str]) -> float:
    """ln evidence against a bundle's reference in one window, the strongest input's."""
    detector = MarginalDetector(
        known.schema, known.baseline, known.tau, known.n_ref, known.smallest_effect, SPEAKS
    )
    sums, rows, _ = detector.read(window)
    detector.step_sums(sums, rows)
    names = [known.schema.streams[index].name for index in known.schema.tracked_streams]
    # An alarm takes its evidence with it: what is left speaks of what came after.
    told = [alarm.log_e for alarm in detector.standing if inputs & {name for name, _ in alarm.streams}]
    told += [
        float(value)
        for name, value in zip(names, detector.evidence().tolist(), strict=True)
        if name in inputs
    ]
    return max(told, default=float("-inf"))


def drifted_window(connection: Connection, incident: RowMapping, known: KnownBundle) -> Window | None:
    """The affected devices' windows since the onset, merged; None without any."""
    devices: Sequence[str] = (
        connection.execute(
            select(incident_devices.c.device)
            .where(
                incident_devices.c.incident == incident["incident"], incident_devices.c.cleared_ms.is_(None)
            )
            .order_by(incident_devices.c.device)
            .limit(MAX_DEVICES)
        )
        .scalars()
        .all()
    )
    query = (
        select(rollups.c.window)
        .where(rollups.c.scope == "device", rollups.c.scope_key.in_(devices))
        .where(rollups.c.bundle == known.bundle, rollups.c.bucket_start_ms >= incident["onset_ms"])
        .where(rollups.c.bucket_s == shortest("fleet", "", known.bundle))
        .order_by(rollups.c.bucket_start_ms.desc())
        .limit(MAX_ROLLUPS)
    )
    merged: Window | None = None
    for packed in connection.execute(query).scalars():
        try:
            window = Window.from_bytes(packed)
        except SketchError:
            # A damaged row must not keep every incident from asking.
            continue
        if window.schema_id == known.schema.id:
            merged = joined(merged, window)
    return merged
