"""Carrying out what triage decided: incidents, their devices, findings and history, in one transaction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, insert, select, update

from driftpost_aggregator import incidents as life
from driftpost_aggregator import triage
from driftpost_aggregator.cause_card import card_of
from driftpost_aggregator.causes import Affected, Cause
from driftpost_aggregator.store.database import upsert
from driftpost_aggregator.store.tables import findings, incident_devices, incidents
from driftpost_aggregator.wording import sentence, title

# A stream with a smaller share of the evidence does not speak for the incident's severity.
_SPEAKING_SHARE = 0.05


def apply(
    connection: Connection,
    model: str,
    changes: Iterable[triage.Change],
    *,
    now_ms: int,
    new_id: Callable[[], str],
) -> None:
    """Carry out a plan, in the caller's write transaction.

    Args:
        connection: a connection in a write transaction.
        model: name of the model that was planned for.
        changes: from `triage.plan`.
        now_ms: Unix ms.
        new_id: makes ids for new incidents.
    """
    for change in changes:
        if isinstance(change, triage.Open):
            _open(connection, model, new_id(), change.cause, now_ms)
        elif isinstance(change, triage.Reopen):
            _reopen(connection, change, now_ms)
        elif isinstance(change, triage.Update):
            _update(connection, change, now_ms)
        elif isinstance(change, triage.Resolve):
            _resolve(connection, change.incident, now_ms)
        else:
            life.change(
                connection,
                change.incident,
                {"state": "open", "muted_until_ms": None},
                "unmuted",
                actor=life.AGGREGATOR,
                at_ms=now_ms,
                text="mute ended",
            )


def severity(cause: Cause) -> float:
    """The largest change among the streams that matter: of location in reference sd, or of ln spread."""
    sizes = [
        max(abs(part.effect), abs(math.log(part.spread)) if part.spread > 0 else 0.0)
        for part in cause.streams
        if part.share >= _SPEAKING_SHARE
    ]
    return max(sizes, default=0.0)


def _measures(cause: Cause, now_ms: int) -> dict[str, Any]:
    """Columns that follow the evidence."""
    return {
        "severity": severity(cause),
        "title": title(cause),
        "cause": sentence(cause, now_ms),
        "affected": len(cause.affected),
        "elsewhere": cause.elsewhere,
        "streams": [part.to_dict() for part in cause.streams],
        "log_e": cause.log_e,
        "bundle": cause.bundles[0],
        "bundles": list(cause.bundles),
    }


def _scope(cause: Cause) -> dict[str, Any]:
    """Columns that are fixed once the scope is."""
    return {
        "scope": cause.scope,
        "scope_key": cause.scope_key,
        "attributes": [list(pair) for pair in cause.attributes],
        "kind": cause.kind.value,
        "detail": cause.detail,
        "members": len(cause.members),
        "risk_ratio": _finite(cause.risk_ratio),
        "risk_ratio_low": _finite(cause.risk_ratio_low),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _open(connection: Connection, model: str, incident: str, cause: Cause, now_ms: int) -> None:
    connection.execute(
        insert(incidents).values(
            incident=incident,
            model=model,
            state="open",
            onset_ms=cause.onset_ms,
            opened_ms=now_ms,
            updated_ms=now_ms,
            reopened=0,
            card=card_of(connection, cause),
            **_scope(cause),
            **_measures(cause, now_ms),
        )
    )
    _attach(connection, incident, cause)
    life.record(
        connection, incident, "opened", actor=life.AGGREGATOR, at_ms=now_ms, text=sentence(cause, now_ms)
    )


def _reopen(connection: Connection, change: triage.Reopen, now_ms: int) -> None:
    row = life.locked(connection, change.incident)
    values = {
        "state": "open",
        "resolved_ms": None,
        "onset_ms": change.cause.onset_ms,
        "reopened": row["reopened"] + 1,
        "card": card_of(connection, change.cause),
        **_scope(change.cause),
        **_measures(change.cause, now_ms),
    }
    _attach(connection, change.incident, change.cause)
    life.change(
        connection,
        change.incident,
        values,
        "reopened",
        actor=life.AGGREGATOR,
        at_ms=now_ms,
        text=sentence(change.cause, now_ms),
    )


def _update(connection: Connection, change: triage.Update, now_ms: int) -> None:
    row = life.locked(connection, change.incident)
    cause = change.cause
    for part in (cause, *change.also):
        _attach(connection, change.incident, part)
    holding = {device for part in (cause, *change.also) for device in part.affected}
    # A cause narrower than the incident must not rename it: the incident keeps its scope until it ends.
    # A group has no name of its own: it is whoever is in it now.
    group = cause.scope == row["scope"] == "group"
    speaks = change.widen or group or (cause.scope, cause.scope_key) == (row["scope"], row["scope_key"])
    values: dict[str, Any] = {"onset_ms": min(row["onset_ms"], cause.onset_ms)}
    if change.widen:
        values |= _scope(cause) | {"card": card_of(connection, cause)}
    if speaks:
        values |= _measures(cause, now_ms)
    values["affected"] = len(holding)
    if group:
        values["members"] = len(holding)
    for absorbed in change.absorb:
        _absorb(connection, absorbed, change.incident, now_ms)
    _clear_others(connection, change.incident, holding, now_ms)
    if change.widen:
        life.change(
            connection,
            change.incident,
            values,
            "widened",
            actor=life.AGGREGATOR,
            at_ms=now_ms,
            text=sentence(cause, now_ms),
        )
    elif any(row[name] != value for name, value in values.items()):
        connection.execute(
            update(incidents)
            .where(incidents.c.incident == change.incident)
            .values(**values, updated_ms=now_ms)
        )


def _absorb(connection: Connection, absorbed: str, into: str, now_ms: int) -> None:
    connection.execute(update(findings).where(findings.c.incident == absorbed).values(incident=into))
    rows = connection.execute(
        select(incident_devices).where(incident_devices.c.incident == absorbed)
    ).mappings()
    upsert(connection, incident_devices, [{**row, "incident": into} for row in rows], keep=True)
    life.change(
        connection,
        absorbed,
        {"state": "absorbed", "absorbed_into": into, "resolved_ms": now_ms, "muted_until_ms": None},
        "absorbed",
        actor=life.AGGREGATOR,
        at_ms=now_ms,
        text=f"part of {into}",
    )


def _resolve(connection: Connection, incident: str, now_ms: int) -> None:
    _clear_others(connection, incident, set(), now_ms)
    life.change(
        connection,
        incident,
        {"state": "resolved", "resolved_ms": now_ms, "muted_until_ms": None, "affected": 0},
        "resolved",
        actor=life.AGGREGATOR,
        at_ms=now_ms,
        text="every affected device is back to normal",
    )


def _attach(connection: Connection, incident: str, cause: Cause) -> None:
    """Write down whom and what the incident rests on."""
    before: Mapping[str, Any] = {
        row.device: row
        for row in connection.execute(select(incident_devices).where(incident_devices.c.incident == incident))
    }
    changed: list[dict[str, object]] = [
        {
            "incident": incident,
            "device": device,
            "onset_ms": _onset(before.get(device), part),
            "raised_ms": part.raised_ms,
            "cleared_ms": None,
        }
        for device, part in cause.affected.items()
        if device not in before or _differs(before[device], part)
    ]
    upsert(connection, incident_devices, changed)
    for device, incarnation, seq in cause.findings:
        connection.execute(
            update(findings)
            .where(
                findings.c.device == device,
                findings.c.incarnation == incarnation,
                findings.c.seq == seq,
                findings.c.incident.is_distinct_from(incident),
            )
            .values(incident=incident)
        )


def _onset(row: Any, part: Affected) -> int:
    # A device that had cleared begins anew.
    return part.onset_ms if row is None or row.cleared_ms is not None else min(part.onset_ms, row.onset_ms)


def _differs(row: Any, part: Affected) -> bool:
    return row.cleared_ms is not None or row.onset_ms > part.onset_ms


def _clear_others(connection: Connection, incident: str, holding: set[str], now_ms: int) -> None:
    """Devices on which nothing stands any more have cleared."""
    standing = (
        connection.execute(
            select(incident_devices.c.device).where(
                incident_devices.c.incident == incident, incident_devices.c.cleared_ms.is_(None)
            )
        )
        .scalars()
        .all()
    )
    for device in set(standing) - holding:
        connection.execute(
            update(incident_devices)
            .where(incident_devices.c.incident == incident, incident_devices.c.device == device)
            .values(cleared_ms=now_ms)
        )
