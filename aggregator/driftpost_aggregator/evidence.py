"""What triage looks at, read from the database: standing findings, the fleet around them, effects."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from sqlalchemy import Connection, desc, select

from driftpost_aggregator.bulk_windows import totals
from driftpost_aggregator.catch_up import attributes_of
from driftpost_aggregator.causes import Finding, Measured, Surroundings
from driftpost_aggregator.incidents import ACTIVE
from driftpost_aggregator.merged_watch import devices_apart, populations_of
from driftpost_aggregator.registry import KnownBundle
from driftpost_aggregator.store.tables import devices, findings, incidents, windows
from driftpost_sketches.drift.apart import MIN_POPULATION, log_e_either, log_e_moved
from driftpost_sketches.drift.effect import effect_of
from driftpost_sketches.drift.log_sums import log_sum
from driftpost_sketches.errors import SketchError
from driftpost_sketches.schema import StreamKind
from driftpost_sketches.window import Window

# A device that was silent for longer is not counted among "of N devices", ms.
PRESENT_MS = 24 * 3_600_000
# Newest windows since its onset that a device's effect is measured on.
MEASURED_WINDOWS = 8
# Finding of a device that is to learn its own normal (`drift/alarm.py`).
SKEW = "skew"
# Devices without findings whose effects are measured in a round.
MAX_MEASURED = 200
# Under this name the bundle stands among a device's attributes, and this many characters of its id as the
# value.
BUNDLE_ATTRIBUTE = "bundle"
SHORT_ID = 12


def bundles_with_evidence(connection: Connection) -> set[str]:
    """Bundles on which something stands, or on which an incident is active; "" is the devices themselves."""
    standing = select(findings.c.bundle).where(findings.c.state == "raised", findings.c.cleared_ms.is_(None))
    active = select(incidents.c.bundle).where(incidents.c.state.in_(("open", "acknowledged", "muted")))
    return {
        bundle for query in (standing, active) for bundle in connection.execute(query.distinct()).scalars()
    }


def standing_findings(connection: Connection, bundles: Iterable[str]) -> list[Finding]:
    """Findings on some bundles that were raised and not taken back.

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
        .where(findings.c.bundle.in_(sorted(bundles)))
        .where(findings.c.state == "raised", findings.c.cleared_ms.is_(None))
        .order_by(findings.c.device, findings.c.incarnation, findings.c.seq)
    )
    result = []
    for row in connection.execute(query):
        if row.bundle and row.runs not in (None, row.bundle):
            continue
        if row.incident_state == "resolved" and row.received_ms <= (row.resolved_ms or 0):
            continue
        result.append(
            Finding(
                device=row.device,
                incarnation=row.incarnation,
                seq=row.seq,
                bundle=row.bundle,
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
                attributed=row.incident_state in ACTIVE,
            )
        )
    return result


def spoke_since(connection: Connection, bundle: str, since_ms: int) -> dict[str, float]:
    """Devices whose own findings stood at some time since then: what merged windows show of them is told.

    With the last moment at which one stood, Unix ms; infinite while one does. Who once said that it is
    installed differently is watched by its own normal from then on, and silent about the difference for good.
    """
    stands = findings.c.cleared_ms.is_(None) | (findings.c.kind == SKEW)
    query = select(findings.c.device, stands.label("stands"), findings.c.cleared_ms).where(
        findings.c.bundle == bundle,
        findings.c.state == "raised",
        stands | (findings.c.cleared_ms >= since_ms),
    )
    last: dict[str, float] = {}
    for row in connection.execute(query):
        until = math.inf if row.stands else float(row.cleared_ms)
        last[row.device] = max(last.get(row.device, until), until)
    return last


def surroundings(
    connection: Connection,
    known: Mapping[str, KnownBundle],
    bundles: Collection[str],
    standing: Sequence[Finding],
    now_ms: int,
) -> Surroundings:
    """The fleet around the findings on one model: who runs it, with which attributes, and measured effects.

    Where several bundles of the model are in use, the bundle is an attribute like any other: a broken build
    shows itself as the cohort of those that run it.

    Args:
        connection: to read with.
        known: the model's described bundles by id.
        bundles: ids of all its bundles, described or not; {""} for the devices themselves.
        standing: its standing findings.
        now_ms: Unix ms.
    """
    runs: dict[str, str | None] = {finding.device: finding.bundle for finding in standing}
    # Of who has fallen silent with a finding that stands, it is still known what was sent.
    told = select(findings.c.device).where(findings.c.state == "raised", findings.c.cleared_ms.is_(None))
    recent = devices.c.last_seen_ms >= now_ms - PRESENT_MS
    query = select(
        devices.c.device, devices.c.bundle, devices.c.last_window_ms, recent.label("recent")
    ).where(recent | devices.c.device.in_(told))
    if "" not in bundles:
        query = query.where(devices.c.bundle.in_(sorted(bundles)))
    present = [row for row in connection.execute(query) if row.recent or row.device in runs]
    runs |= {row.device: row.bundle for row in present}
    names = sorted(runs)
    attributes = attributes_of(connection, names)
    if len(set(runs.values())) > 1 and "" not in bundles:
        for name in names:
            attributes[name].setdefault(BUNDLE_ATTRIBUTE, (runs[name] or "")[:SHORT_ID])
    onsets: dict[tuple[str, str], int] = {}
    for finding in standing:
        key = finding.device, finding.bundle
        onsets[key] = min(onsets.get(key, finding.onset_ms), finding.onset_ms)
    new = {finding.device for finding in standing if not finding.attributed}
    measured: dict[str, Measured] = {}
    for bundle in {bundle for _, bundle in onsets} & known.keys():
        mine = {device: onset for (device, of), onset in onsets.items() if of == bundle}
        now = measured_since(connection, known[bundle], mine)
        # Whether it moved is only asked while no incident speaks of it.
        earlier = measured_before(connection, known[bundle], {name: mine[name] for name in mine.keys() & new})
        measured |= {
            name: replace(one, moved=log_e_since(earlier[name], one)) if name in earlier else one
            for name, one in now.items()
        }
    compared = populations_of(connection, sorted(bundles))
    return Surroundings(
        names,
        attributes,
        measured,
        inputs=frozenset().union(*(one.inputs for one in known.values())) if known else None,
        units={name: unit for one in known.values() for name, unit in one.units.items()},
        last_window_ms={row.device: row.last_window_ms for row in present if row.last_window_ms is not None},
        apart={name: one.log_e for name, one in devices_apart(connection, sorted(bundles)).items()},
        compared=frozenset(
            row.device
            for row in present
            if compared.get(row.bundle, 0) >= MIN_POPULATION
            and (row.last_window_ms or 0) > onsets.get((row.device, row.bundle), -1)
        ),
    )


