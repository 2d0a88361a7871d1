"""What triage looks at, read from the database: standing findings, the fleet around them, effects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, desc, select

from driftpost_aggregator.catch_up import attributes_of
from driftpost_aggregator.causes import Finding, Measured, Surroundings
from driftpost_aggregator.registry import KnownBundle
from driftpost_aggregator.store.tables import devices, findings, incidents, windows
from driftpost_sketches.drift.effect import effect_of
from driftpost_sketches.errors import SketchError
from driftpost_sketches.schema import StreamKind
from driftpost_sketches.window import Window

# A device that was silent for longer is not counted among "of N devices", ms.
PRESENT_MS = 24 * 3_600_000
# Newest windows since its onset that a device's effect is measured on.
MEASURED_WINDOWS = 16


def bundles_with_evidence(connection: Connection) -> list[str]:
    """Bundles on which something stands, or on which an incident is active; "" is the devices themselves."""
    standing = select(findings.c.bundle).where(findings.c.state == "raised", findings.c.cleared_ms.is_(None))
    active = select(incidents.c.bundle).where(incidents.c.state.in_(("open", "acknowledged", "muted")))
    return sorted(
        set(connection.execute(standing.distinct()).scalars()) | set(connection.execute(active).scalars())
    )


def standing_findings(connection: Connection, bundle: str) -> list[Finding]:
    """Findings of a bundle that were raised and not taken back.

    Left out are those of devices that run another bundle by now, and those whose incident a person resolved
    after they were raised: they are dismissed until something new is found.
    """
    query = (
        select(
            findings,
            devices.c.bundle.label("runs"),
            incidents.c.state.label("incident_state"),
            incidents.c.resolved_ms,
        )
        .join_from(findings, devices, devices.c.device == findings.c.device)
        .outerjoin(incidents, incidents.c.incident == findings.c.incident)
        .where(findings.c.bundle == bundle, findings.c.state == "raised", findings.c.cleared_ms.is_(None))
        .order_by(findings.c.device, findings.c.incarnation, findings.c.seq)
    )
    result = []
    for row in connection.execute(query):
        if bundle and row.runs not in (None, bundle):
            continue
        if row.incident_state == "resolved" and row.received_ms <= (row.resolved_ms or 0):
            continue
        result.append(
            Finding(
                device=row.device,
                incarnation=row.incarnation,
                seq=row.seq,
                kind=row.kind,
                source=row.source,
                streams=tuple((name, share) for name, share in row.streams),
                log_e=row.log_e,
                effect=row.effect,
                effect_natural=row.effect_natural,
                unit=row.unit,
                direction=row.direction,
                onset_ms=row.onset_ms,
                received_ms=row.received_ms,
                text=row.text,
                incident=row.incident,
            )
        )
    return result


def surroundings(
    connection: Connection, bundle: str, known: KnownBundle | None, standing: Sequence[Finding], now_ms: int
) -> Surroundings:
    """The fleet around some findings: who runs the bundle, with which attributes, and measured effects."""
    query = select(devices.c.device).where(devices.c.last_seen_ms >= now_ms - PRESENT_MS)
    if bundle:
        query = query.where(devices.c.bundle == bundle)
    present = set(connection.execute(query).scalars()) | {finding.device for finding in standing}
    names = sorted(present)
    measured: dict[str, Measured] = {}
    units: dict[str, str] = {}
    inputs: frozenset[str] = frozenset()
    if known is not None:
        onsets: dict[str, int] = {}
        for finding in standing:
            onsets[finding.device] = min(onsets.get(finding.device, finding.onset_ms), finding.onset_ms)
        for device, onset_ms in onsets.items():
            window = since_onset(connection, device, known, onset_ms)
            if window is not None:
                measured[device] = measure(known, window)
        units = {stream.name: stream.unit for stream in known.schema.streams if stream.unit}
        inputs = known.inputs
    return Surroundings(names, attributes_of(connection, names), measured, inputs, units)


def since_onset(connection: Connection, device: str, known: KnownBundle, onset_ms: int) -> Window | None:
    """A device's newest windows since its onset, merged; the one that holds it if none began after it."""
    query = (
        select(windows.c.window, windows.c.start_ms)
        .where(windows.c.device == device, windows.c.bundle == known.bundle, windows.c.merged.is_(True))
        .where(windows.c.start_ms > onset_ms - int(known.window_s * 1000))
        .order_by(desc(windows.c.start_ms))
        .limit(MEASURED_WINDOWS)
    )
    rows = connection.execute(query).all()
    clean = [row for row in rows if row.start_ms >= onset_ms] or rows
    return merged((row.window for row in clean), known)


def merged(packed: Iterable[bytes], known: KnownBundle) -> Window | None:
    """Windows of one bundle as one; None if there are none."""
    total: Window | None = None
    for data in packed:
        window = Window.from_bytes(data)
        if window.schema_id == known.schema.id:
            total = window if total is None else total.merge(window)
    return total


def measure(known: KnownBundle, window: Window) -> Measured:
    """Effects of a window on every tracked stream, with their standard errors in reference sd.

    A shift of a numeric stream is in reference sd; of a categorical one it is the largest change of a share.
    """
    shift: dict[str, float] = {}
    natural: dict[str, float] = {}
    spread: dict[str, float] = {}
    error: dict[str, float] = {}
    for index in known.schema.tracked_streams:
        stream = known.schema.streams[index]
        try:
            effect = effect_of(known.schema, known.baseline, window, int(index))
        except SketchError:
            continue
        numeric = stream.kind is StreamKind.NUMERIC
        shift[stream.name] = effect.sd_shift if numeric else effect.share_change
        natural[stream.name] = effect.natural_shift if numeric else effect.share_change
        spread[stream.name] = effect.std_ratio
        rows = max(window.rows / max(known.tau[stream.name], 1.0), 1.0)
        # A share's standard error is at most half of a mean's in sd.
        error[stream.name] = (1.0 if numeric else 0.5) * math.sqrt(1 / rows + 1 / known.n_ref[stream.name])
    return Measured(shift, natural, spread, error)