def with_measured(
    connection: Connection, around: Surroundings, known: KnownBundle, onsets: Mapping[str, int]
) -> Surroundings:
    """The same surroundings with the effects of further devices, each since its onset."""
    more = measured_since(connection, known, dict(sorted(onsets.items())[:MAX_MEASURED]))
    return replace(around, measured=more | dict(around.measured))


def measured_since(
    connection: Connection, known: KnownBundle, onsets: Mapping[str, int]
) -> dict[str, Measured]:
    """Effects of devices in their newest windows since their onsets, Unix ms."""

    def packed() -> Iterator[tuple[str, bytes]]:
        for device, onset_ms in sorted(onsets.items()):
            query = (
                select(windows.c.window, windows.c.start_ms)
                .where(windows.c.device == device, windows.c.bundle == known.bundle, windows.c.merged)
                .where(windows.c.start_ms > onset_ms - int(known.window_s * 1000))
                .order_by(desc(windows.c.start_ms))
                .limit(MEASURED_WINDOWS)
            )
            rows = connection.execute(query).all()
            # The one that holds the onset only while none began after it.
            for row in [row for row in rows if row.start_ms >= onset_ms] or rows:
                yield device, row.window

    return {device: measure(known, window) for device, window in totals(known, packed()).items()}


def measured_before(
    connection: Connection, known: KnownBundle, onsets: Mapping[str, int]
) -> dict[str, Measured]:
    """The same in their newest windows from before their onsets."""

    def packed() -> Iterator[tuple[str, bytes]]:
        for device, onset_ms in sorted(onsets.items()):
            query = (
                select(windows.c.window)
                .where(windows.c.device == device, windows.c.bundle == known.bundle, windows.c.merged)
                .where(windows.c.end_ms <= onset_ms)
                .order_by(desc(windows.c.start_ms))
                .limit(MEASURED_WINDOWS)
            )
            for window in connection.execute(query).scalars():
                yield device, window

    return {device: measure(known, window) for device, window in totals(known, packed()).items()}


def log_e_since(before: Measured, after: Measured) -> float:
    """Evidence that a device has moved against its own past: the average over numeric streams.

    A device that differs by nature differs from the start, so it has not moved. The reference's own error
    cancels out and is counted all the same, twice.
    """
    streams = sorted(before.shift.keys() & after.shift.keys())
    logs = []
    for stream in streams:
        if before.spread[stream] == after.spread[stream] == 1.0:
            continue  # of categories: the share that changed most need not be the same one
        variance = before.error[stream] ** 2 + after.error[stream] ** 2
        logs.append(log_e_moved(after.shift[stream] - before.shift[stream], variance))
        if before.spread[stream] > 0 and after.spread[stream] > 0:
            change = math.log(after.spread[stream] / before.spread[stream])
            # The standard error of a log ratio of deviations is that of a mean in sd, over sqrt(2).
            logs[-1] = log_e_either(logs[-1], log_e_moved(change, variance / 2))
    return log_sum(np.array(logs)) - math.log(len(logs)) if logs else 0.0


def measure(known: KnownBundle, window: Window) -> Measured:
    """Effects of a window on every tracked stream, with their standard errors in reference sd.

    A shift of a numeric stream is in reference sd; of a categorical one it is the largest change of a share.
    """
    shift: dict[str, float] = {}
    natural: dict[str, float] = {}
    spread: dict[str, float] = {}
    error: dict[str, float] = {}
    own = window.finite() + window.missing + window.nonfinite  # rows of a partial stream are fewer
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
        rows = max(float(own[index]) / max(known.tau[stream.name], 1.0), 1.0)
        # A share's standard error is at most half of a mean's in sd.
        error[stream.name] = (1.0 if numeric else 0.5) * math.sqrt(1 / rows + 1 / known.n_ref[stream.name])
    return Measured(shift, natural, spread, error)
